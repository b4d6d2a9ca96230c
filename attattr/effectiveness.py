"""Do the scores matter? Heads are removed from every layer, the largest or the smallest first (Hao et al., §5.1, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .encoding import Text, batches
from .tap import gated

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .attribution import Attribution

TOKENS_PER_PASS = 2048


def largest_attribution(att: Attribution) -> Float[Tensor, "L H"]:
    """max Attr_h(A): the largest score of each head, as in Eq. 5."""
    return att.scores.amax((-2, -1))


def largest_attention(att: Attribution) -> Float[Tensor, "L H"]:
    """max A_h: the largest weight of each head. The plain mean of A_h would be 1/N for every head: each of its rows sums to one."""
    return att.attention.amax((-2, -1))


def keep_but(values: Float[Tensor, "*B L H"], count: int, largest: bool) -> Bool[Tensor, "*B L H"]:
    """Gates that remove ``count`` heads from every layer, those with the largest (or smallest) ``values``; the first of equals first.

    Raises:
        ValueError: a count outside 0 to H, or values that are not finite.
    """
    heads = values.shape[-1]
    if not 0 <= count <= heads:
        raise ValueError(f"cannot remove {count} heads from each layer: expected 0 to {heads}")
    if not values.isfinite().all():
        raise ValueError("the values to order heads by are not all finite numbers")
    order = values.argsort(dim=-1, descending=largest, stable=True)
    return torch.ones_like(values, dtype=torch.bool).scatter(-1, order[..., :count], False)


def right_without(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    labels: Sequence[int],
    keep: Bool[Tensor, "L H"] | Bool[Tensor, "B L H"],
) -> Bool[Tensor, " B"]:
    """Which texts the model still gets right with only the heads in ``keep``: one choice for all texts, or one for each."""
    right = torch.zeros(len(texts), dtype=torch.bool)
    for batch in batches(model, tokenizer, texts, TOKENS_PER_PASS):
        index = list(batch.index)
        chosen = keep if keep.ndim == 2 else keep[index]
        with torch.no_grad(), gated(model, chosen.float().to(model.device)):
            predicted = model(**batch.inputs).logits.argmax(-1).cpu()
        right[index] = predicted == torch.tensor(labels)[index]
    return right
