"""A Plotly figure as plain SVG text: what the live widgets show wherever HTML can be shown, without any script.

Drawn is what the widgets' figures hold: the traces that are visible (lines, discs, words, lying bars, heat maps with their scale), bands,
notes and named ticks, on axes that say their range. What Plotly shows under the pointer is the title of its element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape, unescape
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from scipy.interpolate import PchipInterpolator

from .figures.grammar import INK

LETTER, SCALE, NEAR = 7.2, 70, 0.48  # pixels: a letter, the room of a scale of colours; from the middle of a cell or bar to its side
SHADES = 200  # the steps of a scale of colours: heat maps hold whole per cents, to both sides of 0
Point = tuple[int | float, int | float]


def picture(figure: go.Figure, width: float = 620.0) -> str:
    """A figure as SVG of this width, which shrinks and grows with the page; one with a ``min_width`` scrolls.

    Raises:
        ValueError: an axis without a range, a trace of another kind than those above.
    """
    layout, margin = figure.layout, figure.layout.margin
    top = margin.t  # read once: Plotly takes its time for each
    left = max(margin.l, *(LETTER * longest(axis) + 10 for axis in figure.select_yaxes()))
    scales = [trace for trace in figure.data if trace.type == "heatmap" and trace.showscale is not False]
    inner, high = width - left - margin.r - SCALE * bool(scales), layout.height - margin.t - margin.b
    words_below = LETTER * longest(layout.xaxis)
    turned = words_below * len(layout.xaxis.ticktext or ()) > inner
    height = margin.t + high + (words_below + 16 if turned else 24)

    spans = {axis.plotly_name.replace("axis", ""): span(axis) for axis in [*figure.select_xaxes(), *figure.select_yaxes()]}
    spans["paper"] = lambda value: float(value)

    def place(x: Any, y: Any, x_name: str | None, y_name: str | None) -> Point:
        return left + inner * spans[x_name or "x"](x), top + high * (1 - spans[y_name or "y"](y))

    parts = [
        box(place(band.x0, band.y0, band.xref, band.yref), place(band.x1, band.y1, band.xref, band.yref), band.fillcolor)
        for band in layout.shapes
    ]
    for trace in figure.data:
        if trace.visible is not False:
            parts += elements(trace, partial(place, x_name=trace.xaxis, y_name=trace.yaxis))
    for trace in scales:
        beside = left + inner + 12
        colors = shades(trace)[::-8]
        edges = np.linspace(top, top + high, len(colors) + 1).tolist()
        parts += [box((beside, edges[n]), (beside + 12, edges[n + 1]), color) for n, color in enumerate(colors)]
        for tick, text in zip(shares(trace, trace.colorbar.tickvals), trace.colorbar.ticktext, strict=True):
            parts.append(words((beside + 16, top + 4 + high * (1 - tick)), text, "start"))
    for value, text in zip(layout.xaxis.tickvals or (), layout.xaxis.ticktext or (), strict=True):
        x, y = place(value, 0, "x", "paper")
        turn = f'transform="rotate(-90 {x + 4:.1f} {y + 10:.1f})"'
        parts.append(words((x + 4, y + 10), text, "end", more=turn) if turned else words((x, y + 18), text, "middle"))
    for value, text in zip(layout.yaxis.tickvals or (), layout.yaxis.ticktext or (), strict=True):
        x, y = place(0, value, "paper", "y")
        parts.append(words((x - 6, y + 4), text, "end"))
    if layout.yaxis.title.text:
        parts.append(words((4, top - 8), layout.yaxis.title.text, "start"))
    for note in layout.annotations:
        x, y = place(note.x, note.y, note.xref, note.yref)
        y += 14 if note.yanchor == "top" else -6 - 15 * note.text.count("<br>")
        parts.append(words((x, y), note.text, {"left": "start", "right": "end"}.get(note.xanchor, "middle"), note.font.color or INK))
    ends = f"max-width:{1.3 * width:.0f}px;min-width:{layout.meta.get('min_width', 0)}px"
    return (
        f'<div style="overflow-x:auto" tabindex="0"><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{escape(layout.meta["alt"])}" style="display:block;width:100%;{ends};background:#fff" '
        f'font-family="sans-serif" font-size="13" fill="none">{"".join(parts)}</svg></div>'
    )


def span(axis: Any) -> Callable[[Any], float]:
    """From a value on an axis to its share of the picture."""
    if axis.range is None:
        raise ValueError(f"{axis.plotly_name} has no range: expected one, as it is not looked for in the traces")
    (low, high), (start, end) = axis.range, axis.domain or (0, 1)
    return lambda value: float(start + (end - start) * (value - low) / (high - low))


def elements(trace: Any, place: Callable[[Any, Any], Point]) -> Iterator[str]:
    """The elements of one trace."""
    title = titles(trace)
    if trace.type == "heatmap":
        colors = shades(trace)
        for (i, j), share in np.ndenumerate(shares(trace, trace.z)):
            yield box(place(j - NEAR, i - NEAR), place(j + NEAR, i + NEAR), colors[round(SHADES * share)], title(i, j))
    elif trace.type == "bar" and trace.orientation == "h":
        for n, (x, y) in enumerate(zip(trace.x, trace.y, strict=True)):
            (start, _), (end, middle) = place(0, y), place(x, y)
            yield box((start, middle - 9), (end, middle + 9), trace.marker.color[n], title(n))
            yield words((end + (4 if end >= start else -4), middle + 4), trace.text[n], "start" if end >= start else "end")
    elif trace.type == "scatter" and trace.mode == "lines":
        pieces = groupby(np.array([trace.x, trace.y], float).T, lambda point: np.isnan(point[0]))  # None is a gap, too
        path = "".join(smooth([place(*point) for point in piece]) for is_gap, piece in pieces if not is_gap)
        look = f'stroke="{trace.line.color}" stroke-width="{trace.line.width}" opacity="{1 if trace.opacity is None else trace.opacity}"'
        yield f'<path d="{path}" {look}>{title(0)}</path>'
    elif trace.type == "scatter" and trace.mode == "text":
        for x, y, text, color in zip(trace.x, trace.y, trace.text, np.broadcast_to(trace.textfont.color or INK, len(trace.x)), strict=True):
            yield words((place(x, y)[0], place(x, y)[1] + 4), text, "middle", color)
    elif trace.type == "scatter" and trace.mode == "markers":
        fills = np.broadcast_to(trace.marker.color, len(trace.x))
        look = f'r="{trace.marker.size / 2}" opacity="{1 if trace.marker.opacity is None else trace.marker.opacity}"'
        for n, (x, y, color) in enumerate(zip(trace.x, trace.y, fills, strict=True)):
            yield f'<circle cx="{place(x, y)[0]:.1f}" cy="{place(x, y)[1]:.1f}" {look} fill="{color}">{title(n)}</circle>'
    else:
        raise ValueError(f"a trace of the kind {trace.type!r}: expected lines, markers, text, lying bars or a heat map")


def titles(trace: Any) -> Callable[..., str]:
    """What stands under the pointer at each place of a trace, as the title of an element; nothing where Plotly tells nothing."""
    template = (trace.hovertemplate or "").replace("<extra></extra>", "")
    held = {name: np.array(trace[name], dtype=object) for name in re.findall(r"%\{(\w+)", template)}

    def title(*at: int) -> str:
        values = {name: found[at] for name, found in held.items()}
        text = re.sub(r"%(\{[^}]*\})", lambda field: field[1].format_map(values), template).replace("<br>", ", ")
        return f"<title>{bare(text)}</title>" if text else ""

    return title


def smooth(points: Sequence[Point]) -> str:
    """A curve through the points that nowhere goes beyond them, in short straight pieces; a straight line through two."""
    way = np.cumsum([0, *np.hypot(*np.diff(points, axis=0).T)])
    curve = PchipInterpolator(way, points)(np.linspace(0, way[-1], 32 if len(points) > 2 else 2))
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in curve.tolist())


def shares(trace: Any, values: Any) -> np.ndarray:
    """Where values stand on the scale of a heat map, from 0 to 1."""
    return (np.asarray(values, float) - trace.zmin) / (trace.zmax - trace.zmin)


def shades(trace: Any) -> list[str]:
    """The colours of a heat map's scale from its lower end to its upper one."""
    return sample_colorscale([list(stop) for stop in trace.colorscale], np.linspace(0, 1, SHADES + 1).tolist())


def longest(axis: Any) -> int:
    """The letters of an axis's longest name of a tick."""
    return max((len(unescape(bare(text))) for text in axis.ticktext or ()), default=0)


def bare(text: str) -> str:
    """Text without its elements."""
    return re.sub("<[^>]*>", "", text)


def box(one: Point, other: Point, color: str, title: str = "") -> str:
    """A rectangle between two corners."""
    (x, width), (y, height) = ((min(ends), abs(ends[1] - ends[0])) for ends in zip(one, other, strict=True))
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}">{title}</rect>'


def words(at: Point, text: str, anchor: str, color: str = INK, more: str = "") -> str:
    """Text as Plotly takes it, that is HTML with <b>, <i>, <br> and coloured <span>, that starts, ends, or has its middle at a point."""
    text = text.replace("<b>", '<tspan font-weight="bold">').replace("<i>", '<tspan font-style="italic">')
    text = re.sub(r'<span style="color:([^"]+)">', r'<tspan fill="\1">', text)
    text = re.sub("</(b|i|span)>", "</tspan>", text).replace("<br>", f'</tspan><tspan x="{at[0]:.1f}" dy="15">')
    return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}" fill="{color}" {more}><tspan>{text}</tspan></text>'
