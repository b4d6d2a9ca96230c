"""Heatmaps, graphs and attacked texts as plain SVG text: what the live widgets show wherever HTML can be shown, without any script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from jaxtyping import Float
from plotly.colors import sample_colorscale
from torch import Tensor

from .figures import flow
from .figures.heads import head_name
from .figures.sentence import FOR
from .figures.style import DIVERGING, SEQUENTIAL, token_labels
from .figures.triggers import BAND, OTHER, TRIGGER, bulge, strongest_links, touches
from .graph import find_terminal, layer_scores

if TYPE_CHECKING:
    from .attribution import Attribution

CELL, GAP, LETTER = 22.0, 8.0, 7.2  # pixels: side of a cell, space between parts, width of a letter
LEGEND_STEPS = 24
COLUMN, ROOM, NARROWEST = (18.0, 44.0), 560.0, 18.0  # pixels: a graph's columns in its own measure, its width, a column on the screen
BEND = 0.33  # how far along its rise a curve keeps its direction


def heatmap(
    values: Float[Tensor, "N K"],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    limit: float,
    words: Callable[[float], str],
    diverging: bool = False,
) -> str:
    """One heatmap with labels, a legend, and under each cell's pointer "row attends to column: value".

    Args:
        values: the numbers, row by row.
        rows, columns: a label for each row and column.
        title: stands above the picture, and names it to screen readers.
        limit: where the colours end.
        words: how a value is written.
        diverging: colours from -``limit`` over white at 0 to ``limit``, instead of 0 to ``limit``.
    """
    left = GAP + LETTER * max(map(len, rows))
    top = 26 + LETTER * max(map(len, columns)) * 0.87
    wide, high = CELL * len(columns), CELL * len(rows)
    fills = colors(values.numpy(), limit, diverging)
    text = [f'<text x="{GAP:.0f}" y="15" font-size="14">{escape(title)}</text>']
    for i, row in enumerate(rows):
        text.append(f'<text x="{left - 4:.0f}" y="{top + CELL * (i + 0.7):.0f}" text-anchor="end">{escape(row)}</text>')
    for j, column in enumerate(columns):
        x, y = left + CELL * (j + 0.7), top - 5
        text.append(f'<text transform="translate({x:.0f} {y:.0f}) rotate(-60)">{escape(column)}</text>')
    cells = [
        f'<rect x="{left + CELL * j:.0f}" y="{top + CELL * i:.0f}" width="{CELL - 1:.0f}" height="{CELL - 1:.0f}" fill="{fills[i][j]}">'
        f"<title>{escape(row)} attends to {escape(column)}: {escape(words(float(values[i, j])))}</title></rect>"
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
    key = legend(left + wide + 2 * GAP, top, high, limit, words, diverging)
    width, height = max(left + wide + 2 * GAP + 14 + LETTER * 9, GAP + 14 * 0.55 * len(title)), top + high + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="width:100%;max-width:{1.3 * width:.0f}px;background:#fff" font-family="sans-serif" font-size="12" fill="#222">'
        f"{''.join(text)}{''.join(cells)}{key}</svg>"
    )


def colors(values: np.ndarray, limit: float, diverging: bool) -> list[list[str]]:
    """The colour of each value, from the same scales as the Plotly figures."""
    place = np.clip(values / limit, -1, 1)
    share = (place + 1) / 2 if diverging else np.clip(place, 0, 1)
    flat = sample_colorscale(DIVERGING if diverging else SEQUENTIAL, share.flatten().tolist())
    return np.array(flat).reshape(values.shape).tolist()


def legend(x: float, y: float, height: float, limit: float, words: Callable[[float], str], diverging: bool) -> str:
    """A bar of colours from ``limit`` down to 0, or to -``limit``, with its ends (and the middle) named."""
    lowest = -limit if diverging else 0.0
    scale = np.linspace(limit, lowest, LEGEND_STEPS)
    step = height / LEGEND_STEPS
    bars = [
        f'<rect x="{x:.0f}" y="{y + step * k:.1f}" width="14" height="{step + 0.3:.1f}" fill="{fill}"/>'
        for k, fill in enumerate(colors(scale[None], limit, diverging)[0])
    ]
    marks = ((limit, 10.0), ((limit + lowest) / 2, height / 2 + 4), (lowest, height))
    return "".join(bars + [f'<text x="{x + 18:.0f}" y="{y + at:.0f}">{escape(words(value))}</text>' for value, at in marks])


def flow_graph(att: Attribution, graph: nx.DiGraph, terminal: int | None = None) -> str:
    """An attribution graph as `attattr.figures.flow_figure` draws it; each curve says under the pointer what it is.

    Args:
        att: the attribution, which gives tokens, bands and verdict.
        graph: what `attattr.attribution_graph` made of it.
        terminal: the place of the token at which the flow ends, as the graph was made with; by default that of [CLS].
    """
    layers, tokens, names = len(att.scores), att.tokens, token_labels(att.tokens)
    column, rise = float(np.clip(ROOM / len(tokens), *COLUMN)), flow.rise(layers)
    left, top = 30 + column / 2, 50.0
    bottom = top + rise * layers
    upright = max(map(len, tokens)) * LETTER < column
    width, height = left + column * len(tokens), bottom + (28 if upright else 20 + LETTER * max(map(len, tokens)))
    title = f"attribution graph: {flow.decided(att)}"

    def at(level: int | float, place: int | float) -> tuple[float, float]:
        return left + column * place, bottom - rise * level

    parts, colors = [words(GAP, 18.0, title, "start", "#222", 'font-size="14"')], ["#222"] * len(tokens)
    for (start, end, name), fill, color in zip(flow.bands(att), flow.BANDS, flow.PARTS, strict=False):
        colors[start:end] = [color] * (end - start)
        x, y = at(layers, start - 0.5)
        box = f'width="{column * (end - start):.1f}" height="{bottom - top + 26:.0f}"'
        parts.append(f'<rect x="{x:.1f}" y="{y - 20:.0f}" {box} fill="{fill}"/>')
        parts.append(words(x + column * (end - start) - 4, y - 7, name, "end", color))
    parts += [words(GAP, at(layer - 0.5, 0)[1] + 4, str(layer), "start", "#222") for layer in range(1, layers + 1)]
    for place, (token, color) in enumerate(zip(tokens, colors, strict=True)):
        x, y = at(0, place)
        turn = "" if upright else f'transform="rotate(-90 {x + 4:.1f} {y + 12:.1f})"'
        parts.append(words(x if upright else x + 4, y + (20 if upright else 12), token, "middle" if upright else "end", color, turn))
        parts.append(line(at(0, place), at(layers, place), flow.GRID, 1.0))
    for color, carrying in ((flow.TAIL, False), (flow.CARRIER, True)):
        parts += [line(at(*v), at(*u), color, 1.6 if carrying else 1.0) for u, v in flow.residual(graph, carrying)]
    parts += [dot(at(*node), 2.2, flow.NODE) for node in graph]
    largest = layer_scores(att).max((1, 2))
    edges = [
        (flow.strength(d["score"], largest[d["layer"] - 1]), u, v, d) for u, v, d in graph.edges(data=True) if d["kind"] == "attention"
    ]
    for step, u, v, data in sorted(edges, key=lambda edge: edge[0]):  # the strongest on top
        told = f"layer {data['layer']}, head {data['head']}: {names[u[1]]} reads {names[v[1]]}, score {data['score']:.2g}"
        thick, opacity = flow.stroke(step)
        parts.append(line(at(*v), at(*u), FOR, thick, f'opacity="{opacity}"', told))
    parts.append(dot(at(layers, find_terminal(att.tokens) if terminal is None else terminal), 8.0, "#222"))
    return (
        f'<div style="overflow-x:auto"><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}" style="display:block;width:100%;min-width:{NARROWEST * len(tokens):.0f}px;'
        f'max-width:{1.3 * width:.0f}px;background:#fff" font-family="sans-serif" font-size="12" fill="none">{"".join(parts)}</svg></div>'
    )


def attacked_picture(before: Attribution, after: Attribution, places: Sequence[int], classes: Sequence[str], count: int) -> str:
    """The probabilities as a table, and the tokens with the arcs of the largest scores: before on the left, after on the right."""
    rows = [
        f"<tr><th>{escape(name)}</th><td>{p:.3f}</td><td>{q:.3f}</td></tr>"
        for name, p, q in zip(classes, before.probabilities.tolist(), after.probabilities.tolist(), strict=True)
    ]
    table = f"<table><thead><tr><th></th><th>without</th><th>with the trigger</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    row, side, tokens = 18, 200.0, len(after.tokens)
    middle = LETTER * max(map(len, after.tokens)) + 16
    own = [place for place in range(tokens) if place not in places]
    width, height = 2 * side + middle, row * (tokens + 0.5)
    parts = [f'<rect x="{side:.0f}" y="{row * place + 1}" width="{side + middle:.0f}" height="{row}" fill="{BAND}"/>' for place in places]
    for att, at, x, out in ((before, own, side, -side), (after, list(range(tokens)), side + middle, side)):
        links = strongest_links(att, count)
        for link in reversed(links):
            touching = att is after and touches(link, places)
            start, end = (row * (at[place] + 0.6) for place in (link.query, link.key))
            reach, share = x + out * bulge(link, tokens), link.score / links[0].score
            # A parabola whose middle is at the reach; a token that reads itself has a loop.
            path = (
                f"Q{2 * reach - x:.1f} {(start + end) / 2:.1f}"
                if start != end
                else f"C{reach:.1f} {start - 9:.1f} {reach:.1f} {start + 9:.1f}"
            )
            color, told = (
                TRIGGER if touching else OTHER,
                f"{att.tokens[link.query]} reads {att.tokens[link.key]}: {link.score:+.3f}, {head_name(link.layer, link.head)}",
            )
            parts.append(
                f'<path d="M{x:.1f} {start:.1f}{path} {x:.1f} {end:.1f}" fill="none" stroke="{color}" stroke-width="{1 + 5 * share:.1f}" '
                f'stroke-opacity="{0.35 + 0.55 * share:.2f}"><title>{escape(told)}</title></path>{dot((x, end), 3.0, color)}'
            )
    for place, token in enumerate(after.tokens):
        color = TRIGGER if place in places else "#222"
        parts.append(words(side + middle / 2, row * (place + 0.6) + 4, token, "middle", color))
    title = f"what decided {before.label} without the trigger, on the left, and {after.label} with it, on the right"
    return (
        f'{table}<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="width:100%;max-width:{1.3 * width:.0f}px;background:#fff" font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def words(x: float, y: float, text: str, anchor: str, color: str, more: str = "") -> str:
    """A line of text that starts, ends, or has its middle at a point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" {more}>{escape(text)}</text>'


def dot(at: tuple[float, float], radius: float, color: str) -> str:
    """A disc."""
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius}" fill="{color}"/>'


def line(low: tuple[float, float], high: tuple[float, float], color: str, width: float, more: str = "", told: str = "") -> str:
    """A vertical, or a smooth curve, from the lower point up to the higher one; ``told`` stands under the pointer."""
    (x, y), (to_x, to_y) = low, high
    bend = BEND * (to_y - y)
    title = f"<title>{escape(told)}</title>" if told else ""
    path = f"M{x:.1f} {y:.1f}C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}"
    return f'<path d="{path}" stroke="{color}" stroke-width="{width}" {more}>{title}</path>'
