"""Figures of chapter 10 for one sentence: attention, rollout, flow and attribution side by side; the graph that flow runs through."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from ..flow import EQUAL, adjusted_attention, attention_flow, attention_rollout, flow_bound
from ..graph import CLS, SEP
from .flow import GRID, NODE, TAIL, rise, together
from .sentence import FOR
from .style import DIVERGING, SEQUENTIAL, finish, token_labels

if TYPE_CHECKING:
    from ..attribution import Attribution

    Edge = tuple[int, int, int, int]  # the layer of the source, the level that reads, the token there, the token read below

WORDS = "words only, each layer's to sum to 1"
LINES = ((0.4, 7.0, 0.9), (0.2, 4.5, 0.75), (0.1, 2.6, 0.6), (0.0, 1.2, 0.5))  # weight from, pixels, opacity
SOURCE = 17  # pixels
BARS = {"flow": ("#2166ac", "flow"), "full": ("#f1a340", "flow, at its bound"), "rollout": ("#8f8e8a", "rollout")}
SIDE = 0.19  # between the middle of a token and that of one of its two bars


def views_figure(att: Attribution, layers: Sequence[int] | None = None, all_rows: bool = True) -> go.Figure:
    """Raw attention (head mean), rollout, flow and attribution of one text: tokens as rows, layers (from 1) as columns.

    The first three as seen by the token that the classifier reads; attribution summed over heads and queries. The colours of each
    view end at its largest number for a word, so special tokens may lie beyond the end. A menu leaves them out; what is left of
    a column of the first three then sums to 1.

    Args:
        att: the attribution of one text or pair.
        layers: those to show, counted from 0, ascending; None: all.
        all_rows: False reads attribution, too, in the classifier's row alone. Below the last layer there is next to nothing in it.

    Raises:
        ValueError: no such layer; a model that reads several tokens; a text of special tokens only; what `attention_rollout` refuses.
    """
    count, tokens = len(att.scores), att.tokens
    shown = list(range(count)) if layers is None else list(layers)
    if not shown or shown != sorted(set(shown)) or not 0 <= shown[0] <= shown[-1] < count:
        raise ValueError(f"layers={layers!r}: expected ascending numbers from 0 to {count - 1}")
    special = np.array([token in CLS + SEP for token in tokens])
    if special.all():
        raise ValueError(f"the tokens {list(tokens)[:8]} are all special: expected at least one word")
    place, views = sentence_views(att, all_rows)
    reader, figure, said = tokens[place], go.Figure(), []
    numbers = [str(layer + 1) for layer in shown]
    for words_only in (False, True):
        for panel, (name, values) in enumerate(views.items(), 1):
            z, signed = values[:, shown].copy(), name == "attribution"
            if words_only:
                z[special] = np.nan
                z = z if signed else z / np.maximum(np.nansum(z, 0), 1e-12)
            limit = float(f"{max(np.abs(z[~special]).max(), 1e-12):.2g}")
            hover = f"<b>%{{y}}</b>, layer %{{x}}<br>{name} %{{z:{'+' if signed else ''}.3g}}<extra></extra>"
            figure.add_heatmap(
                z=[[None if np.isnan(value) else float(f"{value:.3g}") for value in row] for row in z],
                x=numbers,
                y=token_labels(tokens),
                xaxis=f"x{panel}",
                colorscale=DIVERGING if signed else SEQUENTIAL,
                zmin=-limit if signed else 0,
                zmax=limit,
                zmid=0 if signed else None,
                showscale=False,
                xgap=1,
                ygap=1,
                hoverongaps=False,
                hovertemplate=hover,
                visible=not words_only,
            )
            above = {"x": panel_middle(panel), "xref": "paper", "y": 1, "yref": "paper", "xanchor": "center", "yanchor": "bottom"}
            scale = f"±{limit:g}" if signed else f"0 … {limit:g}"
            figure.add_annotation(above, text=f"<b>{name}</b><br>{scale}", font={"size": 12}, showarrow=False, visible=not words_only)
            if not words_only:
                word = int(np.abs(np.where(special, 0, z[:, -1])).argmax())
                share = "" if signed else f" (special tokens {z[special, -1].sum():.2f} of {z[:, -1].sum():.2f})"
                said.append(f"{name}: most to “{tokens[word]}”, {z[word, -1]:.2g}{share}")
    text = att.text if isinstance(att.text, str) else " / ".join(att.text)
    finish(
        figure,
        alt=(
            f"Four heat maps of “{text}”, {len(tokens)} tokens as rows, layers {numbers[0]} to {numbers[-1]} as columns: what {reader}, "
            f"where {att.label} is decided, sees of each token, and attribution. In layer {numbers[-1]}, {'; '.join(said)}."
        ),
        height=110 + 21 * len(tokens),
    )
    first = [True] * len(views) + [False] * len(views)
    buttons = [
        {"label": label, "method": "update", "args": [{"visible": seen}, {f"annotations[{k}].visible": on for k, on in enumerate(seen)}]}
        for label, seen in (("all tokens", first), (WORDS, [not on for on in first]))
    ]
    menu = {"name": "Show:", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[menu], margin={"t": 44, "b": 40, "l": 20, "r": 6}, dragmode=False)
    for panel in range(1, len(views) + 1):
        middle = panel_middle(panel)
        figure.update_layout({f"xaxis{panel}": {"domain": [middle - 0.115, middle + 0.115], "type": "category", "fixedrange": True}})
    figure.update_xaxes(showgrid=False, zeroline=False, ticks="", tickfont={"size": 11}, tickangle=0, nticks=7)
    figure.add_annotation(x=0.5, xref="paper", y=0, yref="paper", yshift=-36, text="layer", showarrow=False)
    labels = [f'<span style="color:{NODE}"><i>{token}</i></span>' if out else token for token, out in zip(tokens, special, strict=True)]
    places = list(range(len(tokens)))
    return figure.update_yaxes(
        range=[len(tokens) - 0.5, -0.5], tickvals=places, ticktext=labels, showgrid=False, zeroline=False, ticks="", fixedrange=True
    )


def sentence_views(att: Attribution, all_rows: bool = True) -> tuple[int, dict[str, Float[np.ndarray, "N L"]]]:
    """The token that the classifier reads, and what it sees of each token in each layer, by name of the view."""
    from ..saliency import classifier_row, read_row  # here, as it needs scipy.stats, which is slow to import

    scores = att.scores.sum((1, 2)) if all_rows else read_row(att, att.scores.sum(1))
    seen = {
        "attention": read_row(att, att.attention.mean(1)),
        "rollout": read_row(att, attention_rollout(att.attention)),
        "flow": read_row(att, attention_flow(att.attention, progress=False)),
        "attribution": scores,
    }
    return classifier_row(att), {name: values.T.double().numpy() for name, values in seen.items()}


def panel_middle(panel: int) -> float:
    """The middle of one of the four panels, as a share of the figure's width."""
    return (panel - 0.5) / 4


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
    layers, count = adjusted.shape[:2]
    if len(tokens) != count:
        raise ValueError(f"{len(tokens)} tokens for attention among {count}: expected one name for each")
    if not (-layers <= operator.index(node[0]) < layers and -count <= operator.index(node[1]) < count):
        raise ValueError(f"node={node!r}: expected a layer from 0 to {layers - 1} and the place of a token from 0 to {count - 1}")
    if not 0 < least <= 0.5:
        raise ValueError(f"least={least!r}: expected a weight above 0 and up to 0.5, which every residual connection has")
    start, source = node[0] % layers, node[1] % count
    bound = flow_bound(attention.double()).numpy()
    flow = attention_flow(attention.double(), normalize=False, progress=False).numpy()
    rollout = attention_rollout(attention.double()).numpy()

    levels, across = layers + 2, count + 2  # the pictures of all layers lie above each other, the bars of all tokens side by side
    cones = [[edge for layer in range(layers) for edge in reached(adjusted, layer, token, least)] for token in range(count)]
    traces: list[tuple[Any, tuple[int, ...]]] = [(node_dots(adjusted, tokens, levels), tuple(range(count)))]
    for positions, edges in together(cones):
        traces += [(trace, positions) for trace in edge_traces(edges, adjusted, levels)]
    traces.sort(key=lambda one: one[0].line.width or 0, reverse=True)  # thin lines on top of thick ones
    hover = "the source: <b>%{x}</b>, after layer %{customdata}<extra></extra>"
    for token in range(count):
        y = [layer * levels + layer + 1 for layer in range(layers)]
        mark = go.Scatter(x=[token] * layers, y=y, customdata=list(range(1, layers + 1)), mode="markers", hovertemplate=hover)
        traces.append((mark.update(marker={"size": SOURCE, "color": "#222222"}, showlegend=False), (token,)))
    traces += [(trace, tuple(range(count))) for trace in bar_traces(flow, rollout, bound, across)]

    figure = go.Figure([trace.update(visible=source in positions) for trace, positions in traces])
    graph, bars, gap = rise(layers) * layers + 20, 140, 30
    full = (flow >= bound - EQUAL) & (flow > 0)
    most, mixed = int(flow[start, source].argmax()), int(rollout[start, source].argmax())
    finish(
        figure,
        alt=(
            f"The attention graph of {count} tokens and {layers} layers below “{tokens[source]}” after layer {start + 1}; under it, "
            f"for each input token, the maximum flow from there and rollout. Most flow: “{tokens[most]}”, "
            f"{flow[start, source, most]:.2f}; most by rollout: “{tokens[mixed]}”, {rollout[start, source, mixed]:.2f}. "
            f"{int(full[start, source].sum())} of {count} flows "
            f"equal their bound, which is the same from every source; of all sources after layer {start + 1}, {full[start].mean():.0%} do. "
            "A menu and a slider choose another source."
        ),
        height=graph + bars + gap + 150,
        min_width=90 + 20 * count if count > 16 else None,
    )
    windows = [
        {"yaxis.range": [levels * layer - 0.25, levels * layer + layers + 0.45], "yaxis2.range": [2 * layer, 2 * layer + 1.06]}
        for layer in range(layers)
    ]
    sides = [[token * across - 0.7, token * across + count - 0.3] for token in range(count)]
    steps = [
        {
            "label": name,
            "method": "update",
            "args": [{"visible": [token in positions for _, positions in traces]}, {"xaxis2.range": sides[token]}],
        }
        for token, name in enumerate(token_labels(tokens))
    ]
    buttons = [
        {"label": f"{layer + 1}{' (top)' if layer == layers - 1 else ''}", "method": "relayout", "args": [windows[layer]]}
        for layer in range(layers)
    ]
    menu = {"name": "Source after layer:", "buttons": buttons, "active": start, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"}
    slider = {"active": source, "currentvalue": {"prefix": "Source token:"}, "steps": steps, "pad": {"t": 90}}
    share = bars / (graph + bars + gap)
    quiet = {"showgrid": False, "zeroline": False, "showline": False, "ticks": "", "fixedrange": True}
    numbers = [str(layer) for layer in range(1, layers + 1)]
    figure.update_layout(
        sliders=[slider],
        updatemenus=[menu],
        barmode="overlay",
        hovermode="closest",
        dragmode=False,
        margin={"t": 30, "b": 100, "l": 50, "r": 6},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -60 / (graph + bars + gap), "yanchor": "top"},
        xaxis=quiet | {"range": sides[0], "tickvals": list(range(count)), "ticktext": list(tokens), "showticklabels": False},
        xaxis2=quiet
        | {
            "anchor": "y2",
            "range": sides[source],
            "tickvals": [token * across + place for token in range(count) for place in range(count)],
            "ticktext": list(tokens) * count,
            "tickangle": -90 if count > 12 else -45,
        },
        yaxis=quiet
        | {
            "domain": [share + gap / (graph + bars + gap), 1],
            "tickvals": [levels * layer + number + 0.5 for layer in range(layers) for number in range(layers)],
            "ticktext": numbers * layers,
            "title": {"text": "layer", "standoff": 4},
        },
        yaxis2=quiet
        | {
            "anchor": "x2",
            "domain": [0, share],
            "tickvals": [2 * layer + value for layer in range(layers) for value in (0, 0.5, 1)],
            "ticktext": ["0", "0.5", "1"] * layers,
            "showgrid": True,
            "gridcolor": GRID,
            "title": {"text": "from the source", "standoff": 4},
        },
    )
    figure.update_layout({name: window for name, window in windows[start].items()})
    where = {"x": 0, "xref": "paper", "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return figure.add_annotation(where, text=f"lines: weights Ã from {least:g}", font={"size": 12})


def reached(adjusted: Float[np.ndarray, "L N N"], layer: int, token: int, least: float) -> list[Edge]:
    """The edges of weight ``least`` or more on the ways down from a node by such edges, with the layer of the node first."""
    found, nodes = [], {token}
    for below in range(layer, -1, -1):
        edges = [(layer, below, i, int(j)) for i in sorted(nodes) for j in np.flatnonzero(adjusted[below, i] >= least)]
        found += edges
        nodes = {edge[3] for edge in edges}
    return found


def edge_traces(edges: Sequence[Edge], adjusted: Float[np.ndarray, "L N N"], levels: int) -> Iterator[go.Scatter]:
    """Edges that are shown together, in a trace for each width; those that stay with their token in grey."""
    for stays in (True, False):
        of_kind = [edge for edge in edges if (edge[2] == edge[3]) == stays]
        high = np.inf
        for low, width, opacity in LINES:
            some = [(layer, below, i, j) for layer, below, i, j in of_kind if low <= adjusted[below, i, j] < high]
            high = low
            if some:
                x = np.array([[i, j, np.nan] for _, _, i, j in some], np.float32).ravel()
                y = np.array([[layer * levels + below + 1, layer * levels + below, np.nan] for layer, below, *_ in some], np.float32)
                line = {"width": width, "color": TAIL if stays else FOR}
                yield go.Scatter(x=x, y=y.ravel(), mode="lines", line=line, opacity=opacity, hoverinfo="skip", showlegend=False)


def node_dots(adjusted: Float[np.ndarray, "L N N"], tokens: Sequence[str], levels: int) -> go.Scatter:
    """All nodes below each layer's sources; under the pointer, what the node is made of, the largest weights first."""
    told = [[f"<b>{token}</b>, the input" for token in tokens]]
    for number, of_layer in enumerate(adjusted, 1):
        largest = [np.argsort(-row, kind="stable")[:4] for row in of_layer]
        parts = [", ".join(f"{row[j]:.2f} {tokens[j]}" for j in best) for row, best in zip(of_layer, largest, strict=True)]
        told.append([f"<b>{token}</b>, after layer {number}<br>{part}, …" for token, part in zip(tokens, parts, strict=True)])
    at = [(layer, level) for layer in range(len(adjusted)) for level in range(layer + 2)]
    return go.Scatter(
        x=np.tile(np.arange(len(tokens), dtype=np.int16), len(at)),
        y=np.repeat(np.array([layer * levels + level for layer, level in at], np.int16), len(tokens)),
        mode="markers",
        marker={"size": 4, "color": NODE},
        hovertext=[words for _, level in at for words in told[level]],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=False,
    )


def bar_traces(
    flow: Float[np.ndarray, "L N N"], rollout: Float[np.ndarray, "L N N"], bound: Float[np.ndarray, " N"], across: int
) -> Iterator[go.Bar | go.Scatter]:
    """Flow below its bound, flow at it, and rollout from every node to every input token, and the bounds."""
    layer, source, token = (place.ravel() for place in np.indices(flow.shape))
    limit, flows, mixed = bound[token], flow.ravel(), rollout.ravel()
    full = (flows >= limit - EQUAL) & (flows > 0)
    told = np.stack([flows, mixed, limit], 1).astype(np.float32)
    at, base = (source * across + token).astype(np.int16), (2 * layer).astype(np.int16)
    hover = "<b>%{x}</b><br>flow %{customdata[0]:.3f}, bound %{customdata[2]:.3f}<br>rollout %{customdata[1]:.3f}<extra></extra>"
    rolled = "<b>%{x}</b><br>rollout %{customdata[0]:.3f}<extra></extra>"
    for kind, height, some, offset in (
        ("flow", flows, ~full, -2 * SIDE),
        ("full", flows, full, -2 * SIDE),
        ("rollout", mixed, np.ones_like(full), 0),
    ):
        color, name = BARS[kind]
        bars = go.Bar(x=at[some], y=height[some].astype(np.float32), base=base[some], name=name)
        bars.update(customdata=told[some, 1:2] if kind == "rollout" else told[some], hovertemplate=rolled if kind == "rollout" else hover)
        yield bars.update(width=2 * SIDE, offset=offset, marker={"color": color, "line": {"width": 0}}, xaxis="x2", yaxis="y2")
    ticks = go.Scatter(x=(at - SIDE).astype(np.float32), y=(base + limit).astype(np.float32), mode="markers", hoverinfo="skip")
    look = {"symbol": "line-ew", "size": 11, "line": {"width": 2.5, "color": "#222222"}}
    yield ticks.update(marker=look, name="bound min(1, column sum)", xaxis="x2", yaxis="y2")
