"""Self-attention attribution (Hao et al., AAAI 2021, Eq. 4), exact to a tolerance that it checks itself.

For one layer the paper attributes the decision F to the attention matrix A along the straight path from 0 to A:

    Attr_h(A) = A_h ⊙ ∫₀¹ ∂F(αA)/∂A_h dα.

Scaling all of A by α scales the context c_h = A_h V_h by α and changes nothing else below, and ∂F/∂A_h = (∂F/∂c_h) V_hᵀ.
So we integrate the gradient of the contexts, N × d numbers a head, and form the N × N scores once:

    Attr_h(A) = A_h ⊙ (Ḡ_h V_hᵀ),     Ḡ_h = ∫₀¹ ∂F/∂c_h (αc) dα.

F is one number of the outputs, of a classifier the softmax probability of one class: see `attattr.decision`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from .batches import Batch, Model, Text, Tokenizer, batches, check_texts, readable, shortened, words_of
from .connections import MEASURES, Attribution, within
from .decision import Map, decide, decision_value, read, softmax
from .model import alike, check_parameters, routes
from .quadrature import Rule, rules_of
from .tap import GRADIENT_SCALE, Recording, end_gradients, record, replay, rows_of, widened

TOKENS_PER_PASS = 4096  # of all branches together: what fits a laptop's memory and keeps its cores busy
LOGITS_PER_TOKEN = 8192  # of a language model: as many take the room of one token of a layer
EARLY = 0.05  # where on the path F should not be what it is at its end
GIB = 2**30


@overload
def attribute(model: Model, tokenizer: Tokenizer, text: Text, *options: Any, **more: Any) -> Attribution: ...
@overload
def attribute(model: Model, tokenizer: Tokenizer, text: Any, *options: Any, **more: Any) -> list[Attribution]: ...
def attribute(
    model: Model,
    tokenizer: Tokenizer,
    text: Any,
    target: Any = "predicted",
    method: str | None = None,
    steps: int | str = "auto",
    tolerance: float = 1e-2,
    layers: Any = None,
    heads: Any = None,
    memory: float | None = None,
    columns: str | Sequence[str] | None = None,
    truncation: bool = False,
    progress: bool = False,
) -> Attribution | list[Attribution]:
    """Attribute a decision of ``model`` to the attention connections of every layer: Eq. 4 of Hao et al. (2021).

    Args:
        model: a classifier or a language model of transformers, or any model that takes what the tokenizer gives. It is left exactly
            as it was, also after an error.
        tokenizer: the model's own.
        text: a string, a pair of strings (a tuple), or many: a list, a Series, an array, a generator, a table (see `texts_of`).
        target: what F is of: ``"predicted"``, a class id or name; for a language model a token, or a tuple of two, whose logits'
            difference it is; a list: one for each text; or a function of your own, ``target(outputs, example) -> Float["R"]``, one number
            for each row of the model's outputs; ``example`` has ``tokens``, ``length``, and ``padding``.
        method: the rule for the integral; None: for ``"auto"`` nested Clenshaw-Curtis rules, for a number of steps
            ``"gauss-legendre"``. Or ``"clenshaw-curtis"``, ``"riemann"`` (right sums, as printed in the paper), ``"riemann-left"``
            (the authors' code), with a number of steps.
        steps: nodes of the rule, or ``"auto"``: as many as that layer of that text needs for the tolerance.
        tolerance: for ``"auto"``, the relative error (Frobenius norm) that each layer's scores may have.
        layers, heads: which to explain, and which to keep the scores of, counted from 0; None: all. Long texts have large matrices.
        memory: how many GiB may be taken for it, beside the model and the results; None: what the machine can spare, at most 2.
        columns: of a table, the one or two that hold the text.
        truncation: shorten a text that is too long for the model (``text`` of the result is what is left), instead of refusing it.
        progress: show a progress bar over the texts.

    Returns:
        One `Attribution`, or a list of them in the order of the texts.

    Raises:
        TypeError: text that is not text, or a model whose attention cannot be tapped.
        ValueError: empty or too long text, an unknown target, method or number of steps, logits that are not finite, too little memory.

    Warns:
        UserWarning: the tolerance could not be met, or the path says little; ``error``, ``completeness`` and ``causes`` tell.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> att = attattr.attribute(model, tokenizer, "a warm and funny film .")
    >>> att.label, att.tokens[2:6], att.certified
    ('positive', ('warm', 'and', 'funny', 'film'), True)
    """
    options = Options(rules_of(method, steps), tolerance, layers, heads, memory)
    texts, many = check_texts(text, columns)
    texts = shortened(model, tokenizer, texts) if truncation else texts
    alone = (
        any(map(callable, target if isinstance(target, list) else [target]))
        or getattr(model, "get_output_embeddings", lambda: None)() is not None
    )  # a vocabulary of numbers for each
    given = batches(model, tokenizer, texts, 1 if alone else TOKENS_PER_PASS // 16)
    found = attribute_batches(model, tokenizer, given, texts, target, options, progress)
    found = [replace(att, **words_of(tokenizer, att.text, att.tokens)) for att in found]
    return found if many else found[0]


def attribute_inputs(
    model: nn.Module,
    inputs: Mapping[str, Any],
    target: Any = "predicted",
    tokens: Sequence[str] | Sequence[Sequence[str]] | None = None,
    method: str | None = None,
    steps: int | str = "auto",
    tolerance: float = 1e-2,
    layers: Any = None,
    heads: Any = None,
    memory: float | None = None,
    progress: bool = False,
) -> Attribution | list[Attribution]:
    """`attribute` for any model and what it takes: tensors of token ids, of pixels, or anything else, one row for each example.

    Args:
        model: any module that attends, called with ``inputs`` by name.
        inputs: tensors with one row an example; anything else goes to the model as it is. Where an ``attention_mask`` is 0, there is no
            token.
        target, method, steps, tolerance, layers, heads, memory, progress: as for `attribute`; a token is given by its id.
        tokens: names of the tokens (without padding) of the one example, or a list of them for each; None: their numbers.

    Returns:
        One `Attribution` for one example, or a list of them.

    Raises:
        TypeError, ValueError: as `attribute`; inputs without tensors, or with other numbers of rows; tokens that are not those attended to.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> attribute_inputs(model, tokenizer("a warm film .", return_tensors="pt"), target="positive").label
    'positive'
    """
    check_parameters(model)
    options = Options(rules_of(method, steps), tolerance, layers, heads, memory)
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs of type {type(inputs).__name__}: expected tensors by name, with a row for each example")
    counts = {name: len(given) for name, given in inputs.items() if isinstance(given, Tensor) and given.ndim}
    rows = next(iter(counts.values()), 0)
    if not rows:
        raise ValueError(f"inputs {list(inputs)}: expected tensors by name, with a row for each example")
    if {counts.get("attention_mask", rows), counts.get("input_ids", rows)} != {rows}:
        raise ValueError(f"inputs with rows {counts}: expected an attention_mask with a row for each example")
    names: list[Any] = [None] * rows if tokens is None else [tokens] if all(isinstance(one, str) for one in tokens) else list(tokens)
    if len(names) != rows:
        raise ValueError(f"tokens of {len(names)} examples for {rows} rows of {counts}: expected a list of tokens for each row")
    given = [one_row(inputs, row, rows, of_row) for row, of_row in enumerate(names)]
    found = attribute_batches(model, None, given, [""] * rows, target, options, progress)
    return found if rows > 1 else found[0]


def one_row(inputs: Mapping[str, Any], row: int, rows: int, tokens: Sequence[str] | None) -> Batch:
    """One of some rows of inputs as a batch of its own; tokens are where its mask is not 0, or where it has ids."""
    one = {name: rows_of(part, torch.tensor([row]), rows) for name, part in inputs.items()}
    mask, ids = one.get("attention_mask"), one.get("input_ids")
    width = next((part.shape[1] for part in (mask, ids) if isinstance(part, Tensor) and part.ndim == 2), len(tokens or ()))
    real = mask[0].nonzero()[:, 0].tolist() if isinstance(mask, Tensor) and mask.ndim == 2 else list(range(width))
    if width and not real:
        raise ValueError(f"the attention_mask hides all tokens of row {row}: expected at least one")
    if tokens is not None and len(tokens) != len(real):
        raise ValueError(f"{len(tokens)} tokens for the {len(real)} of row {row}: expected a name for each that its mask does not hide")
    return Batch((row,), one, (tuple(tokens or map(str, real)),), (tuple(real),), width)


@dataclass(frozen=True)
class Options:
    """How attributions are computed: the rules to try, the tolerance, which layers, and which heads' scores are kept (None: all)."""

    rules: Sequence[Rule]
    tolerance: float
    layers: Any = None
    heads: Any = None
    memory: float | int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tolerance, int | float) or not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance!r}: expected a number between 0 and 1")
        if self.memory is not None and not (isinstance(self.memory, int | float) and self.memory > 0):
            raise ValueError(f"memory={self.memory!r}: expected a number of GiB above 0, or None")


def attribute_batches(
    model: nn.Module,
    tokenizer: Tokenizer | None,
    given: Sequence[Batch],
    texts: Sequence[Text],
    target: Any,
    options: Options,
    progress: bool = False,
) -> list[Attribution]:
    """The `Attribution` of every text of some batches, in the order of the texts; warns of those that the last rule does not certify."""
    target = target.tolist() if hasattr(target, "tolist") else target
    targets = target if isinstance(target, list) else [target] * len(texts)
    if len(targets) != len(texts):
        raise ValueError(f"{len(targets)} targets for {len(texts)} texts: expected one, or a list with one for each text")
    results: dict[int, Attribution] = {}
    # Tensors made in inference mode can never take part in a gradient, so leave it if the caller is in it.
    with tqdm(total=len(texts), desc="attribute", unit="text", disable=not progress) as bar, torch.inference_mode(False):
        for batch in given:
            found = attributions_of(model, tokenizer, batch, [texts[i] for i in batch.index], [targets[i] for i in batch.index], options)
            results |= dict(zip(batch.index, found, strict=True))
            bar.update(len(batch.index))
    failed = [results[i] for i in range(len(texts)) if not results[i].certified]
    if failed and len(options.rules) > 1:
        worst = max(float(a.error.max()) for a in failed)
        causes = dict.fromkeys(cause for att in failed for cause in att.causes)
        warnings.warn(
            f"{len(failed)} of {len(texts)} attributions did not meet tolerance={options.tolerance}: the largest estimated relative error "
            f"is {worst:.2g}, first for {str(failed[0].text)[:60]!r}; {'; '.join(causes) or 'no cause is known'}; "
            "look at .error and .completeness, or pass a larger tolerance",
            stacklevel=3,
        )
    return [results[i] for i in range(len(texts))]


def attributions_of(
    model: nn.Module, tokenizer: Tokenizer | None, batch: Batch, texts: Sequence[Text], targets: Sequence[Any], options: Options
) -> list[Attribution]:
    """The `Attribution` of every text of one batch."""
    recording = record(model, batch.inputs, partial(read, targets[0], batch.examples()), gradients=True)
    decision = decide(model, tokenizer, recording.outputs, recording.logits.detach(), targets)
    path = AttentionPath(model, recording, decision.targets, decision.own, options.memory)
    chosen = some_of("layers", options.layers, len(recording.context))
    kept = some_of("heads", options.heads, recording.attention[0].shape[1])
    outcome, rounding = integrate(path, options.rules, options.tolerance, chosen, kept), rounding_of(recording)
    everyone, early, difference = path.everyone(), outcome["early"], outcome["difference"]
    value = path.value(recording.logits.detach(), everyone)
    without = value[:, None].to(difference) - difference
    if callable(targets[0]):  # of a text alone: what it makes of a row must not come from other rows
        ((alone,),) = path.at(chosen[-1:], [everyone], [0.0], gradients=False)[0]
        if not alike(alone.to(without), without[:, -1]):
            raise ValueError(f"target {decision.labels[0]} gives a row what is of other rows: expected a number of each row by itself")
    if (stays := (early - 1).abs() < 0.1).any():
        soon = torch.cat(path.at(chosen, [everyone] * len(chosen), [EARLY], gradients=False)[0]).T.to(difference)
        early = torch.where(stays, farthest(torch.stack([early, (soon - without) / difference])), early)
    found = []
    for b in range(len(batch.index)):
        tokens, decoder_tokens, places = names_and_places(tokenizer, recording, batch, b, chosen)
        measured: dict[str, Any] = {name: outcome[name][b].cpu() for name in MEASURES}
        settled = bool(within(measured["error"], measured["completeness"], measured["difference"], options.tolerance).all())
        own = tuple(decision.targets[b].tolist())
        found.append(
            Attribution(
                **measured,
                scores=stacked(outcome["scores"][b].unbind(), places),
                attention=stacked([recording.attention[layer][b][kept].float() for layer in chosen], places),
                tokens=tokens,
                text=texts[b],
                target=None if callable(targets[b]) else own if len(own) > 1 else own[0],
                label=decision.labels[b],
                probabilities=None if decision.probabilities is None else decision.probabilities[b].float().cpu(),
                method=options.rules[0].method,
                tolerance=options.tolerance,
                quantity=decision.quantity,
                value=float(value[b]),
                causes=causes_of(model, measured["difference"], early[b].cpu(), settled, rounding, options.tolerance),
                rounding=rounding,
                layers=tuple(recording.numbers[layer] for layer in chosen),
                kinds=tuple(recording.kinds[layer] for layer in chosen),
                decoder_tokens=decoder_tokens,
                heads=() if options.heads is None else tuple(kept),
            )
        )
    return found


def some_of(name: str, asked: Any, count: int) -> list[int]:
    """Which of so many layers or heads are asked for, in their order; all for None."""
    found = range(count) if asked is None else list(asked) if np.ndim(asked) == 1 else []
    if not found or not all(isinstance(one, int | np.integer) and not isinstance(one, bool) and 0 <= one < count for one in found):
        raise ValueError(f"{name}={asked!r}: expected a list of some of 0 to {count - 1}, or None for all")
    return sorted({int(one) for one in found})


def stacked(matrices: Sequence[Float[Tensor, "H _N _K"]], places: Sequence[Sequence[list[int]]]) -> Float[Tensor, "L H N K"]:
    """The rows and columns of real tokens of a matrix for each layer; where layers differ in size, smaller ones end in zeros."""
    cut = [matrix[:, rows][:, :, columns].cpu() for matrix, (rows, columns) in zip(matrices, places, strict=True)]
    found = cut[0].new_zeros(len(cut), len(cut[0]), *(max(one.shape[side] for one in cut) for side in (1, 2)))
    for layer, one in enumerate(cut):
        found[layer, :, : one.shape[1], : one.shape[2]] = one
    return found


def names_and_places(
    tokenizer: Tokenizer | None, recording: Recording, batch: Batch, row: int, chosen: Sequence[int]
) -> tuple[tuple[str, ...], tuple[str, ...], list[Sequence[list[int]]]]:
    """The tokens of one text, those that its decoder was given, and where both stand in the matrices of each chosen layer."""
    sizes = [tuple(attention.shape[2:]) for attention in recording.attention]
    if batch.width and batch.width not in {size for pair in sizes for size in pair}:
        expected = "as many; a model with tokens of its own (prompt tuning) or with fewer (pooling) cannot be explained by these"
        raise ValueError(f"attention among {sizes[0][1]} tokens, and inputs of {batch.width}: expected {expected}")
    real = list(batch.places[row])
    places: list[Sequence[list[int]]] = [
        tuple(real if size == batch.width else list(range(size)) for size in sizes[layer]) for layer in chosen
    ]
    longest = max(len(columns) for _, columns in places)
    tokens = batch.tokens[row] if any(sizes[layer][1] == batch.width for layer in chosen) else tuple(map(str, range(longest)))
    own = [rows for (rows, _), layer in zip(places, chosen, strict=True) if recording.kinds[layer] == "cross"]
    if not own:
        return tokens, (), places
    ids = recording.decoder_ids[row].tolist() if recording.decoder_ids is not None else list(range(max(own[0]) + 1))
    known = tokenizer is not None and recording.decoder_ids is not None
    return tokens, tuple(readable(tokenizer, ids[place]) if known else str(ids[place]) for place in own[0]), places


def causes_of(
    model: nn.Module, difference: Float[Tensor, " L"], early: Float[Tensor, " L"], settled: bool, rounding: float, tolerance: float
) -> tuple[str, ...]:
    """Why the path says little of a decision, or why it was not settled, where that can be told."""
    moved = difference.abs() > 1e-2
    found = []
    if (((early - 1).abs() < 0.1) & moved).any():
        found.append(f"with α = {EARLY} F is where it is with α = 1, and stays there, as if a norm followed attention")
    if not difference.any():
        found.append("F is the same without any of the attention: it is saturated, or does not depend on it")
    if not settled and routes(model):
        found.append("experts are chosen by a router, so that F jumps along the path")
    if not settled and rounding > tolerance / 2:
        found.append(f"rounding of the model's numbers alone may make an error of {rounding:.2g}, which no rule lowers: use a wider dtype")
    return tuple(found)


def rounding_of(recording: Recording) -> float:
    """The relative error that rounding may make: no rule is more exact than the numbers it adds up."""
    # Measured on 12 texts of SST-2, 72 layers, against float32: in bfloat16 at most 4.6, in the median 1.9 units in the last place.
    return 8 * torch.finfo(recording.context[0].dtype).eps


@dataclass(frozen=True)
class AttentionPath:
    """F of some texts, and its gradients, where the contexts of a layer are αc: forward passes that leave a recorded one there."""

    model: nn.Module
    recording: Recording
    targets: Int[Tensor, " B"] | Int[Tensor, "B T"]
    own: Map = softmax
    memory: float | None = None  # GiB; None: see `room`

    def everyone(self) -> Int[Tensor, " B"]:
        """All texts."""
        return torch.arange(len(self.targets), device=self.targets.device)

    def value(self, logits: Float[Tensor, "R C"], example: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """F of rows that are of these texts."""
        return decision_value(logits, self.targets[example], self.own)

    def end(self) -> tuple[Float[Tensor, " B"], list[Float[Tensor, "B _N H _d"]]]:
        """F at α = 1, where all layers' paths meet, and the gradients there, by one backward pass; none of a recording without them."""
        value = self.value(self.recording.logits, self.everyone())
        return value.detach(), end_gradients(self.recording, value.sum()) if self.recording.probes else []

    def at(
        self, layers: Sequence[int], rows: Sequence[Int[Tensor, " _b"]], scales: Sequence[float], gradients: bool = True
    ) -> tuple[list[Float[Tensor, "S _b"]], list[Float[Tensor, "S _b _N H _d"] | None]]:
        """Of each layer, for its rows at some scales α: F, and ∂F/∂c at αc, or None if F has no gradient there."""
        device, counts = self.targets.device, [len(scales) * len(some) for some in rows]
        layer = torch.tensor(layers).repeat_interleave(torch.tensor(counts)).to(device)
        example = torch.cat([some.repeat(len(scales)) for some in rows])
        scale = torch.cat([torch.tensor(scales).repeat_interleave(len(some)) for some in rows]).to(device)
        values = []
        found: dict[int, list[Tensor]] = {number: [] for number in layers}
        for chunk in self.chunks(layer):
            with torch.set_grad_enabled(gradients):
                logits, leaves = replay(self.model, self.recording, example[chunk], layer[chunk], scale[chunk])
                value = self.value(logits, example[chunk])
            values.append(value.detach())
            used = {number: leaf for number, leaf in enumerate(leaves) if len(leaf) and value.requires_grad}
            slopes = torch.autograd.grad(value.sum() * GRADIENT_SCALE, list(used.values()), allow_unused=True) if used else ()
            for number, slope in zip(used, slopes, strict=True):
                found[number] += [] if slope is None else [widened(slope) / GRADIENT_SCALE]
        of_layers = [value.reshape(len(scales), -1) for value in torch.cat(values).split(counts)]
        return of_layers, [torch.cat(found[number]).unflatten(0, (len(scales), -1)) if found[number] else None for number in layers]

    def chunks(self, layer: Int[Tensor, " R"]) -> Iterator[Int[Tensor, " r"]]:
        """The branches in parts that fit the memory and, of a processor, the cache. Raises ``ValueError`` if none fits what was asked."""
        tokens = max(context.shape[1] for context in self.recording.context)
        vocabulary = getattr(self.recording.outputs, "logits", self.recording.logits)[0].numel() // LOGITS_PER_TOKEN
        saved, allowed = torch.tensor(self.recording.saved), room(layer.device, self.memory)
        if self.memory is not None and saved.max() > allowed:
            raise ValueError(f"memory={self.memory} GiB: expected at least {2 * int(saved.max()) / GIB:.2g} for a text of {tokens} tokens")
        share = (saved / allowed).clamp(min=max(tokens, vocabulary) / TOKENS_PER_PASS)[layer.cpu()]
        parts = (share.cumsum(0) - share).floor().unique_consecutive(return_counts=True)[1]
        yield from torch.arange(len(layer), device=layer.device).split(parts.tolist())

    def scores(
        self, layer: int, rows: Int[Tensor, " b"], weights: Float[Tensor, "W M"], gradients: Float[Tensor, "M b _N H _d"]
    ) -> Float[Tensor, "W b H _N _K"]:
        """A ⊙ (Ḡ Vᵀ) with Ḡ = Σ_k w_k ∂F/∂c(α_k c), once for each of some sets of weights."""
        attention, value = (widened(part[layer][rows]) for part in (self.recording.attention, self.recording.value))
        mean = torch.einsum("wm,mbnhd->wbnhd", weights.to(gradients), gradients)
        return attention * torch.einsum("wbnhd,bhkd->wbhnk", mean, value)


def room(device: torch.device, memory: float | None) -> float:
    """Bytes for the passes that run at once: half of the memory that may be taken, or else a quarter of what the machine has to spare."""
    if memory is not None:
        return memory * GIB / 2
    return torch.cuda.mem_get_info(device)[0] / 4 if device.type == "cuda" else min(float(GIB), psutil.virtual_memory().available / 4)


def integrate(
    path: AttentionPath, rules: Sequence[Rule], tolerance: float = 0.0, layers: Any = None, heads: Any = None
) -> dict[str, Tensor]:
    """Eq. 4 for every text and layer, with one rule after the other until the error is within the tolerance.

    No gradient is computed twice: a rule takes those that the rule before asked for, and of α = 1 those of the recording.

    Returns the scores, "B L H N K", and what is known of them, "B L": the parts of an `Attribution` by their names, and ``early``, the
    share of F(A) - F(0) that is reached at that node of the first rule where it is farthest from 1.
    """
    recording, everyone = path.recording, path.everyone()
    chosen = list(range(len(recording.context)) if layers is None else layers)
    kept = list(range(recording.attention[0].shape[1]) if heads is None else heads)
    whole, at_end = path.end()
    rows = [everyone] * len(chosen)  # of each layer, the texts that are not settled
    known: list[dict[float, Tensor]] = [{1.0: at_end[layer]} if at_end else {} for layer in chosen]  # their gradients, by α
    done = {*known[0]}
    sizes = [max(attention.shape[side] for attention in recording.attention) for side in (2, 3)]
    scores = widened(recording.context[0]).new_zeros(len(everyone), len(chosen), len(kept), *sizes)
    total, error = scores.new_zeros(scores.shape[:2]), scores.new_zeros(scores.shape[:2])
    evaluations = torch.zeros_like(total, dtype=torch.long)
    rounding = rounding_of(recording)
    for number, rule in enumerate(rules):
        nodes = rule.nodes.tolist()
        new = [scale for scale in nodes if scale not in done]
        done |= {*new}
        values, gradients = path.at(chosen, rows, new)
        if not number:
            starts = values if new[0] == 0 else path.at(chosen, rows, [0.0], gradients=False)[0]
            without = torch.stack([of_layer[0] for of_layer in starts], 1)
            shares = (torch.stack(values, 2) - without) / (whole[:, None] - without)
            early = farthest(torch.cat([torch.ones_like(shares[:1]), shares[int(new[0] == 0) :]])).to(scores)
            difference = (whole[:, None] - without).to(scores)
        for place, (layer, here, slopes) in enumerate(zip(chosen, rows, gradients, strict=True)):
            if slopes is None and (difference[here, place].abs() > 1e-3).any():
                raise TypeError(f"F of {type(path.model).__name__} has no gradient: expected layers that have one (int8 ones have not)")
            if slopes is None:
                continue
            known[place] |= dict(zip(new, slopes, strict=True))
            found = path.scores(layer, here, rule.weights, torch.stack([known[place][scale] for scale in nodes]))
            norms = found.flatten(2).norm(dim=2)
            scores[here, place, :, : found.shape[3], : found.shape[4]] = found[0][:, kept]
            total[here, place] = found[0].sum((1, 2, 3))
            error[here, place] = rule.error(norms[1:]).to(scores) / norms[0].clamp_min(1e-30)
            evaluations[here, place] += sum(0 < scale < 1 for scale in new)
        completeness = (total - difference).abs()
        noise = completeness <= rounding * whole.abs()[:, None].to(scores)
        settled = within(error + rounding, completeness.masked_fill(noise, 0.0), difference, max(tolerance, 1.25 * rounding))
        for place, here in enumerate(rows):
            left = ~settled[here, place]
            rows[place], known[place] = here[left], {scale: slopes[left] for scale, slopes in known[place].items()}
        if settled.all():
            break
    if not scores.isfinite().all():
        raise ValueError(f"scores of {type(path.model).__name__} that are not finite: check its weights for NaN")
    measured = {"difference": difference, "completeness": completeness, "error": error + rounding, "evaluations": evaluations}
    return measured | {"scores": scores, "early": early}


def farthest(shares: Float[Tensor, "S B L"]) -> Float[Tensor, "B L"]:
    """Of some shares of F(A) - F(0) the one that is farthest from all of it."""
    return shares.gather(0, (shares - 1).abs().argmax(0, keepdim=True))[0]
