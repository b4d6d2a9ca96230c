"""What an attribution is: the scores of all connections, what is known of them, and a file to keep them in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .batches import Text
from .data import one_of, whole

MEASURES = ("difference", "completeness", "error", "evaluations")  # one number a layer


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """The attribution of one decision to every attention connection of the model that made it.

    ``scores[l, h, i, j]`` is what token i (the query) attending to token j (the key) in head h of layer l contributed to F;
    the scores of a layer sum to ``difference[l]``, what F would lose if nothing in that layer attended to anything.

    Where layers are of different kinds (an encoder and a decoder), entries beyond the tokens of a layer are zero: see `of_kind`.
    """

    scores: Float[Tensor, "L H N K"]  #: Attr_h(A), connection by connection
    attention: Float[Tensor, "L H N K"]  #: A, for the same connections
    tokens: tuple[str, ...]  #: those that are read, and, but for a decoder's, those that read
    text: Text  #: a string, or a pair of them
    target: int | tuple[int, ...] | None  #: the output that F is made of (a class, a token, two tokens), or None (a function of them)
    label: str  #: its name (not the gold label)
    probabilities: Float[Tensor, " C"] | None  #: the model's own map of all classes; None where it has none
    difference: Float[Tensor, " _L"]  #: F(A) - F(0), layer by layer
    completeness: Float[Tensor, " _L"]  #: how far the sum of scores is from the difference, in units of F
    error: Float[Tensor, " _L"]  #: estimated relative error of the layer's scores, Frobenius norm
    evaluations: Int[Tensor, " _L"]  #: gradients computed
    method: str  #: the rule of the integral
    tolerance: float  #: the relative error that each layer's scores may have
    quantity: str = "probability"  #: what F is
    value: float | None = None  #: F of the whole model; if None, the probability of the target
    causes: tuple[str, ...] = ()  #: why the path says little of this decision, where it can be told
    layers: tuple[int, ...] = ()  #: of each layer, its number in its stack; if none, from 0 up
    kinds: tuple[str, ...] = ()  #: "encoder", "decoder" or "cross" for each layer; if none, all are of one kind
    decoder_tokens: tuple[str, ...] = ()  #: the queries of the decoder and cross layers of an encoder-decoder
    heads: tuple[int, ...] = ()  #: the heads whose scores were kept; if none, all
    words: tuple[str, ...] = ()  #: of the text, and its special tokens
    word_of: tuple[int, ...] = ()  #: of each token, the number of its word
    offsets: tuple[tuple[int, int] | None, ...] = ()  #: of each token, where it stands in its part of the text
    rounding: float = 0.0  #: the part of each error that the model's precision makes, whatever the rule

    @property
    def certified(self) -> bool:
        """Whether each layer's estimated error and completeness are within the tolerance, and no cause is known to doubt the path."""
        return not self.causes and bool(within(self.error, self.completeness, self.difference, self.tolerance).all())

    @property
    def amount(self) -> str:
        """F in words, of a class ``"p = 0.983"``."""
        value = self.value if self.value is not None or self.probabilities is None else float(self.probabilities[self.target])
        return f"{'p' if self.quantity == 'probability' else self.quantity} = {value:.3f}"

    def __repr__(self) -> str:
        layers, heads, *_ = self.scores.shape
        verdict = "certified" if self.certified else "NOT certified"
        return f"Attribution({self.label!r}, {self.quantity}, {layers} layers, {heads} heads, {len(self.tokens)} tokens, {verdict})"

    def strongest(self, count: int = 20, over: str = "none") -> pandas.DataFrame:
        """The largest connections, one a row: ``layer``, ``head``, ``query``, ``key``, ``score``. As `strongest_connections`."""
        return strongest_connections(self.scores, count, over)

    def to_pandas(self) -> pandas.DataFrame:
        """All connections, as `strongest` gives them, and the names of their tokens: ``query_token`` and ``key_token``."""
        return self.named(self.strongest(self.scores.numel()))

    def named(self, found: pandas.DataFrame) -> pandas.DataFrame:
        """Some connections, as `strongest` gives them, and the names of their tokens."""
        sides = [self.sides(kind) for kind in self.kinds or ("encoder",) * len(self.scores)]
        places = found[["layer", "query", "key"]].itertuples(index=False)
        pairs = [(sides[layer][0][query], sides[layer][1][key]) for layer, query, key in places]
        return found.assign(query_token=[query for query, _ in pairs], key_token=[key for _, key in pairs])

    def sides(self, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tokens that attend in layers of a kind, and those that they attend to."""
        queries = self.tokens if kind == "encoder" or not self.decoder_tokens else self.decoder_tokens
        return queries, queries if kind == "decoder" else self.tokens

    def of_kind(self, kind: str) -> Attribution:
        """The layers of one kind, ``"encoder"``, ``"decoder"`` or ``"cross"``, and their tokens; ``ValueError`` if there are none."""
        one_of("kind of layers", kind, dict.fromkeys(self.kinds))
        at = [layer for layer, one in enumerate(self.kinds) if one == kind]
        queries, keys = self.sides(kind)
        size = (at, slice(None), slice(len(queries)), slice(len(keys)))
        parts: dict[str, Any] = {name: getattr(self, name)[at] for name in MEASURES}
        parts |= {"kinds": (kind,) * len(at), "layers": tuple(self.layers[layer] for layer in at), "tokens": keys}
        if keys is not self.tokens:  # words are those of the other text
            parts |= dict.fromkeys(("words", "word_of", "offsets"), ())
        if kind != "cross":
            parts["decoder_tokens"] = ()
        return replace(self, scores=self.scores[size], attention=self.attention[size], **parts)

    def by_word(self) -> Attribution:
        """The same attribution among words: scores summed over word pieces; attention summed over keys, its mean over queries.

        Raises ``ValueError`` where words are not known, or tokens were replaced since.
        """
        one_text(self)
        if len(self.word_of) != len(self.tokens) or self.scores.shape[2:] != (len(self.tokens),) * 2:
            found = f"{len(self.tokens)} tokens, and words of {len(self.word_of)}"
            raise ValueError(f"{found}: expected what `attribute` gave for a text, by a tokenizer that `is_fast`")
        member = torch.nn.functional.one_hot(torch.tensor(self.word_of)).to(self.scores)
        spans = [[span for span, word in zip(self.offsets, self.word_of, strict=True) if word == n] for n in range(len(self.words))]
        return replace(
            self,
            scores=member.T @ self.scores @ member,
            attention=(member / member.sum(0)).T @ self.attention @ member,
            tokens=self.words,
            word_of=tuple(range(len(self.words))),
            offsets=tuple((first[0], last[1]) if first and last else None for first, *_, last in ([*one, one[-1]] for one in spans)),
        )

    def save(self, path: str | Path, half: bool = False) -> None:
        """Write to one safetensors file. As `save`, of one."""
        save(self, path, half)

    @staticmethod
    def load(path: str | Path) -> Any:
        """Read what `save` wrote: an Attribution, or the list of them. Raises ``OSError`` if it is missing, damaged or something else."""
        try:
            with safe_open(str(path), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                kept = file.metadata() or {}
            if kept.get("sha256") != checksum(tensors, kept.get("attributions", "")):
                raise ValueError("its checksum is not that of its content")
            told = json.loads(kept["attributions"])
            parts = [{name: untold(part) for name, part in rest.items()} for rest in told["parts"]]
            for name, part in tensors.items():
                number, _, name = name.partition(".")
                parts[int(number)][name] = part.float() if part.dtype == torch.float16 else part
            found = [Attribution(**of_one) for of_one in parts]
            for att in found:
                check_fit(att)
            return found if told["many"] else found[0]
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise OSError(f"{path} is not a saved Attribution, or is damaged: {error}") from error

    def _repr_html_(self) -> str:
        from .display import attribution_html

        return attribution_html(self)


def chained(att: Attribution) -> Attribution:
    """The attribution itself; a ``ValueError`` unless all layers and heads are there, and each layer reads what the one below wrote."""
    fits = len(att.layers) == len(att.scores)  # else it was put together by hand
    if fits and (att.heads or att.layers != tuple(range(len(att.layers))) or {*att.kinds} not in ({"encoder"}, {"decoder"})):
        found = ", ".join(f"{kind} {number}" for kind, number in zip(att.kinds, att.layers, strict=True))
        expected = "all heads of layers of one kind, from 0 up, each of which reads the one below: att.of_kind('encoder'), for one"
        raise ValueError(f"the layers {found}{f' and the heads {list(att.heads)}' if att.heads else ''}: expected {expected}")
    return att


def one_text(att: Attribution) -> Attribution:
    """The attribution itself; a ``ValueError`` if its layers are among the tokens of two texts, an encoder's and a decoder's."""
    if att.decoder_tokens:
        raise ValueError(f"layers among the tokens of an encoder and of a decoder: expected one kind, as att.of_kind({att.kinds[0]!r})")
    return att


def save(atts: Attribution | Sequence[Attribution], path: str | Path, half: bool = False) -> None:
    """Write one attribution, or a list of them, to one safetensors file: tensors as such, the rest and a checksum as its metadata.

    With ``half``, scores and attention in float16: half the size, three digits; each score is off by at most 2⁻¹¹ of itself, or 2⁻²⁵.

    Raises ``OSError`` if the file cannot be written; one that was there stays as it was. ``TypeError`` for what is no attribution.
    """
    found = [atts] if isinstance(atts, Attribution) else list(atts)
    for att in found:
        if not isinstance(att, Attribution):
            raise TypeError(f"{att!r:.60} is no Attribution: expected one, or a list of them, as attattr.attribute gives")
    tensors: dict[str, Tensor] = {}
    rest = []
    for number, att in enumerate(found):
        kept = {name: part.cpu().clone().contiguous() for name, part in vars(att).items() if isinstance(part, Tensor)}
        kept |= {name: kept[name].half() for name in ("scores", "attention") if half}
        tensors |= {f"{number}.{name}": part for name, part in kept.items()}
        rest.append({name: part for name, part in vars(att).items() if not isinstance(part, Tensor)})
    told = json.dumps({"many": not isinstance(atts, Attribution), "parts": rest})
    with whole(Path(path)) as aside:
        save_file(tensors, str(aside), metadata={"attributions": told, "sha256": checksum(tensors, told)})


def checksum(tensors: Mapping[str, Tensor], told: str) -> str:
    """One name for all that a file holds."""
    found = sha256(told.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def untold(part: Any) -> Any:
    """What JSON made lists of, as the tuples that they were."""
    return tuple(map(untold, part)) if isinstance(part, list) else part


def check_fit(att: Attribution) -> None:
    """Raise ``ValueError`` unless the parts of an attribution are of the types and sizes that they should be."""
    layers = len(att.scores)
    sizes = [att.scores.ndim == 4, att.attention.shape == att.scores.shape, len(att.tokens) == att.scores.shape[3]]
    sizes += [getattr(att, name).shape == (layers,) for name in MEASURES]
    parts = att.text if isinstance(att.text, tuple) else (att.text,)
    texts = [*att.tokens, *parts, att.label, att.method, att.quantity, *att.causes, *att.kinds, *att.decoder_tokens, *att.words]
    kept = [len(names) in (0, layers) for names in (att.layers, att.kinds)]
    if not all(sizes + kept) or not all(isinstance(one, str) for one in texts) or not isinstance(att.tolerance, float):
        raise ValueError("its parts are not those of an Attribution, or do not fit each other")


def strongest_connections(values: Float[Tensor, "L H N N"], count: int, over: str = "none") -> pandas.DataFrame:
    """The largest of some values of connections, the largest first, of equals the first: a row for each.

    Args:
        values: scores, or attention weights.
        count: how many rows at most, at least 1.
        over: ``"none"``: a connection is one of one head. ``"heads"``: the heads of a layer summed, ordered by size, with the head that
            gives most and its own value, ``head_score``. ``"all"``: for two tokens the largest in any layer and head, if above 0.

    Raises:
        ValueError: a count below 1, another ``over``, values that are not finite (-inf: never taken).
    """
    if count < 1 or over not in ("none", "heads", "all"):
        raise ValueError(f"count={count}, over={over!r}: expected at least 1 connection, over 'none', 'heads' or 'all'")
    if values.isnan().any():
        raise ValueError("values that are not numbers: expected finite ones")
    ranked = values.sum(1, keepdim=True) if over == "heads" else values
    size = ranked.abs() if over == "heads" else ranked
    order = size.flatten().argsort(descending=True, stable=True)
    layer, head, query, key = np.unravel_index(order.numpy(), tuple(ranked.shape))
    found = pandas.DataFrame({"layer": layer, "head": head, "query": query, "key": key, "score": ranked.flatten()[order].numpy()})
    if over == "all":
        found = found[found.score > 0].drop_duplicates(["query", "key"])
    found = found[np.isfinite(found.score)].head(count).reset_index(drop=True)
    if over == "heads":
        of_heads = values.numpy()[found["layer"], :, found["query"], found["key"]]
        found["head"] = (of_heads * np.sign(found[["score"]].to_numpy())).argmax(1)
        found["head_score"] = np.take_along_axis(of_heads, found[["head"]].to_numpy(), 1)[:, 0]
    return found


def within(error: Tensor, completeness: Tensor, difference: Tensor, tolerance: float) -> Tensor:
    """Whether a layer is settled: both measures of its error are within the tolerance."""
    return (error <= tolerance) & (completeness <= tolerance * difference.abs().clamp_min(1e-2))
