"""The figure of the book's first page: one sentence on its way through the model, by attribution and by attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from .style import finish

if TYPE_CHECKING:
    from ..attribution import Attribution

FOR, AGAINST, NEUTRAL = "#2166ac", "#b2182b", "#7c7b78"  # blue is positive, as in every figure of the book
CURVE = np.linspace(0, 1, 15)


@dataclass(frozen=True)
class Connection:
    """Token ``query`` reads token ``key`` in ``layer``: the sum (or mean) over its heads, and the head that gives most."""

    layer: int
    query: int
    key: int
    value: float
    head: int
    head_value: float


def sentence_figure(att: Attribution, counts: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 45, 60), active: int = 6) -> go.Figure:
    """The strongest connections of one sentence, layer after layer, with a slider for how many are drawn (index page).

    Words are rows and layers go from left to right. A line from the left end (the word read) to the right end (the word
    that reads) is one connection, summed over the heads of its layer; width and colour give its score. A menu shows the
    strongest attention weights (mean over heads) in the same way.

    Args:
        att: the attribution of one text.
        counts: how many connections each position of the slider draws, ascending.
        active: the position at which the slider starts.

    Raises:
        ValueError: counts that do not ascend from at least 1, or a start that is none of them.
    """
    if list(counts) != sorted(set(counts)) or not counts or counts[0] < 1 or not 0 <= active < len(counts):
        raise ValueError(f"counts={counts!r}, active={active!r}: expected ascending numbers of connections and the place of one of them")
    layers = len(att.scores)
    views = (
        ("Attribution: what decided", strongest(att.scores.numpy(), counts[-1], mean=False), "attribution"),
        ("Attention: where it looked", strongest(att.attention.numpy(), counts[-1], mean=True), "attention, mean over heads"),
    )
    away = 2.0 * (layers + 2)  # the two views lie side by side on one axis, and the menu moves the window
    figure = go.Figure([rails(layers, len(att.tokens), away), nodes(layers, len(att.tokens), away)])
    rank = [-1, -1]  # of each trace: how many stronger lines its view has
    for number, (_, connections, meaning) in enumerate(views):
        largest = abs(connections[0].value) or 1.0
        for place, connection in reversed(list(enumerate(connections))):  # the strongest on top
            figure.add_trace(line(connection, att.tokens, largest, meaning, number * away, place < counts[active]))
            rank.append(place)
    steps = [{"label": str(count), "method": "restyle", "args": [{"visible": [place < count for place in rank]}]} for count in counts]
    window = [-0.25, layers + 0.35]
    buttons = [
        {"label": label, "method": "relayout", "args": [{"xaxis.range": [window[0] + number * away, window[1] + number * away]}]}
        for number, (label, *_) in enumerate(views)
    ]
    best = views[0][1][0]
    finish(
        figure,
        alt=(
            f"The words of “{att.text}” as rows, the {layers} layers from left to right, the strongest attributions as lines. "
            f"Strongest: “{att.tokens[best.query]}” reads “{att.tokens[best.key]}” in layer {best.layer}, {best.value:+.2f}. In the last "
            "layer all lines end at [CLS], where the model decides. With the menu: the strongest attention weights, quite other lines."
        ),
        height=110 + 36 * len(att.tokens),
    )
    figure.update_layout(
        margin={"t": 8, "b": 46, "l": 76, "r": 4},
        hovermode="closest",
        hoverdistance=14,
        showlegend=False,
        dragmode=False,
        sliders=[{"active": active, "currentvalue": {"prefix": "Strongest connections:"}, "steps": steps, "pad": {"t": 46}}],
        updatemenus=[{"name": "Show", "buttons": buttons, "x": 1, "y": 1.02, "xanchor": "right", "yanchor": "bottom"}],
    )
    middles = [number * away + layer + 0.5 for number in (0, 1) for layer in range(layers)]
    names = [str(layer) for layer in range(layers)] * 2
    plain = {"showgrid": False, "zeroline": False, "showline": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(plain, range=window, tickvals=middles, ticktext=names, title={"text": "layer", "standoff": 6})
    rows = list(range(len(att.tokens)))
    figure.update_yaxes(plain, tickvals=rows, ticktext=list(att.tokens), range=[len(rows) - 0.5, -0.95], tickfont={"size": 15})
    for number in (0, 1):
        verdict = f"<b>{att.label}</b>, p = {float(att.probabilities[att.target]):.3f}"
        corner = {"x": number * away + layers + 0.2, "y": -0.3, "xanchor": "right", "yanchor": "bottom", "showarrow": False}
        figure.add_annotation(corner, text=verdict, font={"size": 15})
    return figure


def strongest(values: Float[np.ndarray, "L H N N"], count: int, mean: bool) -> list[Connection]:
    """The connections with the largest absolute sum (or mean) over the heads, largest first."""
    total = values.mean(1) if mean else values.sum(1)
    found = []
    for flat in np.argsort(-np.abs(total), axis=None, kind="stable")[:count]:
        layer, query, key = (int(index) for index in np.unravel_index(flat, total.shape))
        heads = values[layer, :, query, key] * np.sign(total[layer, query, key])
        head = int(heads.argmax())
        found.append(Connection(layer, query, key, float(total[layer, query, key]), head, float(values[layer, head, query, key])))
    return found


def rails(layers: int, tokens: int, away: float) -> go.Scatter:
    """A faint line along each word's own way up (its residual connection), for both views."""
    x = np.tile([0, layers, np.nan], 2 * tokens) + np.repeat([0.0, away], 3 * tokens)
    y = np.tile(np.repeat(np.arange(tokens), 3), 2)
    return go.Scatter(x=x, y=y, mode="lines", line={"width": 1, "color": "#e4e4e4"}, hoverinfo="skip")


def nodes(layers: int, tokens: int, away: float) -> go.Scatter:
    """A dot for each word before and after each layer, for both views."""
    levels, rows = (grid.ravel() for grid in np.meshgrid(np.arange(layers + 1), np.arange(tokens)))
    decides = (levels == layers) & (rows == 0)
    marker = {"size": np.tile(np.where(decides, 13, 5), 2), "color": np.tile(np.where(decides, "#222222", "#c9c9c9"), 2)}
    return go.Scatter(x=np.concatenate([levels, levels + away]), y=np.tile(rows, 2), mode="markers", marker=marker, hoverinfo="skip")


def line(connection: Connection, tokens: tuple[str, ...], largest: float, meaning: str, shift: float, visible: bool) -> go.Scatter:
    """One connection as a smooth curve from the word that is read to the word that reads."""
    share = abs(connection.value) / largest
    bend = CURVE**2 * (3 - 2 * CURVE)
    signed = meaning == "attribution"
    color = (FOR if connection.value > 0 else AGAINST) if signed else NEUTRAL
    number = "+.3f" if signed else ".2f"
    hover = (
        f"layer {connection.layer}: <b>{tokens[connection.query]}</b> reads <b>{tokens[connection.key]}</b><br>"
        f"{meaning} {connection.value:{number}}<br>most in head {connection.head}: {connection.head_value:{number}}"
    )
    return go.Scatter(
        x=np.round(shift + connection.layer + CURVE, 3),
        y=np.round(connection.key + (connection.query - connection.key) * bend, 3),
        mode="lines",
        line={"width": round(1.2 + 11 * share, 1), "color": color, "simplify": False},
        opacity=round(0.3 + 0.6 * share**0.5, 2),
        hovertemplate=hover + "<extra></extra>",
        visible=visible,
    )
