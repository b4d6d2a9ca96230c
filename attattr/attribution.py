"""Self-attention attribution (Hao et al., AAAI 2021, Eq. 4), exact to a tolerance that it checks itself.

For one layer the paper attributes the decision F to the attention matrix A along the straight path from 0 to A:

    Attr_h(A) = A_h ⊙ ∫₀¹ ∂F(αA)/∂A_h dα.

Scaling all of A by α scales the context c_h = A_h V_h by α and changes nothing else below, and ∂F/∂A_h = (∂F/∂c_h) V_hᵀ.
So we integrate the gradient of the contexts, N × d numbers a head, and form the N × N scores once:

    Attr_h(A) = A_h ⊙ (Ḡ_h V_hᵀ),     Ḡ_h = ∫₀¹ ∂F/∂c_h (αc) dα.

F is the softmax probability of the class attributed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from .batches import Batch, Model, Text, Tokenizer, batches, check_texts
from .decision import class_names, decision_value, target_classes
from .quadrature import Rule, rules_of
from .tap import Recording, record, replay, widened

TOKENS_PER_PASS = 4096  # of all branches together: what fits a laptop's memory and keeps its cores busy


@dataclass(frozen=True)
class Attribution:
    """The attribution of one decision to every attention connection of the model that made it.

    ``scores[l, h, i, j]`` is what token i (the query) attending to token j (the key) in head h of layer l contributed to
    the probability of class ``target``; the scores of a layer sum to ``difference[l]``, what the probability would lose
    if nothing in that layer attended to anything.
    """

    scores: Float[Tensor, "L H N N"]
    attention: Float[Tensor, "L H N N"]
    tokens: tuple[str, ...]
    text: Text
    target: int  # the class attributed
    label: str  # its name (not the gold label)
    probabilities: Float[Tensor, " C"]
    difference: Float[Tensor, " _L"]  # F(A) - F(0), layer by layer
    completeness: Float[Tensor, " _L"]  # |sum of scores - difference|, in probability
    error: Float[Tensor, " _L"]  # estimated relative error of the layer's scores, Frobenius norm
    evaluations: Int[Tensor, " _L"]  # gradients computed
    method: str
    tolerance: float

    @property
    def certified(self) -> bool:
        """Whether every layer's estimated error, and its completeness, are within the tolerance."""
        return bool(within(self.error, self.completeness, self.difference, self.tolerance).all())

    def strongest(self, count: int = 20, over: str = "none") -> pandas.DataFrame:
        """The largest connections, one a row: ``layer``, ``head``, ``query``, ``key``, ``score``. As `strongest_connections`."""
        return strongest_connections(self.scores, count, over)

    def save(self, path: str | Path) -> None:
        """Write to one safetensors file: the tensors as such, the rest as its metadata."""
        from safetensors.torch import save_file

        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: part.contiguous() for name, part in parts.items() if isinstance(part, Tensor)}
        rest = {name: json.dumps(part) for name, part in parts.items() if not isinstance(part, Tensor)}
        save_file(tensors, str(path), metadata=rest)

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Read what `save` wrote. Raises ``OSError`` if the file is missing, damaged or holds something else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                parts: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                parts |= {name: json.loads(part) for name, part in (file.metadata() or {}).items() if name != "format"}
                parts = {name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()}  # JSON knows no tuples
                return cls(**parts)
        except (SafetensorError, json.JSONDecodeError, TypeError) as error:
            raise OSError(f"{path} is not a saved Attribution, or is damaged: {error}") from error

    def _repr_html_(self) -> str:
        from .display import attribution_html

        return attribution_html(self)


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


@overload
def attribute(model: Model, tokenizer: Tokenizer, text: Text, *options: Any, **more: Any) -> Attribution: ...
@overload
def attribute(model: Model, tokenizer: Tokenizer, text: list, *options: Any, **more: Any) -> list[Attribution]: ...
def attribute(
    model: Model,
    tokenizer: Tokenizer,
    text: Text | list,
    target: str | int = "predicted",
    method: str = "gauss-legendre",
    steps: int | str = "auto",
    tolerance: float = 1e-2,
    progress: bool = False,
) -> Attribution | list[Attribution]:
    """Attribute a decision of ``model`` to the attention connections of every layer: Eq. 4 of Hao et al. (2021).

    Args:
        model: a sequence classifier of transformers whose attention goes through its attention interface. It is left
            exactly as it was, also after an error.
        tokenizer: the model's own.
        text: a string, a pair of strings (a tuple), or a list of either.
        target: the class attributed: ``"predicted"``, a class id, or a class name of ``model.config.id2label``.
        method: the rule for the integral: ``"gauss-legendre"``, ``"riemann"`` (right sums, as printed in the paper), or
            ``"riemann-left"`` (the authors' code).
        steps: gradients for each layer and text, or ``"auto"`` (Gauss-Legendre only): as many as that layer of that text
            needs for the tolerance.
        tolerance: for ``"auto"``, the relative error (Frobenius norm) that each layer's scores may have.
        progress: show a progress bar over the texts.

    Returns:
        One `Attribution`, or a list of them in the order of the texts.

    Raises:
        TypeError: text that is not text, or a model whose attention cannot be tapped.
        ValueError: empty or too long text, an unknown target, method or number of steps, logits that are not finite.

    Warns:
        UserWarning: the tolerance could not be met; ``error`` and ``completeness`` say by how much.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> att = attattr.attribute(model, tokenizer, "a warm and funny film .")
    >>> att.label, att.tokens[2:6], att.certified
    ('positive', ('warm', 'and', 'funny', 'film'), True)
    """
    texts, many = check_texts(text)
    rules = rules_of(method, steps)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r}: expected a number between 0 and 1")
    given = batches(model, tokenizer, texts, TOKENS_PER_PASS // 16)
    found = attribute_batches(model, given, texts, target, rules, tolerance, progress)
    return found if many else found[0]


def attribute_batches(
    model: Model,
    given: Sequence[Batch],
    texts: Sequence[Text],
    target: str | int,
    rules: Sequence[Rule],
    tolerance: float,
    progress: bool = False,
) -> list[Attribution]:
    """The `Attribution` of every text of some batches, in the order of the texts; warns of those that the last rule does not certify."""
    results: dict[int, Attribution] = {}
    # Tensors made in inference mode can never take part in a gradient, so leave it if the caller is in it.
    with tqdm(total=len(texts), desc="attribute", unit="text", disable=not progress) as bar, torch.inference_mode(False):
        for batch in given:
            found = attribute_batch(model, batch, [texts[i] for i in batch.index], target, rules, tolerance)
            results |= dict(zip(batch.index, found, strict=True))
            bar.update(len(batch.index))
    failed = [results[i] for i in range(len(texts)) if not results[i].certified]
    if failed and len(rules) > 1:
        worst = max(float(a.error.max()) for a in failed)
        warnings.warn(
            f"{len(failed)} of {len(texts)} attributions did not meet tolerance={tolerance}: the largest estimated relative error "
            f"is {worst:.2g}, first for {str(failed[0].text)[:60]!r}; look at .error and .completeness, or pass a larger tolerance",
            stacklevel=3,
        )
    return [results[i] for i in range(len(texts))]


def attribute_batch(
    model: Model, batch: Batch, texts: Sequence[Text], target: str | int, rules: Sequence[Rule], tolerance: float
) -> list[Attribution]:
    """The `Attribution` of every text of one batch."""
    recording, names = record(model, batch.inputs), class_names(model)
    targets = target_classes(target, names, recording.logits)
    outcome = integrate(model, recording, targets, rules, tolerance)
    found = []
    for b, length in enumerate(batch.lengths):
        real = (..., slice(length), slice(length))  # padding is on the right, and its connections carry no attribution
        measured = {name: of_batch[b].cpu() for name, of_batch in outcome.items()}
        found.append(
            Attribution(
                **measured | {"scores": measured["scores"][real].clone()},
                attention=torch.stack([a[b][real] for a in recording.attention]).float().cpu(),
                tokens=batch.tokens[b],
                text=texts[b],
                target=int(targets[b]),
                label=names[int(targets[b])],
                probabilities=recording.logits[b].double().softmax(-1).float().cpu(),
                method=rules[0].method,
                tolerance=tolerance,
            )
        )
    return found


def integrate(
    model: Model, recording: Recording, targets: Int[Tensor, " B"], rules: Sequence[Rule], tolerance: float = 0.0
) -> dict[str, Tensor]:
    """Eq. 4 for every example and layer of a recording, with one rule after the other until the error is within the tolerance.

    Returns the scores, "B L H N N", and what is known of them, "B L": the parts of an `Attribution` by their names.
    """
    examples, layers = len(targets), len(recording.context)
    difference = zero_attention_difference(model, recording, targets)
    scores = torch.zeros(examples, layers, *recording.attention[0].shape[1:], device=targets.device, dtype=difference.dtype)
    error = torch.full((examples, layers), torch.inf, device=targets.device)
    evaluations = torch.zeros(examples, layers, dtype=torch.long, device=targets.device)
    unsettled = torch.ones(examples, layers, dtype=torch.bool, device=targets.device)
    rounding = 8 * torch.finfo(recording.logits.dtype).eps  # no rule is more exact than the numbers it adds up
    for number, current in enumerate(rules):
        layer, example = unsettled.T.nonzero(as_tuple=True)
        mean_gradient = path_integrals(model, recording, targets, example, layer, current)
        for p, (b, k) in enumerate(zip(example.tolist(), layer.tolist(), strict=True)):
            attention, value = widened(recording.attention[k][b]), widened(recording.value[k][b])
            new, *weaker = (attention * torch.einsum("nhd,hkd->hnk", g, value) for g in mean_gradient[:, p])
            estimate = current.error([float((new - other).norm()) for other in weaker])
            if number:  # the rule before had fewer nodes: its distance is a second estimate, and never too small for long
                estimate = min(estimate, float((new - scores[b, k]).norm()))
            scores[b, k], evaluations[b, k] = new, evaluations[b, k] + len(current.nodes)
            error[b, k] = estimate / new.norm().clamp_min(1e-30) + rounding
        completeness = (scores.sum((2, 3, 4)) - difference).abs()
        unsettled &= ~within(error, completeness, difference, tolerance)
        if not unsettled.any():
            break
    measured = {"difference": difference, "completeness": completeness, "error": error, "evaluations": evaluations}
    return measured | {"scores": scores}


def path_integrals(
    model: Model, recording: Recording, targets: Tensor, example: Tensor, layer: Tensor, current: Rule
) -> Float[Tensor, "W P N H d"]:
    """Ḡ = Σ_k w_k ∂F/∂c(α_k c) for P pairs of example and layer, once for each of the rule's W sets of weights."""
    weights = current.weights.to(widened(recording.logits))
    total = weights.new_zeros(len(weights), len(example), *recording.context[0].shape[1:])
    steps = len(current.nodes)
    pair = torch.arange(len(example), device=weights.device).repeat_interleave(steps)
    node = torch.arange(steps, device=weights.device).repeat(len(example))
    rows = max(1, TOKENS_PER_PASS // recording.context[0].shape[1])
    for chunk in torch.arange(len(pair), device=weights.device).split(rows):
        p, k = pair[chunk], node[chunk]
        with torch.enable_grad():
            logits, leaves = replay(model, recording, example[p], layer[p], current.nodes.to(weights)[k])
            decided = decision_value(logits, targets[example[p]])
            gradients = torch.autograd.grad(decided.sum(), [leaf for leaf in leaves if len(leaf)])
        gradient = torch.cat([g.to(weights.dtype) for g in gradients])
        total.index_add_(1, p, weights[:, k, None, None, None] * gradient)
    return total


def zero_attention_difference(model: Model, recording: Recording, targets: Int[Tensor, " B"]) -> Float[Tensor, "B L"]:
    """F(A) - F(0) for every example and layer: what the target's probability loses when a layer's contexts are zero."""
    examples, layers = len(targets), len(recording.context)
    example = torch.arange(examples, device=targets.device).repeat(layers)
    layer = torch.arange(layers, device=targets.device).repeat_interleave(examples)
    with torch.no_grad():
        logits, _ = replay(model, recording, example, layer, torch.zeros(len(layer), device=targets.device))
    without = decision_value(logits, targets[example]).reshape(layers, examples).T
    return (decision_value(recording.logits, targets)[:, None] - without).to(widened(recording.logits))


def within(error: Tensor, completeness: Tensor, difference: Tensor, tolerance: float) -> Tensor:
    """Whether a layer is settled: both measures of its error are within the tolerance."""
    return (error <= tolerance) & (completeness <= tolerance * difference.abs().clamp_min(1e-2))
