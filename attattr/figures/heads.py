"""Figures of single heads: tokens through the layers, A and V and c, gates (chapter 1); attention beside attribution (chapter 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from ..attribution import Attribution
from .style import DIVERGING, SEQUENTIAL, colorbar, finish, frame_slider, signed, token_labels

PERCENT = 100  # heatmaps of shares hold whole per cents, one byte each: what is under the pointer reads as it is
BANDS = ((0.5, 1.01, "#00224e", 3.2), (0.25, 0.5, "#4a6c8c", 1.8), (0.12, 0.25, "#a9b7c4", 1.0))  # attention from, to; colour, width
LINES = {"attribution": ("#0072b2", "solid"), "attention": ("#d55e00", "dash"), "random": ("#666666", "dot")}
ATTENDS = "%{y} attends to %{x}: %{z} %<extra></extra>"  # what stands under the pointer
PERCENT_BAR = {"thickness": 10, "len": 0.9, "ticksuffix": " %"}
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
OTHER_LINE = ("#009e73", "dashdot")


def head_name(layer: int, head: int) -> str:
    """What a head is called in every picture and control; both counted from 0."""
    return f"layer {layer}, head {head}"


def percent(values: np.ndarray | Tensor, limit: float = 1.0) -> np.ndarray:
    """Values from -``limit`` to ``limit`` as whole per cents of it, in signed bytes."""
    return np.rint(np.clip(np.asarray(values, float) / limit, -1, 1) * PERCENT).astype(np.int8)


def largest(values: Tensor) -> float:
    """The largest absolute value, for the end of a colour scale; a positive number also where all are zero."""
    return max(float(values.abs().max()), 1e-12)


def strongest_head(scores: Float[Tensor, "L H N N"]) -> tuple[int, int]:
    """Layer and head of the largest score."""
    layer, head = divmod(int(scores.flatten(2).amax(-1).argmax()), scores.shape[1])
    return layer, head


def token_paths_figure(attention: Float[Tensor, "L H N N"], tokens: Sequence[str]) -> go.Figure:
    """Figure 1.1: the tokens, a row of nodes for each layer, joined where attention is 0.12 or more; a slider over heads.

    The line from node i above layer l to node j below it is ``attention[l, h, i, j]``. The first step of the slider is
    the mean over heads.
    """
    layers, heads, count, _ = attention.shape
    maps = {"mean of all": attention.mean(1)} | {str(h): attention[:, h] for h in range(heads)}
    traces = {name: [band_lines(map_, *band) for band in BANDS] for name, map_ in maps.items()}
    level, place = np.divmod(np.arange((layers + 1) * count), count)
    figure = go.Figure(traces["mean of all"])
    stay = go.Scatter(x=np.repeat(np.arange(count), 3), y=np.tile([0, layers, None], count), mode="lines", hoverinfo="skip")
    figure.add_trace(stay.update(line={"color": "#dddddd", "width": 6}, name="the token itself (residual)"))
    nodes = go.Scatter(x=place, y=level, mode="markers", marker={"size": 9, "color": "#ffffff", "line": {"color": "#555555", "width": 1.5}})
    figure.add_trace(nodes.update(showlegend=False, text=[tokens[p] for p in place], hovertemplate="%{text}, row %{y}<extra></extra>"))
    figure.add_trace(go.Scatter(x=[0], y=[layers], mode="markers", name="read by the classifier", marker={"size": 16, "color": "#e69f00"}))
    figure.data = (figure.data[3], *figure.data[:3], *figure.data[4:])  # what stays lies under what moves
    figure.frames = [go.Frame(name=name, data=lines, traces=[1, 2, 3]) for name, lines in traces.items()]
    figure.update_xaxes(tickvals=np.arange(count), ticktext=list(tokens), tickangle=-45, showgrid=False, zeroline=False)
    above = ["embeddings", *(f"after layer {layer}" for layer in range(layers))]
    figure.update_yaxes(tickvals=np.arange(layers + 1), ticktext=above, showgrid=False, zeroline=False, range=[-0.3, layers + 0.4])
    figure.update_layout(sliders=[frame_slider(list(maps), "Head (of every layer): ")], legend=LEGEND_ABOVE)
    alt = (
        f"{count} tokens as columns, {layers + 1} rows of nodes from the embeddings below to the output of layer {layers - 1} above. "
        "Lines show who attends to whom in each layer; darker and thicker means more attention. At the top only the [CLS] node is read "
        "by the classifier."
    )
    return finish(figure, alt, height=560, min_width=620).update_layout(margin={"l": 100, "t": 70})


def band_lines(attention: Float[Tensor, "L N N"], low: float, high: float, color: str, width: float) -> go.Scatter:
    """One trace with the lines of all connections whose attention is in [``low``, ``high``)."""
    layer, query, key = ((attention >= low) & (attention < high)).nonzero(as_tuple=True)
    gap = [None] * len(layer)
    x = [at for line in zip(query.tolist(), key.tolist(), gap, strict=True) for at in line]
    y = [at for line in zip((layer + 1).tolist(), layer.tolist(), gap, strict=True) for at in line]
    name = f"attention {low:g} to {min(high, 1):g}"
    return go.Scatter(x=x, y=y, mode="lines", name=name, line={"color": color, "width": width}, hoverinfo="skip")


def head_figure(
    attention: Float[Tensor, "L H N N"],
    value: Float[Tensor, "L H N d"],
    context: Float[Tensor, "L N H d"],
    tokens: Sequence[str],
    start: tuple[int, int] = (0, 0),
) -> go.Figure:
    """Figure 1.2: A, V and c = A V of one head, side by side, with a slider over all heads; opens on layer and head ``start``."""
    layers, heads, _, size = value.shape
    labels = token_labels(tokens)
    limit = float(value.abs().flatten().quantile(0.995))  # beyond it colours are at their end
    by_head = {
        head_name(layer, h): (
            percent(attention[layer, h]),
            signed(value[layer, h].numpy(), limit),
            signed(context[layer, :, h].numpy(), limit),
        )
        for layer in range(layers)
        for h in range(heads)
    }

    def draw(parts: tuple[np.ndarray, ...]) -> list[go.Heatmap]:
        matrix = go.Heatmap(z=parts[0], x=labels, y=labels, coloraxis="coloraxis", hovertemplate=ATTENDS)
        hover = "%{y}, dimension %{x}<extra></extra>"
        sides = [go.Heatmap(z=part, y=labels, coloraxis="coloraxis2", hovertemplate=hover) for part in parts[1:]]
        return [matrix, *(side.update(xaxis=f"x{n}", yaxis=f"y{n}") for n, side in enumerate(sides, 2))]

    figure = go.Figure(draw(by_head[head_name(*start)]), frames=[go.Frame(name=name, data=draw(parts)) for name, parts in by_head.items()])
    figure.update_layout(
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": PERCENT, "colorbar": PERCENT_BAR | {"x": 0.31}},
        coloraxis2={"colorscale": DIVERGING, "cmid": 0, "cmin": -127, "cmax": 127, "colorbar": colorbar(limit, 127, "", diverging=True)},
        xaxis={"domain": [0, 0.3], "tickangle": -60},
        xaxis2={"domain": [0.43, 0.7], "title": f"{size} dimensions", "showticklabels": False},
        xaxis3={"domain": [0.73, 1], "anchor": "y3", "title": f"{size} dimensions", "showticklabels": False},
        yaxis={"autorange": "reversed"},
        yaxis2={"autorange": "reversed", "anchor": "x2", "showticklabels": False},
        yaxis3={"autorange": "reversed", "anchor": "x3", "showticklabels": False},
        sliders=[frame_slider(list(by_head), "Head: ", active=start[0] * heads + start[1])],
    )
    name_panels(figure, {0.15: "attention A", 0.565: "values V", 0.865: "context c = A V"})
    alt = (
        f"Three heatmaps of one head, for {len(tokens)} tokens: the attention matrix, its values with {size} dimensions, and the context, "
        "each row of which is the mixture of value rows that the attention row asks for. A slider goes through all heads."
    )
    return finish(figure, alt, height=430, min_width=760).update_layout(margin={"b": 90})


def gates_figure(change: Float[Tensor, "G L H"], gates: Sequence[float]) -> go.Figure:
    """Figure 1.3: what the log-odds of the decision lose or gain when one head at a time is multiplied by a gate."""
    limit = largest(change)
    names = [f"{gate:g} (control)" if gate == 1 else f"{gate:g}" for gate in gates]
    hover = "layer %{y}, head %{x}: %{z:+.2f}<extra></extra>"
    maps = [go.Heatmap(z=map_.numpy().round(3), coloraxis="coloraxis", hovertemplate=hover, xgap=2, ygap=2) for map_ in change]
    figure = go.Figure(maps[-1], frames=[go.Frame(name=name, data=[map_]) for name, map_ in zip(names, maps, strict=True)])
    figure.update_layout(
        coloraxis={"colorscale": DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": "log-odds"}, "thickness": 14}},
        xaxis={"title": "head", "dtick": 1, "showgrid": False, "zeroline": False},
        yaxis={"title": "layer", "dtick": 1, "showgrid": False, "zeroline": False},
        sliders=[frame_slider(names, "Gate: ", active=len(names) - 1)],
    )
    alt = (
        f"Grid of {change.shape[1]} layers by {change.shape[2]} heads: the change of the decision's log-odds when the context of that head "
        "is multiplied by a gate. With a gate of 1 every cell is zero; towards a gate of 0 a few heads stand out."
    )
    return finish(figure, alt, height=400)


def maps_figure(attribution: Attribution) -> go.Figure:
    """Figure 2.1: attention (left) and attribution (right) of one head, with a slider over all heads.

    Opens on the head with the largest score. Attribution is in per cent of that score, so that heads can be compared.
    """
    scores, labels = attribution.scores, token_labels(attribution.tokens)
    limit = largest(scores)
    heads = [(layer, head) for layer in range(scores.shape[0]) for head in range(scores.shape[1])]
    names = [head_name(*at) for at in heads]
    first = heads.index(strongest_head(scores))

    def draw(layer: int, head: int) -> list[go.Heatmap]:
        pair = (percent(attribution.attention[layer, head]), percent(scores[layer, head], limit))
        left, right = (go.Heatmap(z=z, x=labels, y=labels, hovertemplate=ATTENDS) for z in pair)
        return [left.update(coloraxis="coloraxis"), right.update(coloraxis="coloraxis2", xaxis="x2", yaxis="y2")]

    figure = go.Figure(draw(*heads[first]), frames=[go.Frame(name=name, data=draw(*at)) for name, at in zip(names, heads, strict=True)])
    side_by_side(figure, limit)
    figure.update_xaxes(tickangle=-60)
    figure.update_layout(sliders=[frame_slider(names, "Head: ", active=first)])
    alt = (
        f"Two {len(labels)} by {len(labels)} heatmaps of one head, rows attend to columns: attention left, attribution right. "
        "Several cells are bright on the left; on the right nearly all of them are blank. A slider goes through all heads."
    )
    return finish(figure, alt, height=460, min_width=720).update_layout(margin={"b": 90})


def sheets_figure(attribution: Attribution) -> go.Figure:
    """Figure 2.2: the maps of all heads at once, attention (left) and attribution (right); layers across, heads down.

    The colours of attribution end at a quarter of the largest score, so that small scores show, too.
    """
    layers, heads, count, _ = attribution.scores.shape
    limit = largest(attribution.scores) / 4
    figure = go.Figure()
    for n, maps in enumerate((percent(attribution.attention), percent(attribution.scores, limit)), 1):
        sheet = maps.transpose(1, 2, 0, 3).reshape(heads * count, layers * count)  # rows (H N), columns (L N)
        suffix = "" if n == 1 else "2"
        figure.add_trace(go.Heatmap(z=sheet, coloraxis=f"coloraxis{suffix}", xaxis=f"x{suffix}", yaxis=f"y{suffix}", hoverinfo="skip"))
        across, down = (np.arange(1, k) * count - 0.5 for k in (layers, heads))
        x = [*np.repeat(across, 3), *np.tile([-0.5, layers * count - 0.5, None], len(down))]
        y = [*np.tile([-0.5, heads * count - 0.5, None], len(across)), *np.repeat(down, 3)]
        color = "#ffffff" if n == 1 else "#999999"
        grid = go.Scatter(x=x, y=y, mode="lines", line={"color": color, "width": 1}, xaxis=f"x{suffix}", yaxis=f"y{suffix}")
        figure.add_trace(grid.update(hoverinfo="skip", showlegend=False))
    side_by_side(figure, limit)
    middle = [np.arange(k) * count + (count - 1) / 2 for k in (layers, heads)]
    figure.update_xaxes(title="layer", tickvals=middle[0], ticktext=np.arange(layers), zeroline=False, range=[-0.5, layers * count - 0.5])
    figure.update_yaxes(tickvals=middle[1], ticktext=np.arange(heads), zeroline=False, autorange=False, range=[heads * count - 0.5, -0.5])
    figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False)
    figure.update_layout(yaxis_title="head")
    alt = (
        f"Two sheets with one small heatmap for each of {layers * heads} heads, layers across and heads down. The attention sheet is full "
        "of patterns: stripes, diagonals, blocks. The attribution sheet is almost empty: a few dots in a few heads."
    )
    return finish(figure, alt, height=780, min_width=720)


def side_by_side(figure: go.Figure, limit: float) -> None:
    """Two panels: shares of attention on the left, scores in per cent of ``limit`` on the right."""
    figure.update_layout(
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": PERCENT, "colorbar": PERCENT_BAR | {"x": 0.435}},
        coloraxis2={"colorscale": DIVERGING, "cmid": 0, "cmin": -PERCENT, "cmax": PERCENT, "colorbar": PERCENT_BAR},
        xaxis={"domain": [0, 0.43]},
        xaxis2={"domain": [0.57, 1]},
        yaxis={"autorange": "reversed"},
        yaxis2={"autorange": "reversed", "anchor": "x2", "showticklabels": False},
    )
    name_panels(figure, {0.215: "attention", 0.785: f"attribution (100 % = {limit:.2g})"})


def name_panels(figure: go.Figure, names: Mapping[float, str]) -> None:
    """A name above each panel, centred at a share of the figure's width."""
    for x, name in names.items():
        figure.add_annotation(x=x, y=1, xref="paper", yref="paper", xanchor="center", yanchor="bottom", text=name, showarrow=False)
    figure.update_annotations(font={"size": 15})


def agreement_figure(correlation: Float[Tensor, "B L H"]) -> go.Figure:
    """Figure 2.3: rank correlation of attention and attribution within every head of every text, by layer."""
    figure = go.Figure()
    for layer in range(correlation.shape[1]):
        values = correlation[:, layer].flatten().numpy().round(2)
        figure.add_trace(go.Box(y=values, name=str(layer), marker={"color": "#0072b2", "size": 3}, line={"width": 1.5}))
    figure.update_xaxes(title="layer", type="category")
    figure.update_yaxes(title="rank correlation ρ", range=[-1.05, 1.05])
    figure.update_layout(showlegend=False)
    alt = (
        f"Box plots, one for each of {correlation.shape[1]} layers: the rank correlation between attention and attribution within a head, "
        f"over {correlation.shape[2]} heads and {correlation.shape[0]} texts. All boxes but the last lie around zero, far from one."
    )
    return finish(figure, alt, height=360)


def cutting_figure(shares: Sequence[float], probabilities: Mapping[str, Float[Tensor, "B K"]]) -> go.Figure:
    """Figure 2.4: the probability of the decision when a share of all connections is zeroed, for several choices of which.

    Lines are medians over texts, bands the middle half. ``shares`` are between 0 and 1, drawn on a logarithmic axis.
    """
    figure = go.Figure()
    x = [100 * share for share in shares]
    for name, values in probabilities.items():
        color, dash = LINES.get(name, OTHER_LINE)
        low, middle, high = (values.quantile(q, dim=0).numpy().round(3) for q in (0.25, 0.5, 0.75))
        band = go.Scatter(x=[*x, *reversed(x)], y=[*high, *reversed(low)], fill="toself", fillcolor=color, opacity=0.18, name=name)
        figure.add_trace(band.update(mode="lines", line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=name))
        line = {"color": color, "dash": dash, "width": 2.5}
        hover = "%{x:.2g} % removed: %{y:.2f}<extra>" + name + "</extra>"
        figure.add_trace(go.Scatter(x=x, y=middle, mode="lines+markers", line=line, name=name, legendgroup=name, hovertemplate=hover))
    figure.update_xaxes(title="connections cut (%, logarithmic)", type="log", tickvals=x, ticktext=[f"{v:g}" for v in x])
    figure.update_yaxes(title="probability of the decision", range=[0, 1.03])
    figure.update_layout(legend=LEGEND_ABOVE)
    alt = (
        f"Probability of the decision against the share of connections set to zero, {', '.join(probabilities)}; medians over texts. The "
        "line for the largest attributions falls early, the lines for the largest attention and for random connections stay high."
    )
    return finish(figure, alt, height=440).update_layout(margin={"t": 60})
