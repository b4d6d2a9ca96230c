"""The flow of a decision as a graph: Hao et al.'s attribution graph (arXiv v1, §4.2, Algorithm 1) and tree (AAAI 2021).

Both read the scores of a layer summed over its heads, a^l = Σ_h Attr_h(A^l), and keep what stands out in its layer.
Layers count from 0: layer l leads from level l up to level l + 1; level 0 is the embeddings, level L the model's last output. The
paper counts layers from 1: its layer 12 is our 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .connections import Attribution, chained
from .model import check_numbers

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
        ValueError: a threshold outside 0 to 1, or not one for each layer; layers that are not one stack.
    """
    check_numbers(att.scores.isfinite(), att.scores, "scores", "numbers that are finite")
    scores = layer_scores(chained(att))
    try:
        given = np.asarray(tau, dtype=float)
    except (TypeError, ValueError):
        given = np.empty((0, 0))
    thresholds = np.append(np.full(len(scores) - 1, given), 0.0) if given.ndim == 0 else given
    if thresholds.shape != (len(scores),) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ValueError(f"tau={tau!r}: expected a number from 0 to 1, or one for each of {len(scores)} layers")
    largest = scores.max((1, 2), keepdims=True)
    return (scores > np.reshape(thresholds, (-1, 1, 1)) * largest) & (largest > 0)


def find_terminal(tokens: Sequence[str], terminal: int | None = None) -> int:
    """The place where the flow ends, by default that of [CLS]; a ``ValueError`` if there is no such place."""
    places = [place for place, token in enumerate(tokens) if token in CLS] if terminal is None else [terminal]
    if not places or not 0 <= places[0] < len(tokens):
        expected = f"the place of one of {len(tokens)} tokens, or None if one is [CLS]"
        raise ValueError(f"terminal={terminal}: expected {expected}; these are {list(tokens)[:8]}")
    return places[0]


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
        ``((l + 1, i), (l, j))``: token i attends to token j in layer l. Nodes carry ``token``, edges ``score``, ``kind``
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
    graph = nx.DiGraph(label=att.label, target=att.target if isinstance(att.target, int) else str(att.target))
    graph.add_node((len(scores), find_terminal(att.tokens, terminal)))
    joined: set[tuple[int, int]] = set()
    for layer, i, j in sorted(np.argwhere(kept).tolist(), key=lambda place: (-place[0], -scores[tuple(place)])):
        if (i, j) not in joined:
            joined |= {(i, j), (j, i)}
            head = int(att.scores[layer, :, i, j].argmax())
            of_head = {"head": head, "head_score": float(att.scores[layer, head, i, j])}
            graph.add_edge((layer + 1, i), (layer, j), score=float(scores[layer, i, j]), kind="attention", layer=layer, **of_head)
    for level, i in list(graph):
        for layer in range(level):
            if not graph.has_edge((layer + 1, i), (layer, i)):
                graph.add_edge((layer + 1, i), (layer, i), score=0.0, kind="residual", layer=layer)
    for level, i in sorted(graph):  # from below: without the leaf below it, a [SEP] may be a leaf, too
        if att.tokens[i] in SEP and not graph.out_degree((level, i)):
            graph.remove_node((level, i))
    nx.set_node_attributes(graph, {node: att.tokens[node[1]] for node in graph}, "token")
    return graph


def attribution_tree(att: Attribution, tau: float = TAU) -> nx.DiGraph:
    """The attribution tree of the AAAI version, as the authors' released script builds it, with the heights put right.

    Rows of the first token ([CLS]) count nowhere. The root is the token whose row, summed over all layers, has most
    positive score off the diagonal. In the layer before the last, every connection of the root above τ gives it a child.
    Then, from the layer below that down to the first, tokens in reading order: a token that is in the tree takes every
    token that is not, and to which its connection is above τ, as a child. A child may take children in that same layer.

    Returns:
        A ``networkx.DiGraph`` over token indices with edges parent -> child, which carry ``score`` and ``layer``. Nodes carry
        ``token`` and ``height``, the level of the state that is read: the root has L - 1, and a child found in layer l has l.
        The script sets the children of the root to the smallest height so far, which is 0 at first, so that they fall to the bottom
        of its picture and theirs below it.

    Raises:
        ValueError: tau outside 0 to 1, scores that are not finite, fewer than two layers, or no positive score to begin with.
    """
    if len(att.scores) < 2:
        raise ValueError("a tree needs a model of at least two layers: the last one is not used")
    att = replace(att, scores=att.scores.index_fill(2, torch.tensor(0), 0.0))
    scores, kept = layer_scores(att), retained(att, [tau] * len(att.scores))
    weight = (scores.sum(0).clip(min=0) * (1 - np.eye(len(att.tokens)))).sum(1)
    root = int(weight.argmax())
    if not weight[root] > 0:
        raise ValueError(f"no token but {att.tokens[0]!r} draws anything positive from another: there is no tree to build")
    kept[-1] = False
    kept[-2, np.arange(len(weight)) != root] = False
    tree = nx.DiGraph(label=att.label, target=att.target if isinstance(att.target, int) else str(att.target))
    tree.add_node(root, token=att.tokens[root], height=len(scores) - 1)
    for layer, i, j in sorted(np.argwhere(kept).tolist(), key=lambda place: -place[0]):
        if i in tree and j not in tree:
            tree.add_node(j, token=att.tokens[j], height=layer)
            tree.add_edge(i, j, score=float(scores[layer, i, j]), layer=layer)
    return tree


def graph_connections(graph: nx.DiGraph, layers: int, tokens: int) -> Bool[Tensor, "L N N"]:
    """The attention edges of an attribution graph (not its residual ones) as a mask: entry [l, i, j] is the edge ((l + 1, i), (l, j)).

    Raises:
        ValueError: an edge outside ``layers`` and ``tokens``: the graph is of another text or model.
    """
    edges = torch.zeros(layers, tokens, tokens, dtype=torch.bool)
    for (_, i), (layer, j), kind in graph.edges(data="kind"):
        if not (0 <= layer < layers and i < tokens and j < tokens):
            raise ValueError(f"an edge from token {i} to token {j} in layer {layer}: expected {layers} layers and {tokens} tokens")
        edges[layer, i, j] = kind == "attention"
    return edges


@dataclass(frozen=True)
class ReceptiveField:
    """Distances, in tokens, of the connections that attribution graphs keep in each layer of some texts (Hao et al., §5.1, Fig. 4)."""

    distances: tuple[Int[Tensor, " _E"], ...]  #: one tensor for each layer, from the first
    mean: Float[Tensor, " L"]  #: not a number for a layer that keeps nothing


def receptive_field(
    atts: Attribution | Sequence[Attribution], tau: float | Sequence[float] = TAU, terminal: int | None = None
) -> ReceptiveField:
    """``|i - j|`` of every edge ((l + 1, i), (l, j)) of the attribution graphs, layer by layer; a token's look at itself is left out.

    In the last layer of a classifier that reads [CLS], only the row of [CLS] has any effect: there the distances are places.

    Args:
        atts: one attribution, or several of one model.
        tau, terminal: as for `attribution_graph`.

    Raises:
        ValueError: no attribution; attributions of models with different numbers of layers; and as `attribution_graph`.
    """
    found = [atts] if not isinstance(atts, Sequence) else list(atts)
    layers = {len(att.scores) for att in found}
    if len(layers) != 1:
        raise ValueError(f"expected one or more attributions of one model, got {len(found)} with {sorted(layers)} layers")
    graphs = [graph_connections(attribution_graph(att, tau, terminal), *att.scores.shape[::2]) for att in found]
    tensors = tuple(torch.cat(of_layer) for of_layer in zip(*map(distances, graphs), strict=True))
    return ReceptiveField(tensors, torch.stack([of_layer.float().mean() for of_layer in tensors]))


def distances(connections: Bool[Tensor, "L N N"]) -> list[Int[Tensor, " _E"]]:
    """|i - j| of the connections chosen in each layer; a token's look at itself is left out."""
    apart = [(of_layer.nonzero()[:, 0] - of_layer.nonzero()[:, 1]).abs() for of_layer in connections]
    return [of_layer[of_layer > 0] for of_layer in apart]
