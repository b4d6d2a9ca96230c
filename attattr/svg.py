"""A heatmap as plain SVG text: what the live widgets show wherever HTML can be shown, without any script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from jaxtyping import Float
from plotly.colors import sample_colorscale
from torch import Tensor

from .figures.style import DIVERGING, SEQUENTIAL

CELL, GAP, LETTER = 22.0, 8.0, 7.2  # pixels: side of a cell, space between parts, width of a letter
LEGEND_STEPS = 24


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
