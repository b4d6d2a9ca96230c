"""Attention rollout and attention flow (Abnar & Zuidema, ACL 2020): how much of each input token reaches each node above.

Both read one layered graph. Its weights are the attention of a layer, averaged over heads, with the residual connection:
Ã = (A + I) / 2. Rollout takes a weight for a proportion and multiplies the layers, Ã^l ··· Ã^0: the sum, over all paths, of the
product of their weights. Flow takes it for a capacity: the largest amount that can run from the node to the input token when no
edge carries more than its weight. No node has a capacity of its own, and each input token is asked about by itself. Layers count
from 0: layer l leads from level l up to level l + 1; level 0 is the input tokens.

What the graph gives away, and `maximum_flows` uses:

* the edges of the source's own row and those into the one token are the only ones of their layers that count;
* flow(u → v) ≤ b_v = min(1, Σ_k Ã⁰_kv), whatever u is: what leaves u is at most 1, and what enters v no more than v's column;
* if the nodes one level below that already have b_v take at least b_v of u's weights, u has it, too: the flows from them, each
  scaled to the weight of its edge, fit into the graph together.

One more bound, around the source, is for readers of a flow: `source_bound`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import networkx as nx
import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor
from tqdm.auto import tqdm

from .connections import Attribution, chained
from .model import check_numbers

ROUNDING = 5e-3  # a row's sum may be this far from 1: bfloat16 leaves 2e-3
EXACT = 1e-12  # float64 sums that differ by less are equal
EQUAL = 1e-6  # a flow that is this near to its bound has reached it, in float32, too
PATIENCE = 3  # seconds without a progress bar
UNITS = 2**30 - 1  # of capacity: an edge that was full may fill the other way, and scipy holds integers below 2**31
EDGES = 50_000  # in one call of scipy's, which takes its time for a few, too: more do not fit a processor's cache


def attention_rollout(attention: Tensor | Attribution, layer: int | None = None, causal: bool = False) -> Float[Tensor, "*L N N"]:
    """Attention rollout: the product of the layers' attention matrices, each with its residual connection.

    Args:
        attention: softmax probabilities of one text, L H N N; or L N N, averaged over heads already; or an `Attribution`, of one stack.
        layer: one layer, counted from 0 (or from the top, from -1 down), instead of all.
        causal: for a decoder, where the first tokens gain by being seen by most: divide by the receptive field. Each entry
            is divided by what it would be if every token attended evenly to all that it can see, and rows are made to sum to 1
            again. So even attention gives every visible token the same. (Abnar & Zuidema leave decoders for later and, in what
            we have of their paper, name the receptive field without a formula. This one is ours.)

    Returns:
        L N N, or N N for one layer: row i of layer l holds the input tokens as token i sees them after layer l, and sums to 1. Computed
        in float64, given in the type of ``attention``. One token alone sees itself: 1.

    Raises:
        TypeError: attention that is no tensor of floats.
        ValueError: a shape other than these; negative numbers (see `scores_as_attention`); rows that do not sum to 1;
            numbers that are not finite; no such layer; ``causal`` with attention to later tokens.

    >>> attention_rollout(torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]), layer=1)
    tensor([[0.7500, 0.2500],
            [0.3750, 0.6250]])
    """
    return mixed(attention, layer, causal, True, lambda adjusted, wanted: products(adjusted)[wanted])


def attention_flow(
    attention: Tensor | Attribution, layer: int | None = None, normalize: bool = True, causal: bool = False, progress: bool = True
) -> Float[Tensor, "*L N N"]:
    """Attention flow: the exact maximum flow from every node to every input token, one pair at a time.

    Args:
        attention, layer: as for `attention_rollout`. One layer takes about half the time of all.
        normalize: make rows sum to 1, as the authors' code does. Otherwise the flow itself, from 0 to 1 (with ``causal``: as a
            multiple of what even attention lets through).
        causal: as for `attention_rollout`. The flow through even attention takes its time, too.
        progress: show a progress bar if it takes longer than a few seconds. Time grows with L² N⁴.

    Returns:
        L N N, or N N for one layer: row i of layer l belongs to token i after layer l. As of `attention_rollout`.

    Raises:
        TypeError, ValueError: as `attention_rollout`.

    >>> attention_flow(torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]), layer=1, normalize=False)
    tensor([[0.7500, 0.2500],
            [0.5000, 0.7500]])
    """
    return mixed(attention, layer, causal, normalize, partial(maximum_flows, progress=progress))


def mixed(
    attention: Tensor | Attribution, layer: int | None, causal: bool, normalize: bool, mix: Callable[..., np.ndarray]
) -> Float[Tensor, "*L N N"]:
    """What ``mix`` makes of Ã in the layers wanted, in the type of the attention: the checks and options of rollout and of flow."""
    attention = chained(attention).attention if isinstance(attention, Attribution) else attention
    adjusted = adjusted_attention(attention)
    layers = range(len(adjusted))
    if layer is not None and not (isinstance(layer, int | np.integer) and -len(layers) <= layer < len(layers)):
        raise ValueError(f"layer={layer!r}: expected a number from 0 to {layers[-1]}, or from -1 (the top) down to {-len(layers)}")
    wanted = list(layers) if layer is None else [layers[layer]]
    found = mix(adjusted, wanted)
    if causal:
        even = mix(even_attention(adjusted), wanted)
        found = np.divide(found, even, out=np.zeros_like(found), where=even > 0)  # 0 where nothing can be seen
    if normalize:
        found = normalized(found)
    return torch.from_numpy(found if layer is None else found[0]).to(attention)


def attention_graph(attention: Tensor) -> nx.DiGraph:
    """The graph that rollout and flow read.

    Nodes are ``(level, token index)``, levels L (top) to 0 (input); edges ``((l + 1, i), (l, j))`` carry ``capacity``, the weight
    Ã_ij of layer l, as in `attribution_graph`. Weights of 0 are left out. Row i of layer l of `attention_flow` is the maximum flow
    from ``(l + 1, i)`` to each ``(0, j)``.

    Raises:
        TypeError, ValueError: as `attention_rollout`.
    """
    adjusted = adjusted_attention(attention)
    graph = nx.DiGraph()
    graph.add_nodes_from((level, i) for level in range(len(adjusted), -1, -1) for i in range(adjusted.shape[1]))
    for layer, i, j in np.argwhere(adjusted > 0).tolist():
        graph.add_edge((layer + 1, i), (layer, j), capacity=float(adjusted[layer, i, j]))
    return graph


def scores_as_attention(scores: Tensor) -> Float[Tensor, "L N N"]:
    """Attribution scores as attention, so that rollout and flow can read them: what speaks for the decision, in shares.

    Scores (L H N N, or L N N) are summed over heads, as in the attribution graph; what is negative becomes 0; and rows are made
    to sum to 1. A token without a positive score keeps to itself: with the residual connection, nothing else reaches it. How much
    a row had in all is lost. To clip each head by itself, pass ``scores.clamp(min=0)``.

    Raises:
        TypeError: scores that are no tensor of floats.
        ValueError: a shape other than these; scores that are not finite.
    """
    positive = by_head(scores, "scores").sum(1).clamp(min=0)
    sums = positive.sum(-1, keepdim=True)
    return torch.where(sums > 0, positive / sums, torch.eye(len(positive[0]))).to(scores)


def flow_bound(attention: Tensor) -> Float[Tensor, " N"]:
    """What no flow to an input token can exceed, whichever node it comes from: min(1, column sum of Ã⁰, the first layer's).

    Raises:
        TypeError, ValueError: as `attention_rollout`.
    """
    return torch.from_numpy(adjusted_attention(attention)[0].sum(0).clip(max=1)).to(attention)


def source_bound(attention: Tensor) -> Float[Tensor, "L N N"]:
    """What no flow from token u after layer l to input token v can exceed, since it has to leave u: Ã⁰_uv + Σ (1 - Ã^k_uu), k = 1 ... l.

    It is the capacity of the cut between u's own nodes, from level l + 1 down to level 1, with all input tokens but v, and the rest:
    what is to reach v leaves u's nodes sideways in one of the layers above layer 0, or goes to v in layer 0. Where all flows from a
    node equal it, they are the first layer's weights plus the same number for every token: what lies between has only added that
    number. Where it is larger than 1 it says nothing, as no flow is.

    Returns:
        L N N: each entry bounds that of `attention_flow` with ``normalize=False``. In layer 0 the two are equal.

    Raises:
        TypeError, ValueError: as `attention_rollout`.

    >>> source_bound(torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]))[1]
    tensor([[0.7500, 0.2500],
            [0.5000, 1.5000]])
    """
    adjusted = adjusted_attention(attention)
    leaves = 1 - adjusted.diagonal(axis1=1, axis2=2)
    leaves[0] = 0
    return torch.from_numpy(adjusted[0] + leaves.cumsum(0)[..., None]).to(attention)


def flow_saturation(flow: Float[Tensor, "*L N N"], attention: Tensor) -> Float[Tensor, "*L"]:
    """The share of flows that equal `flow_bound`, layer by layer: these say nothing about the node that they come from.

    Once all flows to a token are full in one layer, they are so in all above; a single one need not be, so shares can fall. Pairs
    that no path joins are not counted. In a decoder most flows cannot be full at any depth, since the bound counts what enters a
    token from those after the source, too: there, a low share says nothing.

    Args:
        flow: of `attention_flow` with ``normalize=False``, all layers or one.
        attention: what the flow was computed from.

    Raises:
        TypeError, ValueError: as `attention_rollout`; a flow that is normalized, or of another attention.
    """
    bound = flow_bound(attention).to(flow)
    own = flow.diagonal(dim1=-2, dim2=-1)  # the residual connections alone let half of the token through
    if flow.shape[-1] != len(bound) or (flow > bound + EQUAL).any() or (own < 0.5 - ROUNDING).any():
        raise ValueError("this is not the flow of this attention: pass attention_flow(attention, normalize=False)")
    full, joined = (flow >= bound - EQUAL) & (flow > 0), flow > 0
    return full.sum((-2, -1)).to(flow) / joined.sum((-2, -1))


def adjusted_attention(attention: Tensor) -> Float[np.ndarray, "L N N"]:
    """Ã: attention averaged over heads, plus the residual connection, its rows made to sum to 1; after every check of the input."""
    weights = by_head(attention, "attention")
    for_scores = "for attribution scores, pass scores_as_attention(scores)"
    none_negative = f"softmax probabilities, none negative; {for_scores}, which clips them at 0 and makes rows sum to 1"
    check_numbers(attention >= 0, attention, "attention", none_negative)
    sums = attention.double().sum(-1)
    whole_rows = f"1, softmax probabilities of all the tokens of one text, not cut, without dropout or a sink beside them; {for_scores}"
    check_numbers((sums - 1).abs() <= ROUNDING, sums, "the sum of the row attention", whole_rows)
    return normalized(weights.mean(1).numpy() + np.eye(weights.shape[-1]))


def is_causal(attention: Tensor) -> bool:
    """Whether no token attends to a later one, as in a decoder."""
    return not bool(attention.triu(1).any())


def by_head(values: Tensor, name: str) -> Float[Tensor, "L H N N"]:
    """The numbers in float64; heads that were averaged already are one. Refuses what is not L H N N or L N N of finite floats."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"expected {name} as one tensor of floats, L H N N or L N N, got {found}")
    shape = list(values.shape)
    if len(shape) not in (3, 4) or shape[-1] != shape[-2] or 0 in shape:
        expected = "L H N N (layers, heads, queries, keys) of one text, or L N N if heads are averaged already"
        raise ValueError(f"{name} of shape {shape}: expected {expected}")
    check_numbers(values.isfinite(), values, name, "numbers that are finite")
    return values.detach().double().cpu().reshape(shape[0], -1, *shape[-2:])


def products(adjusted: Float[np.ndarray, "L N N"]) -> Float[np.ndarray, "L N N"]:
    """Ã^l ··· Ã^0 for every layer l."""
    return np.stack(list(accumulate(adjusted, lambda below, of_layer: of_layer @ below)))


def normalized(rows: Float[np.ndarray, "*L N N"]) -> Float[np.ndarray, "*L N N"]:
    """Rows made to sum to 1."""
    return rows / rows.sum(-1, keepdims=True)


def even_attention(adjusted: Float[np.ndarray, "L N N"]) -> Float[np.ndarray, "L N N"]:
    """Ã of a decoder that attends evenly to its receptive field: each token to itself and all before it. Refuses any other's."""
    later = torch.from_numpy(np.triu(adjusted, 1))
    check_numbers(later == 0, later, "causal=True, but Ã", "0 wherever the second token comes after the first: a causal mask")
    return (normalized(np.tril(np.ones_like(adjusted))) + np.eye(adjusted.shape[-1])) / 2


def maximum_flows(adjusted: Float[np.ndarray, "L N N"], wanted: Sequence[int], progress: bool) -> Float[np.ndarray, "W N N"]:
    """The maximum flow from every node above the layers wanted, in ascending order, to every input token."""
    tokens, bound, reachable = adjusted.shape[-1], adjusted[0].sum(0).clip(max=1), products(adjusted) > 0
    flows = {0: adjusted[0]}
    above = [layer for layer in wanted if layer > 0]
    with tqdm(total=len(above) * tokens**2, desc="attention flow", unit="pair", delay=PATIENCE, disable=not progress) as bar:
        for layer in above:
            below = flows.get(layer - 1, np.zeros_like(adjusted[0]))
            full = adjusted[layer] @ (below >= bound - EXACT) >= bound - EXACT
            flows[layer] = np.where(full, bound, 0.0)
            pairs = np.argwhere(reachable[layer] & ~full)
            bar.update(tokens**2 - len(pairs))
            some = 1 + EDGES // (layer * tokens**2)
            for u, v in (pairs[start : start + some].T for start in range(0, len(pairs), some)):
                flows[layer][u, v] = flows_of_pairs(adjusted[layer, u], adjusted[1:layer], adjusted[0].T[v]).clip(max=bound[v])
                bar.update(len(u))
    return np.stack([flows[layer] for layer in wanted])


def flows_of_pairs(
    first: Float[np.ndarray, "P N"], between: Float[np.ndarray, "M N N"], last: Float[np.ndarray, "P N"]
) -> Float[np.ndarray, " P"]:
    """The maximum flow of P pairs of a node and a token: the weights that leave the node, those of the layers between, and the token's.

    Each pair has a graph to itself; they stand side by side, as scipy takes its time for a call. It counts in integers: what they
    carry is a flow, so at most the maximum; the cut that they find, in float64, is at least the maximum, and returned. Were the two
    further apart than `EQUAL`, what is left would be counted in smaller units.
    """
    (pairs, tokens), levels = first.shape, len(between) + 1
    node = 1 + np.arange(pairs * levels * tokens).reshape(pairs, levels, tokens)  # 0 is the source; the level above layer 0 comes first
    sink = node.size + 1
    layer, i, j = np.nonzero(between)
    tail = np.hstack([np.zeros_like(node[:, 0]), node[:, layer + 1, i], node[:, 0]])
    head = np.hstack([node[:, -1], node[:, layer, j], np.full_like(node[:, 0], sink)])
    weight = np.hstack([first, np.tile(between[layer, i, j], (pairs, 1)), last])
    left = csr_array((weight.ravel(), (tail.ravel(), head.ravel())), shape=(sink + 1, sink + 1))
    carried, apart = 0.0, 1.0
    while apart > EQUAL:
        unit = apart / UNITS
        whole = csr_array(((left.data.clip(0, apart) / unit).astype(np.int32), left.indices, left.indptr))
        found = maximum_flow(whole, 0, sink)
        left, carried = left - unit * found.flow, carried + unit * float(found.flow_value)
        reached = np.isin(np.arange(sink + 1), breadth_first_order(whole - found.flow, 0, return_predecessors=False))
        cuts = (weight * (reached[tail] & ~reached[head])).sum(1)
        apart = cuts.sum() - carried
    return cuts
