"""Which heads matter, and what is left without them (Hao et al., §5.2, Eqs. 5 and 6, Fig. 5).

Importance is measured per example and averaged: the largest attribution score of the head (Eq. 5), what the loss would
change to first order without it (Eq. 6), whether the answer changes without it, or, as a rival, its largest attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from .attribution import integrate
from .data import texts
from .effectiveness import right_without
from .encoding import Batch, Text, batches, check_texts
from .quadrature import rule
from .tap import check_heads, context_gradients, gated, layers_and_heads, record

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METHODS = ("attribution", "taylor", "taylor-logits", "accuracy", "attention")
STEPS = 3  # of Gauss-Legendre: 2.5 % from the limit on 40 sentences, and the same order of the heads (Spearman 0.9997)
TOKENS_PER_PASS = 256
RATES = tuple(tenth / 10 for tenth in range(11))


def head_importance(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    method: str = "attribution",
    steps: int = STEPS,
    normalize: bool = False,
    return_per_example: bool = False,
    progress: bool = False,
) -> Any:
    """How much each head matters to the gold label, as a mean over examples.

    Args:
        model, tokenizer: as for `attattr.attribute`.
        rows: a Dataset of `attattr.examples`, with gold labels.
        method: ``"attribution"``: E_x[max Attr_h(A)] for the gold label (Eq. 5). ``"taylor"``: E_x|Σ_ij A_ij ∂loss/∂A_ij|
            (Eq. 6; equal to |Σ_i c_i · ∂loss/∂c_i|, so that one backward pass gives all heads). ``"taylor-logits"``:
            what the authors' code computes instead, E_x Σ_i |c_i · ∂S/∂c_i| with S the sum of all logits, which knows
            nothing of the classes. ``"accuracy"``: the share of examples right with all heads minus that without this one.
            ``"attention"``: E_x[max A_h].
        steps: Gauss-Legendre nodes for ``"attribution"``.
        normalize: divide each layer by its Euclidean norm, as the authors' code does for Taylor.
        return_per_example: also give the values before the mean (and before ``normalize``); their standard deviation over √B
            is the mean's standard error.
        progress: show a progress bar.

    Returns:
        Float["L H"]; with ``return_per_example``, that and Float["B L H"].

    Raises:
        ValueError: no rows, a label that the model does not have, an unknown method.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> rows = attattr.examples("sst2").select(range(4))
    >>> head_importance(model, tokenizer, rows).shape
    torch.Size([6, 12])
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {', '.join(map(repr, METHODS))}")
    # Tensors made in inference mode can never take part in a gradient, so leave it if the caller is in it.
    with torch.inference_mode(False):
        per_example = values_of_heads(model, tokenizer, *checked_rows(model, rows), method, steps, progress)
    importance = per_example.mean(0)
    if normalize:
        importance = importance / importance.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (importance, per_example) if return_per_example else importance


def values_of_heads(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    shown: Sequence[Text],
    labels: Sequence[int],
    method: str,
    steps: int,
    progress: bool,
) -> Float[Tensor, "B L H"]:
    """The value of every head for every text, by any method."""
    if method == "accuracy":
        return without_each_head(model, tokenizer, shown, labels, progress)
    per_example = torch.empty(len(shown), *layers_and_heads(model))
    with tqdm(total=len(shown), desc=f"importance by {method}", unit="text", disable=not progress) as bar:
        for batch in batches(model, tokenizer, shown, TOKENS_PER_PASS):
            gold = torch.tensor([labels[i] for i in batch.index], device=model.device)
            per_example[list(batch.index)] = MEASURES[method](model, batch, gold, steps).float().cpu()
            bar.update(len(batch.index))
    return per_example


def largest_scores(model: PreTrainedModel, batch: Batch, gold: Int[Tensor, " B"], steps: int) -> Float[Tensor, "B L H"]:
    """max Attr_h(A) for the gold label (Eq. 5)."""
    scores = integrate(model, record(model, batch.inputs), gold, [rule("gauss-legendre", steps)], 0.5).scores
    return torch.stack([of_text[..., :n, :n].amax((-2, -1)) for of_text, n in zip(scores, batch.lengths, strict=True)])


def first_order(model: PreTrainedModel, batch: Batch, gold: Int[Tensor, " B"], steps: int) -> Float[Tensor, "B L H"]:
    """|Σ_ij A_ij ∂loss/∂A_ij| = |Σ_i c_i · ∂loss/∂c_i| (Eq. 6). The sum of the losses gives each text its own gradient."""
    found = context_gradients(model, batch.inputs, lambda logits: torch.nn.functional.cross_entropy(logits, gold, reduction="sum"))
    return torch.stack([(context * gradient).sum((1, 3)).abs() for context, gradient in found], dim=1)


def first_order_of_logits(model: PreTrainedModel, batch: Batch, gold: Int[Tensor, " B"], steps: int) -> Float[Tensor, "B L H"]:
    """Σ_i |c_i · ∂S/∂c_i|, S the sum of the logits: the authors' released code, which reads the logits as if they were the loss."""
    found = context_gradients(model, batch.inputs, lambda logits: logits.sum())
    return torch.stack([(context * gradient).sum(3).abs().sum(1) for context, gradient in found], dim=1)


def largest_weights(model: PreTrainedModel, batch: Batch, gold: Int[Tensor, " B"], steps: int) -> Float[Tensor, "B L H"]:
    """max A_h, over the text's own tokens."""
    attention = record(model, batch.inputs).attention
    of_texts = [[of_layer[b, :, :n, :n].amax((-2, -1)) for of_layer in attention] for b, n in enumerate(batch.lengths)]
    return torch.stack([torch.stack(of_text) for of_text in of_texts])


MEASURES: dict[str, Callable[[Any, Batch, Tensor, int], Tensor]] = {
    "attribution": largest_scores,
    "taylor": first_order,
    "taylor-logits": first_order_of_logits,
    "attention": largest_weights,
}


def without_each_head(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, shown: Sequence[Text], labels: Sequence[int], progress: bool
) -> Float[Tensor, "B L H"]:
    """1 where only the whole model is right, -1 where only the model without the head is, else 0: its mean is the loss of accuracy."""
    layers, heads = layers_and_heads(model)
    everything = torch.ones(layers, heads, dtype=torch.bool)
    right = right_without(model, tokenizer, shown, labels, everything)
    per_example = torch.empty(len(shown), layers, heads)
    for index in tqdm(everything.nonzero().tolist(), desc="importance by accuracy", unit="head", disable=not progress):
        keep = everything.clone()
        keep[tuple(index)] = False
        per_example[:, *index] = right.float() - right_without(model, tokenizer, shown, labels, keep).float()
    return per_example


@contextmanager
def prune_heads(model: PreTrainedModel, keep: Bool[Tensor, "L H"] | Bool[Tensor, "B L H"]) -> Iterator[None]:
    """While open, only the heads in ``keep`` say anything: the contexts of all others are zero. The model is left as it was.

    One choice for every text, or one for each row of the batches that the model is given. All heads may go: that is F with
    every attention zeroed. The output projection's bias and the residual connection stay, as in the authors' code.

    Raises:
        TypeError: ``keep`` is not a boolean tensor.
        ValueError: its shape is not that of the model's heads.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> keep = torch.ones(6, 12, dtype=torch.bool)
    >>> keep[5] = False
    >>> with prune_heads(model, keep):
    ...     logits = model(**tokenizer("a warm film .", return_tensors="pt")).logits
    """
    check_heads(model, keep)
    with gated(model, keep.to(model.device, torch.float32)):
        yield


@dataclass(frozen=True)
class PruningCurve:
    """Accuracy as heads are pruned."""

    rates: tuple[float, ...]  # share of the heads that was pruned
    pruned: tuple[int, ...]  # number of heads
    accuracy: Float[Tensor, " _R"]
    error: Float[Tensor, " _R"]  # its standard error over the texts


def least_important(importance: Float[Tensor, "L H"], count: int) -> Bool[Tensor, "L H"]:
    """Heads to keep when the ``count`` least important of the whole model go; the first of equals goes first."""
    order = importance.flatten().argsort(stable=True)
    return torch.ones_like(importance, dtype=torch.bool).flatten().scatter(0, order[:count], False).reshape(importance.shape)


def random_importance(like: Float[Tensor, "L H"], seed: int) -> Float[Tensor, "L H"]:
    """An importance that knows nothing, the control of Fig. 5, for as many heads as another. The same seed gives the same order."""
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))


def pruning_curve(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    importance: Float[Tensor, "L H"],
    rates: Sequence[float] = RATES,
    progress: bool = False,
) -> PruningCurve:
    """Accuracy on ``rows`` when the least important heads of the whole model are pruned, at every rate (§5.2, Fig. 5).

    At rate r, int(r · L · H) heads go, as in the authors' code. Importance belongs on other rows than these: heads that
    were chosen on the rows they are judged by look better than they are.

    Raises:
        ValueError: no rows, an importance of another shape or with NaN, a rate outside 0 to 1, an unknown label.
    """
    expected = layers_and_heads(model)
    if tuple(importance.shape) != expected:
        raise ValueError(f"importance has shape {tuple(importance.shape)}: expected {expected}, the layers and heads of the model")
    if not importance.isfinite().all():
        layer, head = (~importance.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"the importance of head {head} in layer {layer} is {float(importance[layer, head])}: expected finite numbers")
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"rates={list(rates)}: expected numbers from 0 to 1, the share of heads that goes")
    shown, labels = checked_rows(model, rows)
    pruned = tuple(int(rate * importance.numel() + 1e-9) for rate in rates)  # 0.3 · 10 is a little under 3
    right = [
        right_without(model, tokenizer, shown, labels, least_important(importance, count)).float()
        for count in tqdm(pruned, desc="pruning", unit="rate", disable=not progress)
    ]
    accuracy = torch.stack([of_rate.mean() for of_rate in right])
    return PruningCurve(tuple(rates), pruned, accuracy, (accuracy * (1 - accuracy) / len(shown)).sqrt())


def checked_rows(model: PreTrainedModel, rows: Dataset) -> tuple[list[Text], list[int]]:
    """Texts and gold labels of some rows, in the model's own order of the classes where the rows name theirs.

    Raises ``ValueError`` if there are no rows, an empty text, or a label that is not one of the model's.
    """
    if not len(rows):
        raise ValueError("no rows: expected at least one example with its label")
    ours = list(model.config.id2label.values())
    theirs = getattr(rows.features["label"], "names", None)
    labels = []
    for number, label in enumerate(rows["label"]):
        if label != int(label) or not 0 <= label < len(ours):
            raise ValueError(f"row {number} has label {label}: expected 0 to {len(ours) - 1}, the classes {ours}")
        labels.append(int(label))
    if theirs is not None and not all(name.startswith("LABEL_") for name in ours):  # transformers' names for classes without any
        if set(theirs) != set(ours):
            raise ValueError(f"the rows have the classes {theirs}: expected those of the model, {ours}")
        labels = [ours.index(theirs[label]) for label in labels]
    return check_texts(texts(rows))[0], labels


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of two importances, head by head, and its 95 % confidence interval."""

    r: float
    low: float
    high: float


def correlation(first: Float[Tensor, "L H"], second: Float[Tensor, "_L _H"]) -> Correlation:
    """Whether two tasks need the same heads (§5.2, Fig. 6).

    The interval is Fisher's, which takes the heads for independent draws: it says nothing of the noise in each importance.

    Raises:
        ValueError: importances of models with other layers or heads, with NaN, or the same for every head.
    """
    from scipy.stats import pearsonr

    if first.shape != second.shape:
        raise ValueError(f"importances of shapes {tuple(first.shape)} and {tuple(second.shape)}: expected the same layers and heads")
    for importance in (first, second):
        if not importance.isfinite().all() or importance.min() == importance.max():
            raise ValueError("an importance that is not finite, or the same for every head: expected numbers that differ")
    found = pearsonr(first.flatten().double().numpy(), second.flatten().double().numpy())
    interval = found.confidence_interval(0.95)
    return Correlation(float(found.statistic), float(interval.low), float(interval.high))
