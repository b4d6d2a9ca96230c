"""A figure of chapter 10: what is left of the probability as words are masked, the most relevant first, or all but these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .correlations import checked, in_layer
from .evidence import LEGEND, task_menu
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
HALF = 5  # tenths of the words
PANELS = {"deletion": "deletion: the most relevant words masked", "insertion": "insertion: all but these masked"}


def masking_curves_figure(results: Mapping[str, Mapping[str, Any]], methods: Sequence[str] = tuple(CURVES)) -> go.Figure:
    """Mean probability of the class as words are masked in the order of each method's ranking: deletion above, insertion below.

    A menu chooses the task. Comprehensiveness and sufficiency (`masking_figure`) are the means of these curves, seen from the
    probability of the whole text. Methods with a number for each layer are those of one layer, named under the pointer.

    Args:
        results: for each task what ``attattr.result("flow-correlations-TASK")`` returns; the first is shown at the start.
        methods: those to draw, out of seven.

    Raises:
        ValueError: no result; a method that has no look here, or stands twice, or has no curve in a result; curves that are not a
            probability for each tenth of the words.
    """
    if not methods or len(set(methods)) < len(methods) or not set(methods) <= set(CURVES):
        raise ValueError(f"methods={list(methods)}: expected some of {list(CURVES)}, each once")
    tasks = {task: called(task) for task in checked(results, "masking")}
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.12, subplot_titles=list(PANELS.values()))
    owner, said = [], []
    for task, name in tasks.items():
        lines = {line.get("method"): line for line in results[task]["masking"]}
        missing = [method for method in methods if method not in lines]
        if missing:
            raise ValueError(f"the masking of {name} has no {missing[0]!r}, only {sorted(map(str, lines))}")
        for row, panel in enumerate(PANELS, 1):
            for trace in curve_traces(panel, [lines[method] for method in methods], name):
                figure.add_trace(trace.update(visible=task == next(iter(tasks)), showlegend=row == 1), row, 1)
                owner.append(task)
        halves = [
            f"{m}{in_layer(lines[m]['layer'])} " + " and ".join(two_digits(lines[m][panel][HALF]) for panel in PANELS) for m in methods
        ]
        said.append(f"{name}: {', '.join(halves)}.")
    alt = (
        f"Mean probability of the class by {len(methods)} rankings of the words: the share ranked first masked (deletion), or all "
        "but these (insertion). At half of the words, deletion and insertion: "
    )
    finish(figure, alt + " ".join(said), height=640)
    figure.update_layout(updatemenus=[menu | {"y": 1.06, "yanchor": "bottom"} for menu in task_menu(tasks, owner)])
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    plain = {"zeroline": False, "fixedrange": True, "gridcolor": FAINT, "tickformat": ".0%"}
    figure.update_xaxes(plain, range=[-0.03, 1.03])
    figure.update_yaxes(plain, range=[0, 1], title={"text": "probability, mean", "standoff": 4})
    figure.update_xaxes(title={"text": "share of the words masked, or kept", "standoff": 6}, row=2)
    return figure.update_layout(legend=LEGEND | {"y": -0.13}, margin={"t": 34, "b": 130, "l": 60, "r": 8}, dragmode=False)


def curve_traces(panel: str, lines: Sequence[Mapping[str, Any]], task: str) -> Iterator[go.Scatter]:
    """The curves of one task in one panel."""
    from ..saliency import TENTHS  # here, as it needs scipy.stats, which is slow to import

    for line in lines:
        method: str = line["method"]
        values: Any = line.get(panel)
        numbers = isinstance(values, Sequence) and all(isinstance(value, int | float) and 0 <= value <= 1 for value in values)
        if not numbers or len(values) != len(TENTHS):
            raise ValueError(f"{task}, {method}: {panel} = {values}: expected {len(TENTHS)} probabilities, for each tenth of the words")
        color, dash, symbol = CURVES[method]
        hover = f"<b>{method}{in_layer(line['layer'])}</b><br>%{{x:.0%}} of the words: %{{y:.1%}}<extra></extra>"
        curve = go.Scatter(x=list(TENTHS), y=list(values), mode="lines+markers", name=method, legendgroup=method, hovertemplate=hover)
        yield curve.update(line={"color": color, "dash": dash, "width": 2}, marker={"symbol": symbol, "size": 6})
