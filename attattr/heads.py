"""Which heads matter, and what is left without them (Hao et al., §5.2, Eqs. 5 and 6, Fig. 5).

Importance is measured per example and averaged: the largest attribution score of the head (Eq. 5), what the loss would
change to first order without it (Eq. 6), whether the answer changes without it, or, as a rival, its largest attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import pearsonr
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from .batches import Batch, Model, Rows, Tokenizer, batches, forward, predict, texts_and_labels
from .data import one_of
from .model import check_heads, check_numbers, layers_and_heads
from .path import AttentionPath, integrate
from .quadrature import Rule, rules_of
from .tap import context_gradients, gated, record

STEPS = 3  # of Gauss-Legendre: 2.5 % from the limit on 40 sentences, and the same order of the heads (Spearman 0.9997)
TOLERANCE = 1e-2  # of steps="auto"
TOKENS_PER_PASS = 256
RATES = tuple(tenth / 10 for tenth in range(11))


def head_importance(
    model: Model,
    tokenizer: Tokenizer,
    rows: Rows,
    method: str = "attribution",
    steps: int | str = STEPS,
    normalize: bool = False,
    return_per_example: bool = False,
    progress: bool = False,
    rule: str | None = None,
    **reading: Any,
) -> Any:
    """How much each head matters to the gold label, as a mean over examples.

    Args:
        model, tokenizer: as for `attattr.attribute`.
        rows: a table with gold labels: a Dataset, a DataFrame, a list of dictionaries.
        method: ``"attribution"``: E_x[max Attr_h(A)] for the gold label (Eq. 5). ``"taylor"``: E_x|Σ_ij A_ij ∂loss/∂A_ij|
            (Eq. 6; equal to |Σ_i c_i · ∂loss/∂c_i|, so that one backward pass gives all heads). ``"taylor-logits"``:
            what the authors' code computes instead, E_x Σ_i |c_i · ∂S/∂c_i| with S the sum of all logits, which knows
            nothing of the classes. ``"accuracy"``: the share of examples right with all heads minus that without this one.
            ``"attention"``: E_x[max A_h].
        steps: nodes of the integral for ``"attribution"``, or ``"auto"``: as many as a relative error of 1e-2 takes.
        normalize: divide each layer by its Euclidean norm, as the authors' code does for Taylor.
        return_per_example: also give the values before the mean (and before ``normalize``); their standard deviation over √B
            is the mean's standard error.
        progress: show a progress bar.
        rule: of the integral, with a number of steps: what `attribute` calls its method. ``rule="riemann", steps=1`` is A ⊙ ∂F/∂A.
        reading: ``columns``, ``label``, ``names``, ``truncation``: how rows are read, see `texts_and_labels`.

    Returns:
        Float["L H"]; with ``return_per_example``, that and Float["B L H"].

    Raises:
        ValueError: no rows, a label that the model does not have, an unknown method or rule, a number of steps that the rule has not.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> rows = attattr.examples("sst2").select(range(4))
    >>> head_importance(model, tokenizer, rows).shape
    torch.Size([6, 12])
    """
    one_of("method", method, METHODS_OF_IMPORTANCE)
    rules = rules_of(rule, steps)
    layers_and_heads(model)
    texts, labels = texts_and_labels(model, tokenizer, rows, **reading)
    given = batches(model, tokenizer, texts, TOKENS_PER_PASS)
    # Tensors made in inference mode can never take part in a gradient, so leave it if the caller is in it.
    with torch.inference_mode(False):
        found: dict[int, Tensor] = {}
        for batch in tqdm(given, desc=f"importance by {method}", unit="batch", disable=not progress):
            gold = torch.tensor([labels[i] for i in batch.index], device=model.device)
            found |= dict(zip(batch.index, METHODS_OF_IMPORTANCE[method](model, batch, gold, rules).float().cpu(), strict=True))
    per_example = torch.stack([found[i] for i in range(len(texts))])
    importance = per_example.mean(0)
    if normalize:
        importance = torch.nn.functional.normalize(importance, dim=1)
    return (importance, per_example) if return_per_example else importance


def largest(values: Float[Tensor, "B L H N N"], batch: Batch) -> Float[Tensor, "B L H"]:
    """The largest entry of each head, without padding: max Attr_h(A) for the gold label (Eq. 5), or max A_h."""
    if values.shape[-1] != batch.width:
        raise ValueError(
            f"attention among {values.shape[-1]} tokens, and inputs of {batch.width}: expected as many, no tokens of the model's own"
        )
    return torch.stack([of_text[..., : len(own), : len(own)].amax((-2, -1)) for of_text, own in zip(values, batch.places, strict=True)])


def scores_of_gold(model: Model, batch: Batch, gold: Int[Tensor, " B"], rules: Sequence[Rule]) -> Float[Tensor, "B L H N N"]:
    """Attr_h(A) for the gold label, by one rule, or by one after the other until the error is small."""
    if len(rules) > 1:
        return integrate(AttentionPath(model, record(model, batch.inputs, gradients=True), gold), rules, TOLERANCE)["scores"]
    path, (nodes,) = AttentionPath(model, record(model, batch.inputs), gold), rules
    layers, everyone = range(len(path.recording.context)), path.everyone()
    _, slopes = path.at(layers, [everyone] * len(layers), nodes.nodes.tolist())
    found = [path.scores(layer, everyone, nodes.weights[:1], of_layer)[0] for layer, of_layer in enumerate(slopes) if of_layer is not None]
    if len(found) < len(layers):
        raise TypeError(f"F of {type(model).__name__} has no gradient: expected layers that have one (int8 ones have not)")
    return torch.stack(found, 1)


def gains(model: Model, batch: Batch, objective: Callable[[Tensor], Tensor]) -> Float[Tensor, "B L N H"]:
    """c_i · ∂objective/∂c_i for each token i. A sum over the texts gives each its own gradient.

    Over all tokens it is Σ_ij A_ij ∂objective/∂A_ij (Eq. 6, of the loss). The authors' released code reads the logits as if they were
    the loss, S their sum, and adds up |c_i · ∂S/∂c_i|.
    """
    found = context_gradients(model, batch.inputs, objective)
    return torch.stack([(context * gradient).sum(3) for context, gradient in found], dim=1)


def loss_of_accuracy(model: Model, batch: Batch, gold: Int[Tensor, " B"], rules: Sequence[Rule]) -> Float[Tensor, "B L H"]:
    """1 where only the whole model is right, -1 where only the model without the head is, else 0: its mean is the loss of accuracy."""
    own = replace(batch, index=tuple(range(len(gold))))  # the answers in the order of the batch
    shape = layers_and_heads(model)
    each_and_none = torch.eye(math.prod(shape) + 1, math.prod(shape), dtype=torch.bool).reshape(-1, *shape)
    right = torch.stack([forward(model, [own], ~gone).argmax(-1) == gold.cpu() for gone in each_and_none], dim=1).float()
    return (right[:, -1:] - right[:, :-1]).reshape(-1, *shape)


# Every measure by one signature, ``(model, batch, gold, rules)``: one number for each text and head, "B L H". See `head_importance`.
METHODS_OF_IMPORTANCE: dict[str, Callable[[Any, Batch, Tensor, Sequence[Rule]], Tensor]] = {
    "attribution": lambda model, batch, gold, rules: largest(scores_of_gold(model, batch, gold, rules), batch),
    "taylor": lambda model, batch, gold, rules: gains(model, batch, partial(cross_entropy, target=gold, reduction="sum")).sum(2).abs(),
    "taylor-logits": lambda model, batch, gold, rules: gains(model, batch, torch.sum).abs().sum(2),
    "attention": lambda model, batch, gold, rules: largest(
        torch.stack(record(model, batch.inputs, shortcuts=False).attention, dim=1), batch
    ),
    "accuracy": loss_of_accuracy,
}


def prune_heads(model: Model, keep: Bool[Tensor, "L H"] | Bool[Tensor, "B L H"]) -> AbstractContextManager[None]:
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
    return gated(model, keep.to(model.device, torch.float32))


@dataclass(frozen=True)
class PruningCurve:
    """Accuracy as heads are pruned."""

    rates: tuple[float, ...]  # share of the heads that was pruned
    pruned: tuple[int, ...]  # number of heads
    accuracy: Float[Tensor, " _R"]
    error: Float[Tensor, " _R"]  # its standard error over the texts


def least_important(importance: Float[Tensor, "L H"], count: int) -> Bool[Tensor, "L H"]:
    """Heads to keep when the ``count`` least important of the whole model go; the first of equals goes first."""
    rank = importance.flatten().argsort(stable=True).argsort()
    return (rank >= count).reshape(importance.shape)


def heads_pruned(rates: Sequence[float], heads: int) -> tuple[int, ...]:
    """How many of so many heads go at each rate, rounded down as in the authors' code."""
    return tuple(int(rate * heads + 1e-9) for rate in rates)  # 0.3 · 10 is a little under 3


def random_importance(like: Float[Tensor, "L H"], seed: int) -> Float[Tensor, "L H"]:
    """An importance that knows nothing, the control of Fig. 5, for as many heads as another. The same seed gives the same order."""
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))


def pruning_curve(
    model: Model,
    tokenizer: Tokenizer,
    rows: Rows,
    importance: Float[Tensor, "L H"],
    rates: Sequence[float] = RATES,
    progress: bool = False,
    **reading: Any,
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
    check_numbers(importance.isfinite(), importance, "importance", "numbers that are finite, for each layer and head")
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"rates={list(rates)}: expected numbers from 0 to 1, the share of heads that goes")
    texts, labels = texts_and_labels(model, tokenizer, rows, **reading)
    pruned = heads_pruned(rates, importance.numel())
    counts = tqdm(pruned, desc="pruning", unit="rate", disable=not progress)
    answers = torch.stack([predict(model, tokenizer, texts, least_important(importance, count)).argmax(-1) for count in counts])
    right = (answers == torch.tensor(labels)).float()
    return PruningCurve(tuple(rates), pruned, right.mean(1), right.std(1, correction=0) / len(texts) ** 0.5)


def correlation(first: Float[Tensor, "L H"], second: Float[Tensor, "_L _H"]) -> tuple[float, float, float]:
    """Whether two tasks need the same heads (§5.2, Fig. 6): Pearson's r of two importances, head by head, and its 95 % interval.

    The interval is Fisher's, which takes the heads for independent draws: it says nothing of the noise in each importance.

    Raises:
        ValueError: importances of models with other layers or heads, with NaN, or the same for every head.
    """
    check_pair(first, second, "head")
    found = pearsonr(first.flatten().double().numpy(), second.flatten().double().numpy())
    low, high = found.confidence_interval(0.95)
    return float(found.statistic), float(low), float(high)


def check_pair(first: Tensor, second: Tensor, unit: str) -> None:
    """Refuse two sets of numbers that have no correlation; ``unit`` is what each of the numbers is of."""
    if first.shape != second.shape or first.numel() < 2:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"numbers of shapes {shapes}: expected one for each of the same {unit}s, at least two")
    for values in (first, second):
        check_numbers(values.isfinite(), values, "the number at ", "numbers that are finite")
        if values.min() == values.max():
            raise ValueError(f"every {unit} has the same number, {float(values.min()):.4g}: expected numbers that differ")
