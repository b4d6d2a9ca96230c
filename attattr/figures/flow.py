"""The figure of chapter 4: the attribution graph of one text, with a slider for the threshold τ, and the graph in sentences."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, TypeVar

import networkx as nx
import numpy as np
import plotly.graph_objects as go

from ..graph import SEP, attribution_graph, find_terminal, layer_scores
from .sentence import FOR
from .style import finish, token_labels

if TYPE_CHECKING:
    from ..attribution import Attribution

Node = tuple[int, int]  # level, token index
Edge = tuple[Node, Node]  # from the token that reads down to the token that is read
Thing = TypeVar("Thing", bound=Hashable)

TAUS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BINS = 10  # widths and opacities
RISE, SHIFT = np.array([0, 0.13, 0.87, 1]), np.array([0, 0.045, 0.955, 1])  # what a curve goes through between two levels
HANDLE = np.array([0.377, 0.4])  # the point on it that answers the pointer: not the middle, where the curves of a layer cross
GRID, TAIL, CARRIER, NODE = "#ececec", "#bdbcb8", "#85847f", "#8f8e8a"
PARTS = ("#8a4b08", "#00695c")  # the words of the first and of the second text of a pair
BANDS = ("#fdf3e3", "#e4f3f0")
INFERENCE = ("entailment", "neutral", "contradiction", "not_entailment")


def flow_figure(att: Attribution, taus: tuple[float, ...] = TAUS, active: int = 4, terminal: int | None = None) -> go.Figure:
    """The attribution graph of one text, flowing up to [CLS], with a slider for the threshold τ (Hao et al., arXiv v1, §4.2, Fig. 2).

    Tokens stand along the bottom, levels go up from 0, the embeddings, to the model's last output, and layer l lies between
    the levels l - 1 and l. A curve rises from the token that is read to the token that reads; its width and opacity give its score
    in relation to the largest of its layer. Grey verticals are the residual edges,
    darker where their token has read another further down. The two texts of a pair stand on two bands.

    Algorithm 1 joins every two tokens only once, from the top down, so the graph of a higher τ is not a part of that of
    a lower one. Every edge is stored once, with the others of its width that are drawn at the same positions of the slider.
    At τ = 0 nearly all pairs of tokens are joined: for texts much longer than 40 tokens start higher to keep the page small.

    Args:
        att: the attribution of one text, or of one pair.
        taus: the threshold at each position of the slider, ascending from 0 to 1 (the last layer always has τ = 0, §5.1).
        active: the position at which the slider starts.
        terminal: the place of the token at which the flow ends; by default that of [CLS].

    Raises:
        ValueError: thresholds that do not ascend within 0 to 1, a start that is none of them; no [CLS] and no ``terminal``;
            scores that are not finite.
    """
    if not taus or not (taus[0] >= 0 and taus[-1] <= 1 and all(a < b for a, b in pairwise(taus))):
        raise ValueError(f"taus={taus!r}: expected thresholds that ascend within 0 to 1")
    if not 0 <= active < len(taus):
        raise ValueError(f"active={active!r}: expected the place of one of {len(taus)} thresholds, 0 to {len(taus) - 1}")
    terminal = find_terminal(att.tokens) if terminal is None else terminal
    layers, count = len(att.scores), len(att.tokens)
    graphs = [attribution_graph(att, tau, terminal) for tau in taus]
    always = tuple(range(len(taus)))
    attention = {(u, v): data for graph in graphs for u, v, data in graph.edges(data=True) if data["kind"] == "attention"}
    largest = layer_scores(att).max((1, 2))

    def bin_of(edge: Edge) -> int:
        return strength(attention[edge]["score"], largest[attention[edge]["layer"] - 1])

    traces: list[tuple[go.Scatter, tuple[int, ...]]] = [(grid(layers, count), always)]
    for color, carrying in ((TAIL, False), (CARRIER, True)):
        for positions, edges in together([residual(graph, carrying) for graph in graphs]):
            traces.append((verticals(edges, color), positions))
    for positions, nodes in together(graphs):
        traces.append((dots(nodes), positions))
    groups = [
        (step, positions, list(edges))
        for positions, found in together([edges_of(graph, "attention") for graph in graphs])
        for step, edges in groupby(sorted(found, key=bin_of), bin_of)
    ]
    for step, positions, edges in sorted(groups, key=lambda group: group[0]):  # the strongest on top
        traces.append((curves(edges, step), positions))
    for positions, edges in together([edges_of(graph, "attention") for graph in graphs]):
        traces.append((handles(edges, attention, token_labels(att.tokens)), positions))
    traces.append((goal(layers, terminal), always))

    figure = go.Figure([trace.update(visible=active in positions) for trace, positions in traces])
    steps = []
    for position, (tau, graph) in enumerate(zip(taus, graphs, strict=True)):
        visible = [position in positions for _, positions in traces]
        steps.append({"label": f"{tau:g}: {len(edges_of(graph, 'attention'))} edges", "method": "restyle", "args": [{"visible": visible}]})
    verdict = decided(att)
    text = att.text if isinstance(att.text, str) else " / ".join(att.text)
    drawn = len(edges_of(graphs[active], "attention"))
    finish(
        figure,
        alt=(
            f"The tokens of “{text}” along the bottom, the {layers} layers upward; curves rise from the token that "
            f"is read to the token that reads and end at {att.tokens[terminal]}, where the model decides: {verdict}. "
            f"At τ = {taus[active]:g} there are {drawn} curves. {graph_sentences(graphs[active])}"
        ),
        height=190 + rise(layers) * layers,
        min_width=90 + 14 * count if count > 20 else None,
    )
    figure.update_layout(
        margin={"t": 34, "b": 50, "l": 46, "r": 6},
        hovermode="closest",
        hoverdistance=16,
        showlegend=False,
        dragmode=False,
        sliders=[{"active": active, "currentvalue": {"prefix": "τ ="}, "steps": steps, "pad": {"t": 70}}],
    )
    plain = {"showgrid": False, "zeroline": False, "showline": False, "ticks": "", "fixedrange": True}
    places = list(range(count))
    figure.update_xaxes(plain, automargin=True, tickvals=places, ticktext=words(att), range=[-0.8, count - 0.4])
    figure.update_xaxes({"tickangle": -90} if count > 12 else {"autotickangles": [0, -90]})
    numbers = list(range(1, layers + 1))
    middles = [number - 0.5 for number in numbers]
    figure.update_yaxes(plain, tickvals=middles, ticktext=numbers, title={"text": "layer", "standoff": 4}, range=[-0.25, layers + 0.45])
    for band, (start, end, name) in enumerate(bands(att)):
        figure.add_shape(
            type="rect", x0=start - 0.5, x1=end - 0.5, y0=-0.25, y1=layers + 0.45, line_width=0, fillcolor=BANDS[band], layer="below"
        )
        corner = {"x": end - 0.6, "y": layers + 0.45, "xanchor": "right", "yanchor": "top", "showarrow": False}
        figure.add_annotation(corner, text=name, font={"color": PARTS[band]})
    side = "left" if terminal < count / 2 else "right"
    above = {"x": terminal, "y": 1, "yref": "paper", "xanchor": side, "yanchor": "bottom", "showarrow": False}
    figure.add_annotation(above, text=f"{att.tokens[terminal]} decides: <b>{verdict}</b>", font={"size": 15})
    return figure


def graph_sentences(graph: nx.DiGraph, count: int = 8) -> str:
    """An attribution graph in words: who reads what, the strongest of each layer first, from the top layer down.

    Told are the ``count`` edges that are strongest in relation to the strongest of their layer, so that no layer is passed over
    as long as ``count`` allows. A token that stands more than once is followed by its place (``the ·7``); heads count from 0.

    Args:
        graph: what `attattr.attribution_graph` returns.
        count: how many edges are told at most.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: expected at least one edge to tell")
    edges = edges_of(graph, "attention")
    if not edges:
        return "No connection is above the threshold: the graph has residual edges only."
    best: dict[int, float] = {}
    for edge in edges:
        best[edge[0][0]] = max(best.get(edge[0][0], 0), graph.edges[edge]["score"])
    edges.sort(key=lambda edge: (-graph.edges[edge]["score"] / best[edge[0][0]], -edge[0][0]))
    told = sorted(edges[:count], key=lambda edge: (-edge[0][0], -graph.edges[edge]["score"]))
    sentences = []
    for layer, of_layer in groupby(told, lambda edge: edge[0][0]):
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


def edges_of(graph: nx.DiGraph, kind: str) -> list[Edge]:
    """The edges of one kind."""
    return [(u, v) for u, v, of in graph.edges(data="kind") if of == kind]


def together(drawn: Sequence[Iterable[Thing]]) -> list[tuple[tuple[int, ...], list[Thing]]]:
    """From what is drawn at each position of the slider: sets of positions, each with what is drawn at these and no others."""
    positions: dict[Thing, list[int]] = {}
    for position, things in enumerate(drawn):
        for thing in things:
            positions.setdefault(thing, []).append(position)
    groups: dict[tuple[int, ...], list[Thing]] = {}
    for thing, places in positions.items():
        groups.setdefault(tuple(places), []).append(thing)
    return list(groups.items())


def decided(att: Attribution) -> str:
    """The class that was attributed, and its probability."""
    return f"{att.label}, p = {float(att.probabilities[att.target]):.3f}"


def words(att: Attribution) -> list[str]:
    """The tokens as axis labels; those of a pair in two colours."""
    labels = list(att.tokens)
    for color, (start, end, _) in zip(PARTS, bands(att), strict=False):
        labels[start:end] = [f'<span style="color:{color}">{token}</span>' for token in labels[start:end]]
    return labels


def bands(att: Attribution) -> list[tuple[int, int, str]]:
    """Start, end and name of the two texts of a pair, split after the first [SEP]; none for one text, or where nothing splits it."""
    if isinstance(att.text, str):
        return []
    start = next((place for place, token in enumerate(att.tokens) if token in SEP), 0) + 1
    if not 1 < start < len(att.tokens):
        return []
    names = ("premise", "hypothesis") if att.label in INFERENCE else ("first text", "second text")
    return [(1, start, names[0]), (start, len(att.tokens), names[1])]


def rise(layers: int) -> int:
    """The height of one layer, in pixels."""
    return max(40, 78 - 3 * layers)


def grid(layers: int, tokens: int) -> go.Scatter:
    """A faint line along each token's own way up, whether it is in the graph or not."""
    x = np.repeat(np.arange(tokens, dtype=np.float32), 3)
    y = np.tile(np.array([0, layers, np.nan], np.float32), tokens)
    return go.Scatter(x=x, y=y, mode="lines", line={"width": 1, "color": GRID}, hoverinfo="skip")


def residual(graph: nx.DiGraph, carrying: bool) -> list[Edge]:
    """The residual edges that carry something up, as their token has read another further down; or the others, down to the word."""
    reads: dict[int, int] = {}  # token -> the lowest level at which it reads
    for (level, place), _ in edges_of(graph, "attention"):
        reads[place] = min(level, reads.get(place, level))
    return [(u, v) for u, v in edges_of(graph, "residual") if (reads.get(v[1], u[0]) <= v[0]) == carrying]


def verticals(edges: Sequence[Edge], color: str) -> go.Scatter:
    """Residual edges."""
    x = np.array([[v[1], u[1], np.nan] for u, v in edges], np.float32).ravel()
    y = np.array([[v[0], u[0], np.nan] for u, v in edges], np.float32).ravel()
    return go.Scatter(x=x, y=y, mode="lines", line={"width": 1.6 if color == CARRIER else 1, "color": color}, hoverinfo="skip")


def dots(nodes: Sequence[Node]) -> go.Scatter:
    """Nodes of the graph."""
    level, place = np.array(nodes, np.uint16).T
    return go.Scatter(x=place, y=level, mode="markers", marker={"size": 4.5, "color": NODE}, hoverinfo="skip")


def strength(score: float, largest: float) -> int:
    """The bin of a score in relation to the largest of its layer, 1 to BINS."""
    return min(BINS, 1 + int(BINS * score / largest))


def stroke(step: int) -> tuple[float, float]:
    """Width, in pixels, and opacity of the curves in one bin."""
    share = (step - 0.5) / BINS
    return round(0.7 + 8 * share, 1), round(0.12 + 0.75 * share**0.8, 2)


def curves(edges: Sequence[Edge], step: int) -> go.Scatter:
    """Attention edges of one width as smooth curves, from the token that is read up to the token that reads."""
    width, opacity = stroke(step)
    x, y = (np.full((len(edges), len(RISE) + 1), np.nan, np.float32) for _ in "xy")
    ends = np.array(edges)  # edge, (upper, lower), (level, place)
    upper, lower = ends[:, :1, 1], ends[:, 1:, 1]
    x[:, :-1] = lower + (upper - lower) * SHIFT
    y[:, :-1] = ends[:, 1:, 0] + RISE
    return go.Scatter(
        x=x.ravel(),
        y=y.ravel(),
        mode="lines",
        line={"width": width, "color": FOR, "shape": "spline"},
        opacity=opacity,
        hoverinfo="skip",
    )


def handles(edges: Sequence[Edge], attention: dict[Edge, dict], tokens: Sequence[str]) -> go.Scatter:
    """Unseen points on the curves, which say what they are when the pointer comes near."""
    ends = np.array(edges)
    lower, upper = ends[:, 1], ends[:, 0]
    told = []
    for u, v in edges:
        data = attention[u, v]
        told.append([data["layer"], data["head"], tokens[u[1]], tokens[v[1]], float(f"{data['score']:.2g}")])
    hover = (
        "layer %{customdata[0]}, head %{customdata[1]}: <b>%{customdata[2]}</b> reads <b>%{customdata[3]}</b><br>"
        "score %{customdata[4]} (all heads; most in this one)<extra></extra>"
    )
    return go.Scatter(
        x=(lower[:, 1] + (upper[:, 1] - lower[:, 1]) * HANDLE[0]).astype(np.float32),
        y=(lower[:, 0] + HANDLE[1]).astype(np.float32),
        customdata=told,
        mode="markers",
        marker={"size": 9, "opacity": 0, "color": FOR},
        hovertemplate=hover,
    )


def goal(layers: int, terminal: int) -> go.Scatter:
    """The node at which the flow ends."""
    return go.Scatter(x=[terminal], y=[layers], mode="markers", marker={"size": 17, "color": "#222222"}, hoverinfo="skip")
