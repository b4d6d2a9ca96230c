"""A figure of chapter 10: what is left of the probability as words are masked, the most relevant first, or all but these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .correlations import checked
from .evidence import LEGEND
from .style import finish
from .universality import FAINT, called, two_digits

# Colours as in the other figures of the chapter; a dash and a symbol for each, too, for those who see no colours.
CURVES = {
    "attribution, all layers": ("#2166ac", "solid", "circle"),
    "integrated gradients": ("#d98c21", "solid", "diamond"),
    "gradient": ("#d98c21", "dash", "diamond-open"),
    "raw attention": ("#b2182b", "solid", "square"),
    "rollout": ("#b2182b", "dash", "square-open"),
    "flow": ("#b2182b", "dot", "x"),
    "random": ("#777777", "dashdot", "triangle-up"),
}
PANELS = {
    "deletion": "deletion: the most relevant words masked",
    "insertion": "insertion: all but these masked",
}
ABOVE = {"xref": "paper", "yref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}


def masking_curves_figure(results: Mapping[str, Mapping[str, Any]], methods: Sequence[str] = tuple(CURVES)) -> go.Figure:
    """Mean probability of the class as words are masked in the order of each method's ranking: deletion above, insertion below.

    A menu chooses the task. Comprehensiveness and sufficiency (`masking_figure`) are the means of these curves, seen from the
    probability of the whole text.

    Args:
        results: for each task what ``attattr.result("flow-correlations-TASK")`` returns; the first is shown at the start.
        methods: those to draw, out of seven.

    Raises:
        ValueError: no result; a method that has no look here, or no curve in a result; curves of another number of points.
    """
    unknown = [method for method in methods if method not in CURVES]
    if unknown or not methods:
        raise ValueError(f"methods={list(methods)}: expected some of {list(CURVES)}")
    tasks = checked(results, "masking")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.12)
    owner, said = [], []
    for task in tasks:
        lines = {line["method"]: line for line in results[task]["masking"]}
        missing = [method for method in methods if method not in lines]
        if missing:
            raise ValueError(f"the masking of {called(task)} has no {missing[0]!r}, only {sorted(lines)}")
        for row, panel in enumerate(PANELS, 1):
            for trace in curve_traces(panel, {method: lines[method] for method in methods}, called(task)):
                figure.add_trace(trace.update(visible=task == tasks[0], showlegend=row == 1), row, 1)
                owner.append(task)
        halves = ", ".join(f"{m} {two_digits(lines[m]['deletion'][5])} and {two_digits(lines[m]['insertion'][5])}" for m in methods)
        said.append(f"{called(task)}: {halves}.")
    alt = (
        "Mean probability of the class against the share of words masked, by seven rankings; at half of the words, deletion and insertion: "
    )
    finish(figure, alt + " ".join(said), height=640)
    if len(tasks) > 1:
        buttons = [{"label": called(t), "method": "restyle", "args": [{"visible": [of == t for of in owner]}]} for t in tasks]
        figure.update_layout(updatemenus=[{"name": "Task:", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.06, "yanchor": "bottom"}])
    for row, title in enumerate(PANELS.values(), 1):
        figure.add_annotation(ABOVE, y=figure.layout[f"yaxis{row if row > 1 else ''}"].domain[1], text=title)
    plain = {"zeroline": False, "fixedrange": True, "gridcolor": FAINT, "tickformat": ".0%"}
    figure.update_xaxes(plain, range=[-0.03, 1.03]).update_yaxes(plain, title={"text": "probability, mean", "standoff": 4})
    figure.update_xaxes(title={"text": "share of the words masked, or kept", "standoff": 6}, row=2)
    return figure.update_layout(legend=LEGEND | {"y": -0.13}, margin={"t": 34, "b": 130, "l": 60, "r": 8}, dragmode=False)


def curve_traces(panel: str, lines: Mapping[str, Mapping[str, Any]], task: str) -> Iterator[go.Scatter]:
    """The curves of one task in one panel."""
    for method, line in lines.items():
        values = line.get(panel, ())
        if len(values) < 2 or not all(0 <= value <= 1 for value in values):
            raise ValueError(f"{task}, {method}: {panel} = {list(values)}: expected probabilities, one for each share from 0 to 1")
        color, dash, symbol = CURVES[method]
        yield go.Scatter(
            x=[round(k / (len(values) - 1), 4) for k in range(len(values))],
            y=list(values),
            mode="lines+markers",
            name=method,
            legendgroup=method,
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 6},
            hovertemplate=f"{method}, %{{x:.0%}} of the words<br>%{{y:.3f}}<extra></extra>",
        )
