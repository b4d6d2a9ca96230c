"""Figures of chapter 5: accuracy as heads are removed (Hao et al., Fig. 3), and what the edges of attribution graphs are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..data import find_task
from .style import finish

# As in the paper's Fig. 3: blue for attribution, red for attention, solid when the smallest go first, dashed when the largest do.
KINDS = {
    "attribution": ("#2166ac", "circle", "attribution"),
    "admitted": ("#67a9cf", "circle-open", "all above τ"),
    "attention": ("#b2182b", "square", "attention"),
    "random": ("#d98c21", "diamond", "random, same rows"),
    "anywhere": ("#777777", "triangle-up", "random, anywhere"),
}
FIRST = {"smallest": "solid", "largest": "dash"}
SCOPES = {"example": "each text has its own", "set": "one for all texts"}
PARTS = {"kept": "only these edges are left", "deleted": "all but these are left"}
ENDS = {"full": ("dash", "all"), "none": ("dot", "none")}
BAND, INK = "#9a9a9a", "#222222"
LEGEND = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
AWAY = 100  # the two scopes lie side by side on one axis, and the menu moves the window


def removal_figure(results: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Accuracy against the number of heads removed from every layer: four curves, random orders as a band (Hao et al., §5.1, Fig. 3).

    One menu chooses the task, another whether each text has its own order of the heads, or all texts have the same.

    Args:
        results: for each task what ``attattr.result("fig3-TASK")`` returns; the first is shown at the start.

    Raises:
        ValueError: no result, an unknown task, or a result that lacks one of the curves.
    """
    tasks = checked(results)
    figure, owner, said, heads = go.Figure(), [], [], 0
    for task, name in tasks.items():
        curves = accuracies(task, results[task])
        heads = max(heads, len(curves["set", "attribution", "smallest"]) - 1)
        for trace in removal_traces(curves):
            figure.add_trace(trace.update(visible=task == next(iter(tasks))))
            owner.append(task)
        said.append(removal_words(name, curves))
    windows = [[place * AWAY - 0.4, place * AWAY + heads + 0.4] for place in range(len(SCOPES))]
    scopes = [
        {"label": label, "method": "relayout", "args": [{"xaxis.range": window}]}
        for label, window in zip(SCOPES.values(), windows, strict=True)
    ]
    alt = "Accuracy against heads removed from every layer, removed by attribution or attention, largest or smallest first. "
    finish(figure, alt + " ".join(said), height=500)
    menus = [*task_menu(tasks, owner), {"name": "Order of the heads:", "buttons": scopes, "x": 1, "xanchor": "right"}]
    above = {"y": 1.02, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[menu | above for menu in menus], legend=LEGEND, hovermode="closest", dragmode=False)
    figure.update_layout(margin={"t": 30, "b": 60, "l": 56, "r": 8})
    ticks = np.arange(0, heads + 1, 2)
    places = np.concatenate([ticks + place * AWAY for place in range(len(SCOPES))])
    names = [str(tick) for tick in ticks] * len(SCOPES)
    look = {"range": windows[0], "tickvals": places, "ticktext": names, "fixedrange": True, "zeroline": False}
    figure.update_xaxes(look, title={"text": "heads removed from each layer", "standoff": 6})
    return figure.update_yaxes(title="accuracy", tickformat=".0%", zeroline=False)


def accuracies(task: str, result: Mapping[str, Any]) -> dict[tuple[str, str, str], np.ndarray]:
    """The curves of one task, each an accuracy for 0 to H heads removed, by scope, what orders the heads, and which go first.

    Raises:
        ValueError: a curve is missing, or ends before the others.
    """
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for point in result["curves"]:
        curve = found.setdefault((point["scope"], point["by"], point["first"]), {})
        curve[point["removed"]] = point["right"] / result["texts"]
    wanted = [(scope, by, first) for scope in SCOPES for by in ("attribution", "attention") for first in FIRST]
    missing = [str(key) for key in wanted if key not in found] + ["a random order"] * (not any(is_random(key) for key in found))
    if missing:
        raise ValueError(f"the result of {task!r} has no curve for {missing[0]}: there are {sorted(found)}")
    heads = max(max(curve) for curve in found.values())
    short = [key for key, curve in found.items() if sorted(curve) != list(range(heads + 1))]
    if short:
        raise ValueError(f"the curve {short[0]} of {task!r} has the points {sorted(found[short[0]])}: expected 0 to {heads} heads removed")
    return {key: np.array([curve[removed] for removed in range(heads + 1)]) for key, curve in found.items()}


def is_random(key: tuple[str, str, str]) -> bool:
    """Whether a curve is of a random order of the heads."""
    return key[1].startswith("random")


def random_range(curves: Mapping[tuple[str, str, str], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest accuracy of the random orders, for each number of heads removed."""
    every = np.stack([curve for key, curve in curves.items() if is_random(key)])
    return every.min(0), every.max(0)


def removal_traces(curves: Mapping[tuple[str, str, str], np.ndarray]) -> Iterator[go.Scatter]:
    """What is drawn of one task, in both windows: the band, the two lines, the four curves."""
    low, high = random_range(curves)
    removed = np.arange(len(low))
    both = range(len(SCOPES))
    x = np.concatenate([np.r_[removed, removed[::-1], np.nan] + place * AWAY for place in both])
    y = np.tile(np.r_[high, low[::-1], np.nan], len(SCOPES)).round(4)
    band = {"mode": "lines", "fill": "toself", "fillcolor": BAND, "line": {"width": 0}, "opacity": 0.35, "hoverinfo": "skip"}
    yield go.Scatter(x=x, y=y, name="random orders, lowest to highest", **band)
    whole = curves["set", "attribution", "smallest"]
    ends = np.concatenate([np.array([0, len(low) - 1, np.nan]) + place * AWAY for place in both])
    for (dash, _), name, value in zip(ENDS.values(), ("all heads", "no head"), (whole[0], whole[-1]), strict=True):
        line = {"color": INK, "width": 1.5, "dash": dash}
        level = np.full(len(ends), round(float(value), 4))
        yield go.Scatter(x=ends, y=level, mode="lines", line=line, name=f"{name}: {value:.1%}", hoverinfo="skip")
    for by in ("attribution", "attention"):
        color, symbol, name = KINDS[by]
        for first, dash in FIRST.items():
            lines = [curves[scope, by, first] for scope in SCOPES]
            yield go.Scatter(
                x=np.concatenate([np.r_[removed, np.nan] + place * AWAY for place in both]),
                y=np.concatenate([np.r_[line, np.nan] for line in lines]).round(4),
                customdata=[*removed.tolist(), None] * len(SCOPES),
                mode="lines+markers",
                line={"color": color, "dash": dash, "width": 2.5},
                marker={"symbol": symbol, "size": 6},
                name=f"{name}, {first} first",
                hovertemplate=f"{name}, {first} first<br>%{{customdata}} heads removed: %{{y:.1%}}<extra></extra>",
            )


def removal_words(name: str, curves: Mapping[tuple[str, str, str], np.ndarray]) -> str:
    """The numbers of one task that matter."""
    low, high = random_range(curves)
    two = len(low) - 3  # all but two heads of each layer
    whole = curves["set", "attribution", "smallest"]
    kept = {scope: curves[scope, "attribution", "smallest"][two] for scope in SCOPES}
    gone = {scope: curves[scope, "attribution", "largest"][2] for scope in SCOPES}
    return (
        f"{name}: {whole[0]:.1%} with all heads, {whole[-1]:.1%} with none. "
        f"The two heads of each layer with the largest attribution kept: {kept['example']:.1%} if each text has its own order, "
        f"{kept['set']:.1%} with one order for all; removed: {gone['example']:.1%} and {gone['set']:.1%}. "
        f"Two random heads kept: {low[two]:.1%} to {high[two]:.1%}."
    )


def deletion_figure(results: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """The probability of the predicted class when a graph is all that is left, and when it is what is gone (chapter 5).

    Against the number of edges, which grows as τ falls. Beside the attribution graph: all connections above τ, before the graph's
    rule that joins no pair twice; and three others of the graph's size: the largest attention weights and random keys, as many in
    each row of each layer; random connections anywhere in the layer. A menu chooses the task.

    Args:
        results: for each task what ``attattr.result("edges-TASK")`` returns; the first is shown at the start.

    Raises:
        ValueError: no result, an unknown task, or a result without one of the kinds of graph.
    """
    tasks = checked(results)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=list(PARTS.values()))
    owner, said = [], []
    for task, name in tasks.items():
        result = results[task]
        for row, part in enumerate(PARTS, 1):
            if set(result[part]) != set(KINDS):
                raise ValueError(f"the result of {task!r} has the graphs {sorted(result[part])}: expected {sorted(KINDS)}")
            for trace in deletion_traces(result, part):
                figure.add_trace(trace.update(visible=task == next(iter(tasks)), showlegend=row == 1), row, 1)
                owner.append(task)
        said.append(deletion_words(name, result))
    alt = "Mean probability of the predicted class against the number of edges: above, only these are left; below, all but these. "
    finish(figure, alt + " ".join(said), height=640)
    above = {"y": 1.05, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[menu | above for menu in task_menu(tasks, owner)], hovermode="closest", dragmode=False)
    figure.update_layout(legend=LEGEND | {"y": -0.13}, margin={"t": 50, "b": 60, "l": 56, "r": 8})
    ticks = [10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000]
    figure.update_xaxes(type="log", tickvals=ticks, zeroline=False, fixedrange=True)
    figure.update_xaxes(title={"text": "edges in the graph, mean", "standoff": 6}, row=2)
    return figure.update_yaxes(title="probability", zeroline=False, range=[0, 1])


def deletion_traces(result: Mapping[str, Any], part: str) -> Iterator[go.Scatter]:
    """What is drawn of one task in one panel: the two ends as lines, and each kind of graph."""
    edges = result["edges"]
    for end, (dash, name) in ENDS.items():
        value = result[end][0]
        line = {"color": INK, "width": 1.5, "dash": dash}
        label = f"{name} left: {value:.2f}"
        ends = [edges[0], result["admitted"][-1]]
        yield go.Scatter(x=ends, y=[value] * 2, mode="lines", line=line, name=label, legendgroup=end, hoverinfo="skip")
    for kind, (color, symbol, name) in KINDS.items():
        mean, error = np.array(result[part][kind]).T
        yield go.Scatter(
            x=result["admitted"] if kind == "admitted" else edges,
            y=mean.round(3),
            error_y={"type": "data", "array": error.round(3), "thickness": 1.5, "width": 3},
            customdata=result["taus"],
            mode="lines+markers",
            line={"color": color, "width": 2.5},
            marker={"symbol": symbol, "size": 8},
            name=name,
            legendgroup=kind,
            hovertemplate=f"{name}<br>τ = %{{customdata}}, %{{x}} edges: %{{y:.2f}}<extra></extra>",
        )


def deletion_words(name: str, result: Mapping[str, Any]) -> str:
    """The numbers of one task that matter, at the threshold nearest to the paper's 0.4."""
    place = int(np.argmin(np.abs(np.array(result["taus"]) - 0.4)))
    parts = []
    for part, words in PARTS.items():
        values = ", ".join(f"{KINDS[kind][2]} {result[part][kind][place][0]:.2f}" for kind in KINDS)
        parts.append(f"{words}: {values}")
    ends = f"{result['full'][0]:.2f} with all connections, {result['none'][0]:.2f} with none"
    return f"{name}: {ends}; at τ = {result['taus'][place]:g}, {result['edges'][place]:.0f} edges, {'; '.join(parts)}."


def checked(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The tasks of the results, each with its name as people write it."""
    if not results:
        raise ValueError("no results to draw: expected those of at least one task, as {'sst2': attattr.result(...)}")
    return {task: find_task(task).folder for task in results}


def task_menu(tasks: Mapping[str, str], owner: Sequence[str]) -> list[dict[str, Any]]:
    """A menu that shows the traces of one task; none where there is no choice."""
    if len(tasks) < 2:
        return []
    buttons = [{"label": name, "method": "restyle", "args": [{"visible": [of == task for of in owner]}]} for task, name in tasks.items()]
    return [{"name": "Task:", "buttons": buttons, "x": 0, "xanchor": "left"}]
