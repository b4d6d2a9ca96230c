"""The figure of the book's first page: one sentence on its way through the model, by attention beside attribution."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas
import plotly.graph_objects as go

from ..connections import Attribution, strongest_connections
from . import grammar
from .graphs import layer_axis, points, straight

CURVE = np.linspace(0, 1, 15)
BEND = CURVE**2 * (3 - 2 * CURVE)  # flat at both ends
HALF = 0.485  # of the width, for either side


def sentence_figure(att: Attribution, counts: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 45, 60), active: int = 4) -> go.Figure:
    """The strongest connections of one sentence, by attention on the left and by attribution on the right, under one slider (index page).

    Words are rows and layers go from left to right. A line from the left end (the word read) to the right end (the word
    that reads) is one connection, over all heads of its layer: of attention their mean, of attribution their sum. The slider says how many
    are drawn, as many on either side. Width gives a line's number in relation to the largest of its side; colour and dash, the sign.

    Args:
        att: the attribution of one text.
        counts: how many connections each position of the slider draws, ascending.
        active: the position at which the slider starts.

    Raises:
        ValueError: counts that do not ascend from at least 1, or a start that is none of them.
    """
    grammar.check_attribution(att)
    if list(counts) != sorted(set(counts)) or not counts or counts[0] < 1 or not 0 <= active < len(counts):
        raise ValueError(f"counts={counts!r}, active={active!r}: expected ascending numbers of connections and the place of one of them")
    layers, heads = att.scores.shape[:2]
    scores = att.strongest(counts[-1], over="heads")
    weights = strongest_connections(att.attention, counts[-1], over="heads")
    weights["score"] /= heads  # of the sum, the mean
    rows = range(len(att.tokens))
    drawn: list[tuple[Any, Sequence[int]]] = []
    for axis, of_side in {
        "x": lines(weights, att.tokens, counts, "attention, mean over heads", signed=False),
        "x2": lines(scores, att.tokens, counts, "attribution", signed=True),
    }.items():
        rails = straight([((row, layers), (row, 0)) for row in rows], grammar.FAINT)  # each word's residual connection
        dots = points([(row, level) for row in rows for level in range(layers + 1)], 4.0, "#c9c9c9")
        everywhere = range(len(counts))
        disc = points([(0, layers)], 12.0, grammar.INK)  # on top: the model decides there on either side
        of_panel = [(rails, everywhere), (dots, everywhere), *of_side, (disc, everywhere)]
        drawn += [(trace.update(xaxis=axis), positions) for trace, positions in of_panel]
    figure = grammar.reveal(drawn, list(map(str, counts)), "Lines on each side:", active)
    figure.update_layout(xaxis={"domain": [0, HALF]}, xaxis2={"domain": [1 - HALF, 1]})
    figure.update_xaxes(layer_axis(layers, range=[-0.25, layers + 0.35]), title_standoff=6)
    figure.update_yaxes(grammar.token_axis(att.tokens, range=[len(att.tokens) - 0.5, -0.5], tickfont={"size": 15}))
    verdict = f"<b>{grammar.literal(att.label)}</b>, {grammar.literal(att.amount)}"
    above = {"xref": "paper", "yref": "paper", "align": "left", "font": {"size": 15}}
    grammar.note(figure, f"The model decides: {verdict}", 0, 1, "left", yshift=48, **above)
    for side, name in enumerate(("<b>Attention</b><br>where it looks", "<b>Attribution</b><br>what it contributes")):
        grammar.note(figure, name, side * (1 - HALF), 1, "left", **above)
    text = att.text if isinstance(att.text, str) else " ‖ ".join(att.text)
    alt = f"The words of “{text}” as rows, the {layers} layers from left to right, twice: on the left the strongest attention weights as "
    alt += f"lines, the strongest {in_words(weights, att.tokens, '.2f')}; on the right the strongest attributions, the strongest "
    alt += f"{in_words(scores, att.tokens, '+.2f')}. At the end of the first row the model decides: {att.label}, {att.amount}."
    grammar.page(figure, alt, height=170 + 36 * len(att.tokens), words="y", showlegend=False, hoverdistance=14)
    return figure.update_layout(margin={"t": 84, "b": 46, "l": 40, "r": 4})


def in_words(strongest: pandas.DataFrame, tokens: Sequence[str], number: str) -> str:
    """The first of some connections in words."""
    best = strongest.to_dict("records")[0]
    return f"“{tokens[best['query']]}” reads “{tokens[best['key']]}” in layer {best['layer']}, {best['score']:{number}}"


def lines(strongest: pandas.DataFrame, tokens: Sequence[str], counts: Sequence[int], meaning: str, signed: bool) -> Iterator[Any]:
    """Each connection as a smooth curve from the word read to the word that reads, with the positions of the slider that draw it.

    The strongest comes last, on top.
    """
    names, number = grammar.token_labels(tokens), "+.3f" if signed else ".2f"
    largest = max(strongest["score"].abs().max(), 1e-12)
    for rank, one in reversed(list(enumerate(strongest.to_dict("records")))):
        share = abs(one["score"]) / largest
        color, dash = look(one["score"]) if signed else (grammar.NEUTRAL, "solid")
        told = f"layer {one['layer']}: <b>{names[one['query']]}</b> reads <b>{names[one['key']]}</b><br>"
        told += f"{meaning} {one['score']:{number}}<br>most in head {one['head']}: {one['head_score']:{number}}"
        x, y = one["layer"] + CURVE, one["key"] + (one["query"] - one["key"]) * BEND
        line = {"width": round(1.2 + 11 * share, 1), "color": color, "dash": dash, "simplify": False}
        trace = go.Scatter(x=x.round(3), y=y.round(3), mode="lines", line=line, opacity=round(0.3 + 0.6 * share**0.5, 2))
        yield trace.update(hoverinfo="text", text=told), range(bisect_right(counts, rank), len(counts))


def look(score: float) -> tuple[str, str]:
    """Colour and dash of what speaks for the class, or against it."""
    return (grammar.FOR, "solid") if score > 0 else (grammar.AGAINST, "dash")
