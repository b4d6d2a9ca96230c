"""Figures of chapter 10 over whole validation sets: which method ranks words best, and how often flow equals its bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .evidence import LEGEND
from .style import finish
from .universality import FAINT, called, two_digits

# Blue for what comes from attribution, red from attention, orange from gradients, as in the chapters before.
FAMILIES = {"attribution": ("#2166ac", "circle"), "gradient": ("#d98c21", "diamond"), "attention": ("#b2182b", "square")}
OTHER = ("#777777", "triangle-up")
FROM_ATTENTION = ("attention", "rollout", "flow")
AGAINST = {"blank-out": "blank-out |Δp|", "input gradient": "input gradient", "signed blank-out": "blank-out Δp, signed"}
READINGS = {"row": "", "max": ", max of rows"}
MEASURES = {
    "comprehensiveness": ("#2166ac", "circle", "comprehensiveness: larger is better"),
    "sufficiency": ("#d98c21", "diamond", "sufficiency: smaller is better"),
}
MODELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito's
RANDOM = {"text": "random", "yshift": 16}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
AWAY = 10_000  # the tasks lie below each other on one axis, in pixels, and the menu moves the window
HEAD, STEP, ROOM = 20, 7, 12  # pixels: the name of a row, a layer, and what is left below
EDGES = 92  # pixels above and below the rows


@dataclass(frozen=True)
class Row:
    """One method: its means with intervals, by layer (None: the method has no layers)."""

    method: str
    points: tuple[tuple[int | None, float, float, float], ...]

    @property
    def best(self) -> tuple[int | None, float, float, float]:
        """The layer with the largest mean."""
        return max(self.points, key=lambda point: point[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return HEAD + STEP * (len(self.points) - 1) + ROOM


def ranking_figure(results: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """How well each method ranks the words of a text: Spearman's ρ with a reference, mean over texts with its 95 % interval.

    A row for each method, that with the best layer on top. A method with a number in each layer has a dot for each, the first
    layer uppermost, the best one large; where too few texts had a correlation, there is none. A random ranking has 0. One menu
    chooses the task, another the reference.

    Args:
        results: for each task what ``attattr.result("flow-correlations-TASK")`` returns; the first is shown at the start.

    Raises:
        ValueError: no result; one without correlations, or with one that does not lie in its interval, within -1 to 1; a reference
            that one task has and another lacks; the same method and layer twice.
    """
    tasks = checked(results, "correlations")
    views = {task: ranked(called(task), results[task]["correlations"]) for task in tasks}
    kinds = list(views[tasks[0]])
    figure, owner, said, height = go.Figure(), [], [], 0
    for task in tasks:
        if set(views[task]) != set(kinds):
            raise ValueError(f"{called(task)} is compared with {list(views[task])}, {called(tasks[0])} with {kinds}: expected the same")
        best = ", ".join(f"{row.method} {interval(row.best)}{in_layer(row.best[0])}" for row in views[task][kinds[0]])
        said.append(f"{called(task)}, {results[task]['texts']} texts: {best}.")
    for kind in kinds:
        placed = [place_rows(views[task][kind], AWAY * number) for number, task in enumerate(tasks)]
        height = max(height, *(sum(row.height for row, _ in rows) for rows in placed))
        for trace in ranking_traces(list(chain(*placed))):
            figure.add_trace(trace.update(visible=kind == kinds[0]))
            owner.append(kind)
    alt = f"Mean rank correlation with {view_name(kinds[0])} for each method, in its best layer, with 95 % intervals. "
    finish(figure, alt + " ".join(said), height=height + EDGES)
    menus = [task_windows(tasks, [height] * len(tasks))] if len(tasks) > 1 else []
    if len(kinds) > 1:
        buttons = [{"label": view_name(kind), "method": "restyle", "args": [{"visible": [of == kind for of in owner]}]} for kind in kinds]
        menus.append({"name": "Against:", "buttons": buttons, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"})
    row_layout(figure, menus, height, "Spearman's ρ, mean over texts")
    figure.update_layout(showlegend=False, margin={"t": 34})
    return figure.add_vline(x=0, line={"color": "#9a9a9a", "width": 1.5, "dash": "dash"}, layer="below", annotation=RANDOM)


def ranked(task: str, lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Row]]:
    """The rows for each reference and reading, the one with the best layer first; after every check of the numbers."""
    found: dict[tuple[str, str], dict[str, dict[int | None, tuple[float, float, float]]]] = {}
    for line in lines:
        missing = [key for key in ("method", "layer", "reading", "against", "mean", "low", "high") if key not in line]
        if missing:
            raise ValueError(f"a correlation of {task} has no {missing[0]!r}, only {sorted(line)}")
        if line["against"] not in AGAINST or line["reading"] not in READINGS:
            given = f"{line['against']!r}, {line['reading']!r}"
            raise ValueError(f"a correlation of {task} with {given}: expected one of {list(AGAINST)} and of {list(READINGS)}")
        if line["mean"] is None:  # too few texts have one
            continue
        name = f"{task}, {line['method']}, layer {line['layer']}"
        point = check_interval(name, (line["mean"], line["low"], line["high"]), -1.0, 1.0)
        points = found.setdefault((line["against"], line["reading"]), {}).setdefault(line["method"], {})
        if line["layer"] in points:
            raise ValueError(f"{name} stands twice: expected one correlation with {line['against']} by {line['reading']}")
        points[line["layer"]] = point
    order = [kind for kind in ((against, reading) for reading in READINGS for against in AGAINST) if kind in found]
    views = {}
    for kind in order:
        rows = [
            Row(
                method,
                tuple((layer, *point) for layer, point in sorted(points.items(), key=lambda item: -1 if item[0] is None else item[0])),
            )
            for method, points in found[kind].items()
        ]
        views[kind] = sorted(rows, key=lambda row: -row.best[1])
    return views


def ranking_traces(placed: Sequence[tuple[Row, int]]) -> Iterator[go.Scatter]:
    """The names of the rows, and the dots of each family of methods."""
    names = [f"<b>{row.method}</b> {two_digits(row.best[1])}{in_layer(row.best[0])}" for row, _ in placed]
    yield row_names(names, [y for _, y in placed])
    for family in dict.fromkeys(map(look, (row.method for row, _ in placed))):
        color, symbol = family
        dots: list[tuple[Any, ...]] = []  # layer, mean, low, high, y, name, size
        for row, top in placed:
            if look(row.method) != family:
                continue
            for step, point in enumerate(row.points):
                dots.append((*point, top + HEAD + STEP * step, f"{row.method}{in_layer(point[0])}", 10 if point == row.best else 5))
            dots.append((None, None, None, None, None, "", 0))  # so that no line joins two methods
        trace = with_intervals([dot[1:4] for dot in dots], [dot[4] for dot in dots], color)
        yield trace.update(
            mode="lines+markers",
            line={"color": color, "width": 1},
            marker={"color": color, "symbol": symbol, "size": [dot[6] for dot in dots]},
            customdata=[[dot[5], interval(dot[:4]) if dot[1] is not None else ""] for dot in dots],
            hovertemplate="<b>%{customdata[0]}</b><br>ρ = %{customdata[1]}<extra></extra>",
        )


def masking_figure(results: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Comprehensiveness and sufficiency of each method's ranking, with 95 % intervals; those of random orders are bands.

    A row for each method, the most comprehensive on top. A menu chooses the task.

    Args:
        results: for each task what ``attattr.result("flow-correlations-TASK")`` returns; the first is shown at the start.

    Raises:
        ValueError: no result; one without masking, without a random order or with nothing else; a mean outside its interval.
    """
    tasks = checked(results, "masking")
    figure, said, heights = go.Figure(), [], []
    rows: list[tuple[Mapping[str, Any], int]] = []
    bands: list[tuple[Mapping[str, Any], int, int]] = []
    for number, task in enumerate(tasks):
        lines, random = masked(called(task), results[task]["masking"])
        heights.append((HEAD + 2 * ROOM) * len(lines))
        rows += [(line, AWAY * number + (HEAD + 2 * ROOM) * place) for place, line in enumerate(lines)]
        bands.append((random, AWAY * number - 4, AWAY * number + heights[-1] + 4))
        values = "; ".join(
            f"{line['method']}{in_layer(line['layer'])} " + " and ".join(two_digits(line[measure][0]) for measure in MEASURES)
            for line in [*lines, random]
        )
        said.append(f"{called(task)}, {results[task]['texts']} texts: {values}.")
    for measure, (color, symbol, name) in MEASURES.items():
        x = [at for random, *_ in bands for _, low, high in [random[measure]] for at in (low, high, high, low, None)]
        y = [at for _, top, end in bands for at in (top, top, end, end, None)]
        band = go.Scatter(x=x, y=y, mode="lines", fill="toself", fillcolor=color, opacity=0.22, line={"width": 0}, hoverinfo="skip")
        figure.add_trace(band.update(name=f"{measure}, random order", showlegend=False))
        trace = with_intervals([line[measure] for line, _ in rows], [y + HEAD + 4 for _, y in rows], color)
        told = [[f"{line['method']}{in_layer(line['layer'])}", interval((None, *line[measure]))] for line, _ in rows]
        hover = f"<b>%{{customdata[0]}}</b><br>{measure} %{{customdata[1]}}<extra></extra>"
        look_of = {"color": color, "symbol": symbol, "size": 9}
        figure.add_trace(trace.update(mode="markers", marker=look_of, name=name, customdata=told, hovertemplate=hover))
    figure.add_trace(row_names([f"<b>{line['method']}</b>{in_layer(line['layer'])}" for line, _ in rows], [y for _, y in rows]))
    alt = "Comprehensiveness and sufficiency of each method's ranking as dots with 95 % intervals, those of random orders as bands. "
    finish(figure, alt + " ".join(said), height=heights[0] + EDGES + 50)
    menus = [task_windows(tasks, heights, EDGES + 50)] if len(tasks) > 1 else []
    row_layout(figure, menus, heights[0], "loss of probability; bands: random")
    return figure.update_layout(legend=LEGEND | {"y": -58 / heights[0]}, margin={"t": 8, "b": 110})


def masked(task: str, lines: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """The methods of one task, the most comprehensive first, and the random order; after every check."""
    for line in lines:
        missing = [key for key in ("method", "layer", *MEASURES) if key not in line]
        if missing:
            raise ValueError(f"a line of the masking of {task} has no {missing[0]!r}, only {sorted(line)}")
        for measure in MEASURES:
            check_interval(f"{task}, {line['method']}, {measure}", line[measure], -1.0, 1.0)
    random = [line for line in lines if line["method"] == "random"]
    others = sorted((line for line in lines if line["method"] != "random"), key=lambda line: -line["comprehensiveness"][0])
    if len(random) != 1 or not others:
        raise ValueError(f"the masking of {task} has {len(random)} random orders and {len(others)} methods: expected one, and some")
    return others, random[0]


def saturation_figure(results: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """The share of flows that equal their bound min(1, column sum of the first layer), layer by layer, a line for each model.

    Args:
        results: by the words to show, ``{"layers": [share, ...], "low": [...], "high": [...]}``: from the first layer up, the mean
            over texts and its 95 % interval (all between 0 and 1).

    Raises:
        ValueError: no model, or more than six; lists that are missing, empty or of unequal lengths; a share outside its interval.
    """
    if not 1 <= len(results) <= len(MODELS):
        raise ValueError(f"{len(results)} models: expected from one to {len(MODELS)}")
    figure, said = go.Figure(), []
    for (name, shares), color, dash in zip(results.items(), MODELS, DASHES, strict=False):
        lengths = {key: len(shares.get(key, ())) for key in ("layers", "low", "high")}
        if len(set(lengths.values())) != 1 or not lengths["layers"]:
            raise ValueError(f"{name} has lists of lengths {lengths}: expected three, with one number for each layer")
        points = [
            check_interval(f"{name}, layer {layer}", point, 0.0, 1.0)
            for layer, point in enumerate(zip(*(shares[key] for key in lengths), strict=True), 1)
        ]
        x, (mean, low, high) = list(range(1, len(points) + 1)), np.array(points).round(4).T
        band = go.Scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=color, opacity=0.2, line={"width": 0})
        figure.add_trace(band.update(mode="lines", hoverinfo="skip", showlegend=False, legendgroup=name))
        line = go.Scatter(x=x, y=mean, mode="lines+markers", line={"color": color, "dash": dash, "width": 2.5}, name=name, legendgroup=name)
        told = [[f"{at:.1%} to {to:.1%}"] for at, to in zip(low, high, strict=True)]
        hover = f"{name}, layer %{{x}}<br>%{{y:.1%}} (%{{customdata[0]}})<extra></extra>"
        figure.add_trace(line.update(customdata=told, hovertemplate=hover, marker={"size": 6}))
        said.append(f"{name}: {', '.join(f'{share:.0%}' for share in mean)}")
    deepest = max(len(shares["layers"]) for shares in results.values())
    alt = f"The share of flows that equal their bound, by layer from the first up. {'; '.join(said)}."
    finish(figure, alt, height=380 + 22 * len(results))
    figure.update_xaxes(title={"text": "layer", "standoff": 6}, range=[0.6, deepest + 0.4], dtick=1 if deepest <= 12 else 4)
    figure.update_yaxes(title={"text": "flows that equal their bound", "standoff": 6}, range=[-0.03, 1.03], tickformat=".0%")
    figure.update_xaxes(zeroline=False, fixedrange=True, gridcolor=FAINT).update_yaxes(zeroline=False, fixedrange=True, gridcolor=FAINT)
    figure.update_layout(legend=LEGEND | {"y": -0.17}, margin={"t": 10, "b": 60 + 22 * len(results), "l": 60, "r": 8}, dragmode=False)
    return figure.update_layout(hovermode="closest", showlegend=True)


def checked(results: Mapping[str, Mapping[str, Any]], key: str) -> list[str]:
    """The tasks of the results; a ``ValueError`` unless each has lines under this key."""
    if not results:
        raise ValueError("no results to draw: expected those of at least one task, as {'sst2': attattr.result(...)}")
    for task, result in results.items():
        missing = [name for name in ("texts", key) if not result.get(name)]
        if missing:
            raise ValueError(
                f"the result of {task!r} has no {missing[0]!r}, only {sorted(result)}: expected what `reproduce flow-correlations` writes"
            )
    return list(results)


def check_interval(name: str, point: Sequence[float | None], least: float, most: float) -> tuple[float, float, float]:
    """Mean, low and high; a ``ValueError`` unless the mean lies in between and within its range (the interval may leave it)."""
    known = [value for value in point if value is not None]
    if not len(known) == len(point) == 3 or not (least <= known[0] <= most and known[1] <= known[0] <= known[2]):
        raise ValueError(f"{name}: mean, low, high = {list(point)}: expected a mean in its interval, within {least:g} to {most:g}")
    return known[0], known[1], known[2]


def look(method: str) -> tuple[str, str]:
    """Colour and symbol of a method's family."""
    for family in ("attribution", "gradient"):
        if family in method:
            return FAMILIES[family]
    return FAMILIES["attention"] if any(name in method for name in FROM_ATTENTION) else OTHER


def in_layer(layer: int | None) -> str:
    """The layer of a number, counted from 1 as everywhere in the chapter; "" for a method without layers."""
    return "" if layer is None else f", layer {layer + 1}"


def interval(point: Sequence[Any]) -> str:
    """Mean and 95 % interval in a few words."""
    return f"{two_digits(point[1])} ({two_digits(point[2])} to {two_digits(point[3])})"


def view_name(kind: tuple[str, str]) -> str:
    """A reference and a reading in the menu."""
    return AGAINST[kind[0]] + READINGS[kind[1]]


def place_rows(rows: Sequence[Row], top: int) -> list[tuple[Row, int]]:
    """Each row with the pixel at which it begins."""
    starts = np.cumsum([0, *(row.height for row in rows)])[:-1]
    return [(row, top + int(start)) for row, start in zip(rows, starts, strict=True)]


def row_names(names: Sequence[str], starts: Sequence[int]) -> go.Scatter:
    """The names of the rows, each at the left above its dots, whatever the axis shows."""
    y = [start + 7 for start in starts]
    quiet: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False, "textposition": "middle right", "textfont": {"size": 13}}
    return go.Scatter(x=[0] * len(names), y=y, text=list(names), mode="text", xaxis="x2", cliponaxis=False, **quiet)


def with_intervals(points: Sequence[Sequence[float | None]], y: Sequence[int | None], color: str) -> go.Scatter:
    """Means with their intervals; None makes a gap."""
    x = [None if mean is None else round(mean, 3) for mean, *_ in points]
    above = [None if mean is None or high is None else round(high - mean, 3) for mean, _, high in points]
    below = [None if mean is None or low is None else round(mean - low, 3) for mean, low, _ in points]
    sides = {"type": "data", "array": above, "arrayminus": below, "color": color, "thickness": 1.3, "width": 2}
    return go.Scatter(x=x, y=list(y), error_x=sides)


def task_windows(tasks: Sequence[str], heights: Sequence[int], edges: int = EDGES) -> dict[str, Any]:
    """A menu that moves the window to one task."""
    windows = [
        {"yaxis.range": [AWAY * number + high, AWAY * number - 4], "height": high + edges, "legend.y": round(-58 / high, 4)}
        for number, high in enumerate(heights)
    ]
    buttons = [{"label": called(task), "method": "relayout", "args": [window]} for task, window in zip(tasks, windows, strict=True)]
    return {"name": "Task:", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}


def row_layout(figure: go.Figure, menus: Sequence[Mapping[str, Any]], height: int, title: str) -> None:
    """What both figures of rows have in common; a second x-axis, from 0 to 1, holds the names."""
    figure.update_layout(updatemenus=list(menus), hovermode="closest", dragmode=False, margin={"b": 50, "l": 10, "r": 10})
    figure.update_layout(xaxis2={"overlaying": "x", "range": [0, 1], "visible": False, "fixedrange": True})
    figure.update_layout(xaxis={"title": {"text": title, "standoff": 4}, "gridcolor": FAINT, "fixedrange": True, "nticks": 8})
    figure.update_layout(xaxis_zeroline=False, yaxis={"range": [height, -4], "visible": False, "fixedrange": True})
