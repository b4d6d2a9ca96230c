"""Do the scores matter? Heads are removed (Hao et al., §5.1, Fig. 3), and, beyond the paper, the edges of attribution graphs.

Heads go from every layer, the largest or the smallest first. An edge of a graph goes from all heads of its layer, and what
is left is not renormalised: the context of a token becomes what the remaining connections bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .encoding import Text, batches
from .tap import check_heads, evaluating, finite, gated, masked

if TYPE_CHECKING:
    import networkx as nx
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .attribution import Attribution

TOKENS_PER_PASS = 512  # measured: larger batches fall out of a laptop core's cache, and take up to twice as long


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
    keep: Bool[Tensor, "L H"] | Bool[Tensor, "B L H"] | None,
) -> Bool[Tensor, " B"]:
    """Which texts the model still gets right with only the heads in ``keep``: one choice for all, or one for each text; None: all heads.

    Raises:
        TypeError: ``keep`` is not boolean.
        ValueError: not one label, or one choice of heads, for each text; heads that are not the model's; logits that are not finite.
    """
    if len(labels) != len(texts) or (keep is not None and keep.ndim == 3 and len(keep) != len(texts)):
        choices = f" and {len(keep)} choices of heads" if keep is not None and keep.ndim == 3 else ""
        raise ValueError(f"{len(texts)} texts with {len(labels)} labels{choices}: expected one of each for every text")
    if keep is not None:
        check_heads(model, keep)
    right = torch.zeros(len(texts), dtype=torch.bool)
    for batch in batches(model, tokenizer, texts, TOKENS_PER_PASS):
        index = list(batch.index)
        chosen = keep[index] if keep is not None and keep.ndim == 3 else keep
        gates = gated(model, chosen.float().to(model.device)) if chosen is not None else nullcontext()
        with evaluating(model), torch.no_grad(), gates:
            predicted = finite(model, model(**batch.inputs).logits).argmax(-1).cpu()
        right[index] = predicted == torch.tensor(labels)[index]
    return right


def graph_edges(graph: nx.DiGraph, layers: int, tokens: int) -> Bool[Tensor, "L N N"]:
    """The attention edges of an attribution graph (not its residual ones) as a mask: entry [l, i, j] is the edge ((l + 1, i), (l, j)).

    Raises:
        ValueError: an edge outside ``layers`` and ``tokens``: the graph is of another text or model.
    """
    edges = torch.zeros(layers, tokens, tokens, dtype=torch.bool)
    for (level, i), (_, j), kind in graph.edges(data="kind"):
        if not (1 <= level <= layers and i < tokens and j < tokens):
            raise ValueError(f"an edge from token {i} to token {j} in layer {level}: expected at most {layers} layers and {tokens} tokens")
        edges[level - 1, i, j] = kind == "attention"
    return edges


def same_size(edges: Bool[Tensor, "L N N"], values: Float[Tensor, "L N N"], by_row: bool = True) -> Bool[Tensor, "L N N"]:
    """A choice of as many connections as ``edges`` has: in each layer those with the largest ``values``.

    With ``by_row``, as many in each row of each layer, so that the same tokens attend to as many tokens. Random values make the
    control, attention weights the rival. Connections of ``edges`` may be chosen again, and in a row where most are edges most
    are: such a control is in part the graph itself.
    """
    flat, wanted = (values, edges) if by_row else (values.flatten(1), edges.flatten(1))
    rank = flat.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < wanted.sum(-1, keepdim=True)).reshape(edges.shape)


def probability_with(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Text, target: int, keep: Bool[Tensor, "R L N N"]
) -> Float[Tensor, " R"]:
    """The probability of class ``target`` of one text when only the connections in ``keep`` are left, once for each of R choices.

    Raises:
        ValueError: ``keep`` is not of the model's layers and the text's tokens; a class that the model does not have; logits
            that are not finite.
    """
    (batch,) = batches(model, tokenizer, [text], TOKENS_PER_PASS)
    if not 0 <= target < model.config.num_labels:
        raise ValueError(f"target={target}: expected a class from 0 to {model.config.num_labels - 1}")
    found = []
    for some in keep.split(max(1, TOKENS_PER_PASS // batch.lengths[0])):
        inputs = {name: tensor.expand(len(some), -1) for name, tensor in batch.inputs.items()}
        with evaluating(model), torch.no_grad(), masked(model, some.to(model.device)):
            found.append(finite(model, model(**inputs).logits).double().softmax(-1)[:, target].float().cpu())
    return torch.cat(found)
