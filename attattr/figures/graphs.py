"""Drawings of graphs: the attribution graph of one text (chapter 4), also in sentences, and the graph that attention flow runs through."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import networkx as nx
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from ..connections import Attribution
from ..flow import EQUAL, adjusted_attention, attention_flow, attention_rollout, flow_bound
from ..graph import SEP, attribution_graph, find_terminal, layer_scores
from . import grammar
from .grammar import CONTROL, FAINT, FOR, INK, NEUTRAL, note, page, reveal, swap, together, token_axis, token_labels

Node = tuple[int, int]  # level, token index
Edge = tuple[Node, Node]  # from the token that reads down to the token that is read
Point = tuple[int | float, int | float]  # as a node: first how high, then how far to the right

TAUS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BINS = 10  # widths and opacities
RISE, SHIFT = np.array([0, 0.13, 0.87, 1, np.nan]), np.array([0, 0.045, 0.955, 1, np.nan])  # a curve between two levels; a gap
HANDLE = np.array([0.377, 0.4])  # the point on it that answers the pointer: not the middle, where the curves of a layer cross
TAIL, CARRIER = "#bdbcb8", "#85847f"  # residual edges: those down to the word, and those that carry something up
PARTS = (("#8a4b08", "#fdf3e3"), ("#00695c", "#e4f3f0"))  # words and band of the first and of the second text of a pair
INFERENCE = ("entailment", "neutral", "contradiction", "not_entailment")
WEIGHTS = ((0.4, 7.0, 0.9), (0.2, 4.5, 0.75), (0.1, 2.6, 0.6), (0.0, 1.2, 0.5))  # weight from, pixels, opacity
BARS, TOP = 140, 30  # pixels: the bars under the graph of flow, and what is between the two
SIDE = 0.19  # between the middle of a token and that of one of its two bars


def graph_figure(att: Attribution, taus: tuple[float, ...] = TAUS, active: int = 4, terminal: int | None = None) -> go.Figure:
    """The attribution graph of one text, up to [CLS], with a slider for the threshold τ (Hao et al., arXiv v1, §4.2, Fig. 2).

    Tokens stand along the bottom, levels go up from 0, the embeddings, to the model's last output, and layer l lies between
    the levels l and l + 1. A curve rises from the token that is read to the token that reads; its width and opacity give its score
    in relation to the largest of its layer. Grey verticals are the residual edges,
    darker where their token has read another further down. The two texts of a pair stand on two bands.

    Algorithm 1 joins every two tokens only once, from the top down, so the graph of a higher τ is not a part of that of
    a lower one. Every edge is stored once, with the others of its width that are drawn at the same positions of the slider.
    At τ = 0 nearly all pairs of tokens are joined: for texts much longer than 40 tokens start higher to keep the page small.

    Args:
        att: the attribution of one text, or of one pair.
        taus: the threshold at each position of the slider, ascending from 0 to 1 (the last layer always has τ = 0, §5.1).
        active: the position at which the slider starts.
        terminal: the place of the token at which the graph ends; by default that of [CLS].

    Raises:
        ValueError: thresholds that do not ascend within 0 to 1, a start that is none of them; no [CLS] and no ``terminal``;
            scores that are not finite.
    """
    grammar.check_attribution(att)
    if not taus or not (taus[0] >= 0 and taus[-1] <= 1 and all(a < b for a, b in pairwise(taus))):
        raise ValueError(f"taus={taus!r}: expected thresholds that ascend within 0 to 1")
    if not 0 <= active < len(taus):
        raise ValueError(f"active={active!r}: expected the place of one of {len(taus)} thresholds, 0 to {len(taus) - 1}")
    return graphs_drawn(att, {f"{tau:g}": attribution_graph(att, tau, terminal) for tau in taus}, active, terminal)


def graphs_drawn(att: Attribution, graphs: Mapping[str, nx.DiGraph], active: int = 0, terminal: int | None = None) -> go.Figure:
    """Attribution graphs of one text under a slider, by the names of their thresholds: see `graph_figure`."""
    for graph in graphs.values():
        check_graph(graph)
        if any(list(att.tokens[place : place + 1]) != [token] for (_, place), token in graph.nodes(data="token")):
            raise ValueError(f"{graph} is not of the tokens {att.tokens[:8]}: expected the graph and the attribution of one text")
    terminal = find_terminal(att.tokens) if terminal is None else terminal
    layers, count = len(att.scores), len(att.tokens)
    drawn, always = [edges_of(graph, "attention") for graph in graphs.values()], range(len(graphs))
    told = {(u, v): data for graph in graphs.values() for u, v, data in graph.edges(data=True) if data["kind"] == "attention"}
    largest = layer_scores(att).max((1, 2))
    step_of = {edge: min(BINS, 1 + int(BINS * data["score"] / largest[data["layer"]])) for edge, data in told.items()}

    shown: list[tuple[Any, Sequence[int]]] = [(straight([((layers, place), (0, place)) for place in range(count)], FAINT), always)]
    for color, width, carrying in ((TAIL, 1.0, False), (CARRIER, 1.6, True)):
        groups = together([residual(graph, carrying) for graph in graphs.values()])
        shown += [(straight(edges, color, width), positions) for positions, edges in groups]
    shown += [(points(nodes, 4.5, TAIL), positions) for positions, nodes in together(list(graphs.values()))]
    for step in range(1, BINS + 1):  # the strongest on top
        groups = together([[edge for edge in of_graph if step_of[edge] == step] for of_graph in drawn])
        shown += [(curves(edges, step), positions) for positions, edges in groups]
    words = token_labels(att.tokens)
    shown += [(handles(edges, told, words), positions) for positions, edges in together(drawn)]
    shown.append((points([(layers, terminal)], 17.0, INK), always))
    labels = [f"{name}: {len(edges)} edges" for name, edges in zip(graphs, drawn, strict=True)]
    figure = reveal(shown, labels, "τ =", active)

    verdict, text, name = decided(att), att.text if isinstance(att.text, str) else " / ".join(att.text), list(graphs)[active]
    alt = f"The tokens of “{text}” along the bottom, the {layers} layers upward; curves rise from the token that "
    alt += f"is read to the token that reads and end at {att.tokens[terminal]}, where the model decides: {verdict}. "
    alt += f"At τ = {name} there are {len(drawn[active])} curves. {graph_sentences(graphs[name])}"
    page(figure, alt, 190 + rise(layers) * layers, 90 + 14 * count if count > 20 else None, "x", hoverdistance=16, showlegend=False)
    figure.update_layout(margin={"t": 34, "b": 50, "l": 46, "r": 6})
    for (start, end, part), (color, pale) in zip(bands(att), PARTS, strict=False):
        words[start:end] = [f'<span style="color:{color}">{word}</span>' for word in words[start:end]]
        ends = {"x0": start - 0.5, "x1": end - 0.5, "y0": -0.25, "y1": layers + 0.45}
        figure.add_shape(ends, type="rect", line_width=0, fillcolor=pale, layer="below")
        note(figure, part, end - 0.6, layers + 0.45, "right", yanchor="top", font={"color": color})
    turned = {"tickangle": -90} if count > 12 else {"autotickangles": [0, -90]}
    figure.update_xaxes(token_axis(att.tokens, ticktext=words, automargin=True, range=[-0.8, count - 0.4], **turned))
    figure.update_yaxes(layer_axis(layers))
    said = f"{token_labels(att.tokens)[terminal]} decides: <b>{grammar.literal(verdict)}</b>"
    return note(figure, said, terminal, 1, "left" if terminal < count / 2 else "right", yref="paper", font={"size": 15})


def graph_sentences(graph: nx.DiGraph, count: int = 8) -> str:
    """An attribution graph in words: who reads what, the strongest of each layer first, from the top layer down.

    Told are the ``count`` edges that are strongest in relation to the strongest of their layer, so that no layer is passed over
    as long as ``count`` allows. A token that stands more than once is followed by its place (``the ·7``); heads and layers count
    from 0.

    Args:
        graph: what `attattr.attribution_graph` returns.
        count: how many edges are told at most.

    Raises:
        ValueError: a count below 1.
    """
    check_graph(graph)
    if count < 1:
        raise ValueError(f"count={count}: expected at least one edge to tell")
    edges = edges_of(graph, "attention")
    if not edges:
        return "No connection is above the threshold: the graph has residual edges only."
    scores = {edge: graph.edges[edge]["score"] for edge in edges}
    best = {level: max(score for edge, score in scores.items() if edge[0][0] == level) for (level, _), _ in edges}
    edges.sort(key=lambda edge: (-scores[edge] / best[edge[0][0]], -edge[0][0]))
    told = sorted(edges[:count], key=lambda edge: (-edge[0][0], -scores[edge]))
    sentences = []
    for layer, of_layer in groupby(told, lambda edge: edge[1][0]):
        readers: dict[Node, list[Edge]] = {}
        for edge in of_layer:
            readers.setdefault(edge[0], []).append(edge)
        clauses = [f"{quoted(graph, reader)} reads {listed(graph, read)}" for reader, read in readers.items()]
        sentences.append(f"In layer {layer}, {'; '.join(clauses)}.")
    left = len(edges) - len(told)
    if left:
        sentences.append(f"{left} more {'edge is' if left == 1 else 'edges are'} weaker in {'its layer' if left == 1 else 'their layers'}.")
    return " ".join(sentences)


def listed(graph: nx.DiGraph, edges: Sequence[Edge]) -> str:
    """What one token reads in one layer, with scores, and the head of the first: “never” (0.21, most in head 3) and “dull” (0.10)."""
    head = f", most in head {graph.edges[edges[0]]['head']}"
    parts = [f"{quoted(graph, edge[1])} ({number(graph.edges[edge]['score'])}{'' if place else head})" for place, edge in enumerate(edges)]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def quoted(graph: nx.DiGraph, node: Node) -> str:
    """The token of a node: special ones bare, words in quotes, with their place if they stand at several."""
    token = graph.nodes[node]["token"]
    if len({place for (_, place), other in graph.nodes(data="token") if other == token}) > 1:
        token = f"{token} ·{node[1]}"
    return token if token.startswith(("[", "<")) else f"“{token}”"


def number(score: float) -> str:
    """Two decimals, or the first digit that is not 0."""
    return f"{score:.2f}" if score >= 0.01 else f"{score:.1g}" if score >= 1e-4 else "under 0.0001"


def check_graph(graph: Any) -> None:
    """Refuse what is no attribution graph (a ``TypeError``), or has edges without what they carry (a ``ValueError``)."""
    nodes = graph.nodes(data="token") if isinstance(graph, nx.DiGraph) else ()
    if not nodes or not all(isinstance(node, tuple) and isinstance(token, str) for node, token in nodes):
        raise TypeError(f"{graph!r:.80}: expected an attribution graph, as attattr.attribution_graph returns it")
    for *edge, told in graph.edges(data=True):
        lacking = {"kind", "layer", "score", "head" if told.get("kind") == "attention" else "kind"} - set(told)
        if lacking or not np.isfinite(told["score"]):
            raise ValueError(f"{graph}, in it the edge {edge} with {told}: expected a finite score and {sorted(lacking)}")


def edges_of(graph: nx.DiGraph, kind: str) -> list[Edge]:
    """The edges of one kind."""
    return [(u, v) for u, v, of in graph.edges(data="kind") if of == kind]


def residual(graph: nx.DiGraph, carrying: bool) -> list[Edge]:
    """The residual edges that carry something up, as their token has read another further down; or the others, down to the word."""
    reads: dict[int, int] = {}  # token -> the lowest level at which it reads
    for (level, place), _ in edges_of(graph, "attention"):
        reads[place] = min(level, reads.get(place, level))
    return [(u, v) for u, v in edges_of(graph, "residual") if (reads.get(v[1], u[0]) <= v[0]) == carrying]


def decided(att: Attribution) -> str:
    """What was attributed, and how much it is."""
    return f"{att.label}, {att.amount}"


def bands(att: Attribution) -> list[tuple[int, int, str]]:
    """Start, end and name of the two texts of a pair, split after the first [SEP]; none for one text, or where nothing splits it."""
    start = next((place for place, token in enumerate(att.tokens) if token in SEP), 0) + 1
    if isinstance(att.text, str) or not 1 < start < len(att.tokens):
        return []
    names = ("premise", "hypothesis") if att.label in INFERENCE else ("first text", "second text")
    return [(1, start, names[0]), (start, len(att.tokens), names[1])]


def rise(layers: int) -> int:
    """The height of one layer, in pixels."""
    return max(40, 78 - 3 * layers)


def layer_axis(layers: int, **look: Any) -> dict[str, Any]:
    """An axis of levels, and between two of them the number of the layer that leads from the one to the other."""
    middles = {"tickvals": [layer + 0.5 for layer in range(layers)], "ticktext": [str(layer) for layer in range(layers)]}
    return middles | {"showgrid": False, "ticks": "", "title": {"text": "layer", "standoff": 4}, "range": [-0.25, layers + 0.45]} | look


def points(nodes: Sequence[Point], size: float, color: str | list[str]) -> go.Scatter:
    """Dots at some nodes."""
    x, y = [place for _, place in nodes], [level for level, _ in nodes]
    return go.Scatter(x=x, y=y, mode="markers", marker={"size": size, "color": color}, hoverinfo="skip", showlegend=False)


def straight(edges: Sequence[tuple[Point, Point]], color: str, width: float = 1.0, opacity: float = 1.0) -> go.Scatter:
    """Edges as straight lines."""
    x, y = ([at for u, v in edges for at in (v[end], u[end], None)] for end in (1, 0))
    line = {"width": width, "color": color}
    return go.Scatter(x=x, y=y, mode="lines", line=line, opacity=opacity, hoverinfo="skip", showlegend=False)


def curves(edges: Sequence[Edge], step: int) -> go.Scatter:
    """Attention edges of one width as smooth curves, from the token that is read up to the token that reads."""
    share = (step - 0.5) / BINS
    ends = np.array(edges)  # edge, (upper, lower), (level, place)
    upper, lower = ends[:, :1, 1], ends[:, 1:, 1]
    x, y = (places.astype(np.float32).ravel() for places in (lower + (upper - lower) * SHIFT, ends[:, 1:, 0] + RISE))
    line = {"width": round(0.7 + 8 * share, 1), "color": FOR, "shape": "spline"}
    return go.Scatter(x=x, y=y, mode="lines", line=line, opacity=round(0.12 + 0.75 * share**0.8, 2), hoverinfo="skip")


def handles(edges: Sequence[Edge], told: Mapping[Edge, Mapping[str, Any]], tokens: Sequence[str]) -> go.Scatter:
    """Unseen points on the curves, which say what they are when the pointer comes near."""
    ends = np.array(edges)
    lower, upper = ends[:, 1], ends[:, 0]
    words = [[told[u, v]["layer"], told[u, v]["head"], tokens[u[1]], tokens[v[1]], float(f"{told[u, v]['score']:.2g}")] for u, v in edges]
    hover = "layer %{customdata[0]}, head %{customdata[1]}: <b>%{customdata[2]}</b> reads <b>%{customdata[3]}</b><br>"
    hover += "score %{customdata[4]} (all heads; most in this one)<extra></extra>"
    x, y = lower[:, 1] + (upper[:, 1] - lower[:, 1]) * HANDLE[0], lower[:, 0] + HANDLE[1]
    unseen = {"size": 9, "opacity": 0, "color": FOR}
    return go.Scatter(x=x.astype(np.float32), y=y.astype(np.float32), customdata=words, mode="markers", marker=unseen, hovertemplate=hover)


def maximum_flow_figure(
    attention: Float[Tensor, "*L N N"], tokens: Sequence[str], node: tuple[int, int] = (-1, 0), least: float = 0.05
) -> go.Figure:
    """The graph of Ã below one node, and how much flow runs from it to each input token: beside rollout, and the flow's bound.

    Above, levels from the input up; a line is a weight of Ã of at least ``least`` that is joined to the source by such weights,
    its width by four classes (residual connections grey, at least 0.5). Below, for each input token, the maximum flow from the
    source, rollout, and min(1, column sum of the first layer) as a tick: a flow that has reached it does not tell where it comes
    from. Bars use all weights. A menu chooses the layer of the source, a slider its token; no kernel is needed.
    About 160 KB for 12 tokens in 6 layers, 390 KB for 22: there, a larger ``least`` makes it smaller.

    Args:
        attention: softmax probabilities of one text, L H N N or L N N.
        tokens: the N tokens.
        node: the source at the start, as in `attention_flow`: layer from 0 (or from the top, from -1 down), and the token's place.
        least: the smallest weight that is drawn, above 0 and up to 0.5.

    Raises:
        TypeError, ValueError: what `attention_flow` refuses; another number of tokens; no such node; ``least`` out of range.
    """
    adjusted = adjusted_attention(attention)
    grammar.check_maps(attention, tokens, ranks=(3, 4))
    layers, count = adjusted.shape[:2]
    if not (-layers <= operator.index(node[0]) < layers and -count <= operator.index(node[1]) < count):
        raise ValueError(f"node={node!r}: expected a layer from 0 to {layers - 1} and the place of a token from 0 to {count - 1}")
    if not 0 < least <= 0.5:
        raise ValueError(f"least={least!r}: expected a weight above 0 and up to 0.5, which every residual connection has")
    start, source = node[0] % layers, node[1] % count
    bound = flow_bound(attention.double()).numpy()
    flow = attention_flow(attention.double(), normalize=False, progress=False).numpy()
    rollout = attention_rollout(attention.double()).numpy()

    cones = [[(layer, *edge) for layer in range(layers) for edge in reached(adjusted, layer, token, least)] for token in range(count)]
    lines = [
        (look, positions, edges)
        for look in range(2 * len(WEIGHTS))  # thin lines on top of thick ones
        for positions, edges in together([[edge for edge in cone if look_of(adjusted, edge[1:]) == look] for cone in cones])
    ]
    always, pictures, words = range(count), {}, token_labels(tokens)
    for layer in range(layers):
        shown: list[tuple[Any, Sequence[int]]] = [(node_dots(adjusted, tokens), always)]
        for look, positions, edges in lines:
            _, *width = WEIGHTS[look // 2]
            shown.append((straight([edge[1:] for edge in edges if edge[0] == layer], (TAIL, FOR)[look % 2], *width), positions))
        for token in range(count):
            hover = f"the source: <b>{words[token]}</b>, after layer {layer}<extra></extra>"
            shown.append((points([(layer + 1, token)], 17.0, INK).update(hoverinfo=None, hovertemplate=hover), [token]))
            shown += [(trace, [token]) for trace in bar_traces(flow[layer, token], rollout[layer, token], bound)]
        pictures[f"{layer} (top)" if layer == layers - 1 else str(layer)] = reveal(shown, words, "Source token:", source)

    full = (flow >= bound - EQUAL) & (flow > 0)
    most, mixed = int(flow[start, source].argmax()), int(rollout[start, source].argmax())
    alt = f"The attention graph of {count} tokens and {layers} layers below “{tokens[source]}” after layer {start}; under it, "
    alt += f"for each input token, the maximum flow from there and rollout. Most flow: “{tokens[most]}”, {flow[start, source, most]:.2f}; "
    alt += f"most by rollout: “{tokens[mixed]}”, {rollout[start, source, mixed]:.2f}. {int(full[start, source].sum())} of {count} flows "
    alt += f"equal their bound, which is the same from every source; of all sources after layer {start}, {full[start].mean():.0%} do. "
    alt += "A menu and a slider choose another source."
    plot = rise(layers) * layers + 20 + BARS + TOP
    figure = swap(pictures, "Source after layer:", start)
    page(figure, alt, plot + 150, 90 + 20 * count if count > 16 else None, "x", barmode="overlay")
    figure.update_layout(margin={"t": 40, "b": 100, "l": 50, "r": 6}, legend={"y": -60 / plot}, sliders=[{"pad": {"t": 90}}])
    upward = {"anchor": "x2", "domain": [0, BARS / plot], "range": [0, 1.06], "nticks": 4, "gridcolor": FAINT}
    figure.update_layout(yaxis=layer_axis(layers) | {"domain": [(BARS + TOP) / plot, 1]}, yaxis2=upward)
    figure.update_layout(yaxis2_title={"text": "from the source", "standoff": 4}, xaxis=token_axis(tokens, showticklabels=False))
    figure.update_layout(xaxis2=token_axis(tokens, anchor="y2", tickangle=-90 if count > 12 else -45))
    figure.update_xaxes(range=[-0.7, count - 0.3])
    return note(figure, f"lines: weights Ã from {least:g}", 1, 1, "right", xref="paper", yref="paper", font={"size": 12})


def reached(adjusted: Float[np.ndarray, "L N N"], layer: int, token: int, least: float) -> list[Edge]:
    """The edges of weight ``least`` or more on the ways down by such edges from a token after a layer."""
    found, nodes = [], {token}
    for below in range(layer, -1, -1):
        edges = [((below + 1, i), (below, int(j))) for i in sorted(nodes) for j in np.flatnonzero(adjusted[below, i] >= least)]
        found += edges
        nodes = {lower[1] for _, lower in edges}
    return found


def look_of(adjusted: Float[np.ndarray, "L N N"], edge: Sequence[Node]) -> int:
    """Twice the class of the edge's weight, and 1 more if it does not stay with its token."""
    (_, i), (layer, j) = edge
    heavy = next(place for place, (low, *_) in enumerate(WEIGHTS) if adjusted[layer, i, j] >= low)
    return 2 * heavy + (i != j)


def node_dots(adjusted: Float[np.ndarray, "L N N"], tokens: Sequence[str]) -> go.Scatter:
    """All nodes; under the pointer, what the node is made of, the largest weights first."""
    names = token_labels(tokens)
    told = [f"<b>{name}</b>, the input" for name in names]
    for layer, of_layer in enumerate(adjusted):
        for name, row in zip(names, of_layer, strict=True):
            parts = ", ".join(f"{row[j]:.2f} {names[j]}" for j in np.argsort(-row, kind="stable")[:4])
            told.append(f"<b>{name}</b>, after layer {layer}<br>{parts}, …")
    dots = points([(level, place) for level in range(len(adjusted) + 1) for place in range(len(names))], 4.0, NEUTRAL)
    return dots.update(hoverinfo=None, hovertext=told, hovertemplate="%{hovertext}<extra></extra>")


def bar_traces(
    flow: Float[np.ndarray, " N"], rollout: Float[np.ndarray, " N"], bound: Float[np.ndarray, " N"]
) -> Iterator[go.Bar | go.Scatter]:
    """Flow below its bound, flow at it, and rollout from one node to every input token, and the bounds."""
    full, below = (flow >= bound - EQUAL) & (flow > 0), {"xaxis": "x2", "yaxis": "y2"}
    flows, mixed, limit = (values.round(5).tolist() for values in (flow, rollout, bound))
    hover = "<b>%{x}</b><br>flow %{y:.3f}, bound %{customdata:.3f}<extra></extra>"
    for name, color, some in (("flow", FOR, ~full), ("flow, at its bound", CONTROL, full)):
        places = np.flatnonzero(some).tolist()
        bars = go.Bar(x=places, y=[flows[j] for j in places], customdata=[limit[j] for j in places], name=name, hovertemplate=hover)
        yield bars.update(width=2 * SIDE, offset=-2 * SIDE, marker={"color": color, "line": {"width": 0}}, **below)
    rolled = go.Bar(x=list(range(len(mixed))), y=mixed, name="rollout", hovertemplate="<b>%{x}</b><br>rollout %{y:.3f}<extra></extra>")
    yield rolled.update(width=2 * SIDE, offset=0, marker={"color": NEUTRAL, "line": {"width": 0}}, **below)
    ticks = go.Scatter(x=(np.arange(len(limit)) - SIDE).tolist(), y=limit, mode="markers", hoverinfo="skip", **below)
    yield ticks.update(marker={"symbol": "line-ew", "size": 11, "line": {"width": 2.5, "color": INK}}, name="bound min(1, column sum)")
