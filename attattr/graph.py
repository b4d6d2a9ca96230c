"""The flow of a decision as a graph: Hao et al.'s attribution graph (arXiv v1, §4.2, Algorithm 1) and tree (AAAI 2021).

Both read the scores of a layer summed over its heads, a^l = Σ_h Attr_h(A^l), and keep what stands out in its layer.
Layers are counted from 1 here, as in the paper: layer l joins the nodes of level l to those of level l - 1; level 0 is the
embeddings, level L the model's last output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    from .attribution import Attribution

CLS = ("[CLS]", "<s>", "<cls>")
SEP = ("[SEP]", "</s>", "<sep>")
TAU = 0.4


def layer_scores(att: Attribution) -> Float[np.ndarray, "L N N"]:
    """a^l: the scores of each layer, summed over its heads (§4.2)."""
    return att.scores.double().sum(1).cpu().numpy()


def retained(att: Attribution, tau: float | Sequence[float] = TAU) -> Bool[np.ndarray, "L N N"]:
    """E^l: the connections with a^l above τ times the layer's maximum (§4.2); a layer without a positive score keeps none.

    Args:
        tau: one threshold for every layer but the last, where it is 0 (§5.1: nearly everything flows to [CLS] there);
            or one for each layer.

    Raises:
        ValueError: a threshold outside 0 to 1, or not one for each layer.
    """
    scores = layer_scores(att)
    if not np.isfinite(scores).all():
        raise ValueError("the attribution holds scores that are not finite: expected numbers")
    thresholds = [float(tau)] * (len(scores) - 1) + [0.0] if isinstance(tau, int | float) else [float(t) for t in tau]
    if len(thresholds) != len(scores):
        raise ValueError(f"tau has {len(thresholds)} entries: expected one number, or one for each of {len(scores)} layers")
    if not all(0 <= t <= 1 for t in thresholds):
        raise ValueError(f"tau={tau!r}: expected numbers from 0 to 1")
    largest = scores.max((1, 2), keepdims=True)
    return (scores > np.reshape(thresholds, (-1, 1, 1)) * largest) & (largest > 0)


def find_terminal(tokens: Sequence[str]) -> int:
    """The place of [CLS], where the flow ends; a ``ValueError`` if there is none."""
    for place, token in enumerate(tokens):
        if token in CLS:
            return place
    raise ValueError(f"no [CLS] among the tokens {list(tokens)[:8]}: pass terminal=, the place of the token that the decision is read from")


def attribution_graph(att: Attribution, tau: float | Sequence[float] = TAU, terminal: int | None = None) -> nx.DiGraph:
    """The attribution graph: Algorithm 1 of Hao et al., arXiv v1, §4.2.

    From the top layer down, and in each layer in descending score, every retained connection becomes an edge, unless the
    same two tokens are joined already, in either direction. Every node is joined to its own token one level below (the
    residual connection). A [SEP] below which nothing but itself hangs is left out.

    Args:
        att: the attribution of one text.
        tau: the threshold τ, relative to the largest score of a layer: one number (0 is used in the last layer), or one
            for each layer.
        terminal: the place of the token at which the flow ends; by default that of [CLS].

    Returns:
        A ``networkx.DiGraph`` with nodes ``(level, token index)``, levels L (top) to 0 (embeddings), and edges
        ``((l, i), (l - 1, j))``: token i attends to token j in layer l. Nodes carry ``token``, edges ``score``, ``kind``
        (``"attention"`` or ``"residual"``), ``layer`` and, of attention, ``head``: the one that gives most, and its
        ``head_score``. Attributes are plain, so that networkx writes it as GraphML or JSON.

    Raises:
        ValueError: a threshold outside 0 to 1; no [CLS] and no ``terminal``; scores that are not finite.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> graph = attribution_graph(attattr.attribute(model, tokenizer, "never dull .", steps=6))
    >>> graph.nodes[6, 0]["token"]
    '[CLS]'
    """
    scores, kept = layer_scores(att), retained(att, tau)
    top = len(scores)
    terminal = find_terminal(att.tokens) if terminal is None else terminal
    if not 0 <= terminal < len(att.tokens):
        raise ValueError(f"terminal={terminal}: expected the place of one of {len(att.tokens)} tokens")
    graph = nx.DiGraph(label=att.label, target=int(att.target))
    graph.add_node((top, terminal))
    joined: set[tuple[int, int]] = set()
    for layer in range(top, 0, -1):
        for i, j in descending(scores[layer - 1], kept[layer - 1]):
            if (i, j) in joined or (j, i) in joined:
                continue
            joined.add((i, j))
            head = int(att.scores[layer - 1, :, i, j].argmax())
            of_head = {"head": head, "head_score": float(att.scores[layer - 1, head, i, j])}
            graph.add_edge((layer, i), (layer - 1, j), score=float(scores[layer - 1, i, j]), kind="attention", layer=layer, **of_head)
    for level in range(top, 0, -1):  # from above, so that the nodes added here are joined downwards, too
        for node in [node for node in graph if node[0] == level]:
            below = (level - 1, node[1])
            if not graph.has_edge(node, below):
                graph.add_edge(node, below, score=0.0, kind="residual", layer=level)
    for level in range(top + 1):
        leaves = [node for node in graph if node[0] == level and att.tokens[node[1]] in SEP and not graph.out_degree(node)]
        graph.remove_nodes_from(leaves)
    nx.set_node_attributes(graph, {node: att.tokens[node[1]] for node in graph}, "token")
    return graph


def descending(scores: Float[np.ndarray, "N N"], kept: Bool[np.ndarray, "N N"]) -> list[tuple[int, int]]:
    """The kept connections of a layer, largest score first; equal ones in reading order."""
    order = np.argsort(-scores, axis=None, kind="stable")
    return [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, scores.shape), strict=True) if kept[i, j]]


def attribution_tree(att: Attribution, tau: float = TAU) -> nx.DiGraph:
    """The attribution tree of the AAAI version, as the authors' released script builds it, with the heights put right.

    Rows of the first token ([CLS]) count nowhere. The root is the token whose row, summed over all layers, has most
    positive score off the diagonal. In the layer before the last, every connection of the root above τ gives it a child.
    Then, from the layer below that down to the first, tokens in reading order: a token that is in the tree takes every
    token that is not, and to which its connection is above τ, as a child. A child may take children in that same layer.

    Returns:
        A ``networkx.DiGraph`` over token indices with edges parent -> child, which carry ``score`` and ``layer`` (counted
        from 1, as in the paper). Nodes carry ``token`` and ``height``, the level that the node's own state has when it is read:
        the root has L - 1, and a child found in layer l has l - 1. The script sets the children of the root to the smallest height
        so far, which is 0 at first, so that they fall to the bottom of its picture and theirs below it.

    Raises:
        ValueError: tau outside 0 to 1, scores that are not finite, fewer than two layers, or no positive score to begin with.
    """
    scores = layer_scores(att)
    retained(att, tau)  # for its refusals
    if len(scores) < 2:
        raise ValueError("a tree needs a model of at least two layers: the last one is not used")
    largest = np.abs(scores[:, 1:].max((1, 2), keepdims=True, initial=-np.inf))
    kept = np.divide(scores, largest, out=np.zeros_like(scores), where=(largest > 0) & np.isfinite(largest)) > tau
    total = scores.sum(0)
    np.fill_diagonal(total, 0)
    total[0] = 0
    weight = total.clip(min=0).sum(1)
    root = int(weight.argmax())
    if not weight[root] > 0:
        raise ValueError(f"no token but {att.tokens[0]!r} draws anything positive from another: there is no tree to build")
    top = len(scores)
    tree = nx.DiGraph(label=att.label, target=int(att.target))
    tree.add_node(root, token=att.tokens[root], height=top - 1)

    def grow(layer: int, parents: Sequence[int]) -> None:
        for i in parents:
            for j in range(len(att.tokens)):
                if i in tree and j not in tree and kept[layer - 1, i, j]:
                    tree.add_node(j, token=att.tokens[j], height=layer - 1)
                    tree.add_edge(i, j, score=float(scores[layer - 1, i, j]), layer=layer)

    grow(top - 1, [root])
    for layer in range(top - 2, 0, -1):
        grow(layer, range(1, len(att.tokens)))
    return tree


def graph_gain(graph: nx.DiGraph, cost: float) -> float:
    """What §4.2 maximises, Σ a_ij - λ |E|, for the attention edges of an attribution graph; ``cost`` is λ."""
    return sum(score - cost for _, _, score in attention_scores(graph))


def attention_scores(graph: nx.DiGraph) -> list[tuple[tuple[int, int], tuple[int, int], float]]:
    """The edges that are attention, not residual, with their scores."""
    return [(start, end, data["score"]) for start, end, data in graph.edges(data=True) if data["kind"] == "attention"]


def best_gain(
    att: Attribution, cost: float, tau: float | Sequence[float] = TAU, connected: bool = False, terminal: int | None = None
) -> float:
    """The largest Σ a_ij - λ |E| over all sets of admissible edges (§4.2).

    The sum is separable: its optimum takes every admissible edge with a score above λ. With ``connected``, every edge must
    lie on a path to the terminal, where a token that is reached at one level is reached at all below (the residual
    connection). Then an edge may be worth taking at a loss for what lies beyond it, and all sets of reached tokens are
    tried: at most 16 tokens.

    Raises:
        ValueError: a negative cost; more than 16 tokens with ``connected``; and as `attribution_graph`.
    """
    if not cost >= 0:
        raise ValueError(f"cost={cost}: expected a number from 0 upward, in probability for each edge")
    gain = np.where(retained(att, tau), layer_scores(att) - cost, -np.inf)
    if not connected:
        return float(gain.clip(min=0).sum())
    tokens = range(len(att.tokens))
    if len(tokens) > 16:
        raise ValueError(f"{len(tokens)} tokens: every set of them is tried, so expected at most 16 tokens")
    start = find_terminal(att.tokens) if terminal is None else terminal
    best = {frozenset([start]): 0.0}
    for layer in gain[::-1]:
        below: dict[frozenset[int], float] = {}
        for reached, value in best.items():
            rows = layer[sorted(reached)]
            value += float(rows.clip(min=0).sum())  # what pays is taken in any case, and reaches its token
            paid = reached | {j for j in tokens if rows[:, j].max() > 0}
            losses = {j: float(rows[:, j].max()) for j in tokens if j not in paid and rows[:, j].max() > -np.inf}
            for count in range(len(losses) + 1):
                for taken in combinations(losses, count):
                    key = paid | frozenset(taken)
                    below[key] = max(below.get(key, -np.inf), value + sum(losses[j] for j in taken))
        best = below
    return max(best.values())
