"""The figure of chapter 6: how far apart the tokens are that attribution graphs join, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from .sentence import FOR
from .style import finish

CAP = 40
RIDGE, STRIP = 0.66, -0.14  # height of the highest bar of a layer, place of the marks below its base line
MARKS = {  # kind -> name, symbol, colour
    "attribution": ("mean of the graph's edges", "diamond", "#08306b"),
    "attention": ("mean, largest attention", "square", "#d55e00"),
    "random": ("mean, random keys", "circle-open", "#555555"),
}


def receptive_figure(results: Mapping[str, Mapping[str, Any]], cap: int = CAP) -> go.Figure:
    """Figure 6.1: the distances of the edges in each layer, with their means and those of two controls (Hao et al., §5.1, Fig. 4).

    Layers go upward, counted from 1. The bars of a layer are as high as the share of its edges that have this distance, in
    relation to its most frequent distance. Below them three means with 95 % intervals. Distances above ``cap`` are not drawn: their
    share is written at the right. A menu chooses the result.

    Args:
        results: for each name in the menu, what ``python -m attattr reproduce fig4`` measured (``attattr.result("fig4-sst2")``).
        cap: the largest distance with a bar.

    Raises:
        ValueError: no result, or a ``cap`` below 1.
    """
    if not results:
        raise ValueError("no result to draw: expected one or more, by name")
    if cap < 1:
        raise ValueError(f"cap={cap}: expected the largest distance to draw, 1 or more")
    figure = go.Figure()
    owner: list[str] = []  # the result that each trace belongs to
    for name, result in results.items():
        traces = [ridges(result["layers"]["attribution"], cap), *means(result["layers"], cap)]
        figure.add_traces([trace.update(visible=not owner or name == owner[0]) for trace in traces])
        owner += [name] * len(traces)
    buttons = [{"label": name, "method": "restyle", "args": [{"visible": [of == name for of in owner]}]} for name in results]
    layers = max(len(result["layers"]["attribution"]) for result in results.values())
    alt = (
        "One row of bars for each layer, upward: how often the two tokens of an edge are 1, 2, 3 … places apart. "
        f"{' '.join(told(name, result['layers']) for name, result in results.items())}"
    )
    finish(figure, alt, height=170 + 70 * layers)
    figure.update_layout(
        margin={"t": 84, "b": 50, "l": 46, "r": 8},
        bargap=0.08,
        barmode="overlay",
        hovermode="closest",
        dragmode=False,
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
    )
    if len(buttons) > 1:
        figure.update_layout(updatemenus=[{"name": "Task", "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.17, "yanchor": "top"}])
    plain = {"zeroline": False, "showline": False, "ticks": "", "fixedrange": True}
    ticks = [1, *range(10, cap + 1, 10)]
    figure.update_xaxes(plain, title="distance, in tokens", range=[0, cap * 1.14], tickvals=ticks, gridcolor="#eeeeee")
    numbers = np.arange(1, layers + 1)
    figure.update_yaxes(plain, tickvals=numbers + 0.2, ticktext=numbers, range=[0.7, layers + 0.75], showgrid=False)
    return figure.update_yaxes(title={"text": "layer", "standoff": 4})


def shares(spread: Mapping[str, Any], cap: int) -> Float[np.ndarray, " distances"]:
    """Of the edges of a layer, the share at each distance 1 to ``cap``, and the share beyond; zeros for a layer without edges."""
    found = np.zeros(cap + 1)
    for distance, count in spread["counts"].items():
        found[min(int(distance), cap + 1) - 1] += count
    return found / max(found.sum(), 1)


def ridges(spreads: Sequence[Mapping[str, Any]], cap: int) -> go.Bar:
    """The bars of all layers, each layer on its base line."""
    x: list[int] = []
    base: list[int] = []
    y: list[float] = []
    share: list[float] = []
    for layer, spread in enumerate(spreads, 1):
        of_layer = shares(spread, cap)[:cap]
        there = np.flatnonzero(of_layer)
        x += (there + 1).tolist()
        y += (RIDGE * of_layer[there] / of_layer.max()).round(3).tolist() if len(there) else []
        base += [layer] * len(there)
        share += (100 * of_layer[there]).round(1).tolist()
    hover = "layer %{base}, distance %{x}: %{customdata} % of the edges<extra></extra>"
    return go.Bar(x=x, y=y, base=base, customdata=share, marker={"color": FOR, "opacity": 0.55}, hovertemplate=hover, showlegend=False)


def means(layers: Mapping[str, Sequence[Mapping[str, Any]]], cap: int) -> list[go.Scatter]:
    """The three means of every layer with their intervals, and what lies beyond the ``cap``."""
    traces = []
    for kind, (name, symbol, color) in reversed(MARKS.items()):  # the graph's own on top
        there = [(number, spread) for number, spread in enumerate(layers[kind], 1) if spread["counts"]]
        x = [spread["mean"] for _, spread in there]
        low, high = ([round(abs(spread["interval"][end] - spread["mean"]), 2) for _, spread in there] for end in (0, 1))
        hover = f"{name}, layer %{{customdata[0]}}: %{{x:.1f}}, 95 % interval %{{customdata[1]}} to %{{customdata[2]}}<extra></extra>"
        traces.append(
            go.Scatter(
                x=x,
                y=[number + STRIP for number, _ in there],
                customdata=[[number, *(round(end, 1) for end in spread["interval"])] for number, spread in there],
                error_x={"type": "data", "array": high, "arrayminus": low, "color": color, "thickness": 1.5, "width": 4},
                mode="markers",
                marker={"symbol": symbol, "color": color, "size": 10, "line": {"width": 1.5}},
                name=name,
                legendrank=list(MARKS).index(kind),
                hovertemplate=hover,
            )
        )
    beyond = [(number, shares(spread, cap)[cap]) for number, spread in enumerate(layers["attribution"], 1)]
    beyond = [(number, share) for number, share in beyond if share >= 0.005]
    text = {"text": [f"+{share:.0%}" for _, share in beyond], "textposition": "middle left", "textfont": {"size": 12}}
    x, y = [cap * 1.14] * len(beyond), [number + 0.2 for number, _ in beyond]
    return [*traces, go.Scatter(x=x, y=y, mode="text", **text, hoverinfo="skip", showlegend=False)]


def told(name: str, layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The means of one result in a sentence."""
    graph, random = (", ".join(f"{spread['mean']:.1f}" for spread in layers[kind]) for kind in ("attribution", "random"))
    return f"{name}: mean distance from the first layer to the last {graph}; of random keys in the same rows {random}."
