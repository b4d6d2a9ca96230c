"""Figures of chapter 9 over whole validation sets: what triggers do to accuracy (Hao et al., §5.3, Table 2), and a defence (ours)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..data import find_task
from .evidence import INK, LEGEND, checked
from .style import finish

TOP = 3
# What else is measured -> colour, symbol, name in the figure, words. Blue, red and orange as in chapter 5.
CONTROLS = {
    "on these rows": ("#67a9cf", "triangle-left", "chosen on these rows", "chosen on the reported rows themselves"),
    "by attention": ("#b2182b", "square", "chosen by attention", "chosen by attention"),
    "other places": ("#009e73", "triangle-up", "same, other places", "the same words at random places"),
    "other segment": ("#009e73", "triangle-down", "same, other text", "the same words in the other text of the pair"),
    "frequent words": ("#d98c21", "diamond", "frequent words", "frequent words at the same places"),
    "random words": ("#d98c21", "cross", "random words", "random words at the same places"),
}
NAMES = {
    "mean": "mean of the row",
    "paper": "the paper's, with its own model (BERT-base)",
    "chosen": "chosen on other rows, 95 % interval",
    "baseline": "no trigger, 95 % interval",
}
AWAY = 100  # the tasks lie below each other on one axis, and the menu moves the window
ROW, EDGES = 21, 150  # pixels: a row; all that is above and below the rows
WIDEST = 18  # letters of a trigger beside its row
STATES = {"clean": ("#2166ac", "circle", "no trigger"), "attacked": ("#b2182b", "square", "with a trigger")}


@dataclass(frozen=True)
class Mark:
    """One accuracy on the rows of a class, and what was inserted for it."""

    kind: str  # "baseline", "chosen", "paper", or a control
    y: int
    accuracy: float
    rows: int = 0
    words: str = "no trigger"
    places: str = ""
    interval: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """What stands beside the row."""
        if self.kind in CONTROLS:
            return CONTROLS[self.kind][2]
        return self.words if len(self.words) <= WIDEST else self.words[: WIDEST - 1] + "…"


def attack_figure(results: Mapping[str, Mapping[str, Any]], paper: Mapping[str, Any] | None = None) -> go.Figure:
    """Accuracy of every class without a trigger and with each of the three chosen against it, and the controls (Hao et al., Table 2).

    A row for each trigger, with its 95 % interval; the paper's first, second and third stand in the same rows, hollow: other
    words and another model. Below, one point for each inserted trigger and draw, with the mean as a bar. A menu chooses the task.

    Args:
        results: for each task what ``attattr.result("table2-TASK")`` returns; the first is shown at the start.
        paper: what ``attattr.data.paper("table2")`` returns; None leaves the paper's numbers out.

    Raises:
        ValueError: no result, an unknown task, a result that lacks a class, a trigger or a control; a paper without them.
    """
    tasks = checked(results)
    figure, said = go.Figure(), []
    windows: list[dict[str, Any]] = []  # of each task
    groups: list[tuple[str, list[Mark]]] = []  # the name of each class of each task, and its marks, the baseline first
    for number, (task, name) in enumerate(tasks.items()):
        found = attacked_classes(task, results[task], paper, number * AWAY)
        groups += found
        last = max(mark.y for mark in found[-1][1])
        plot = ROW * (last - number * AWAY + 1.5)
        ends = [last + 0.7, number * AWAY - 0.8]
        windows.append({"yaxis.range": ends, "height": round(plot + EDGES), "legend.y": round(-46 / plot, 4)})
        said.append(f"{name}: {' '.join(class_words(head, marks) for head, marks in found)}")
    figure.add_traces([*class_traces(groups), *mark_traces([mark for _, marks in groups for mark in marks])])
    alt = "Accuracy of every class without a trigger, with the three triggers chosen against it, and under controls. "
    finish(figure, alt + " ".join(said), height=windows[0]["height"])
    buttons = [{"label": name, "method": "relayout", "args": [window]} for name, window in zip(tasks.values(), windows, strict=True)]
    menu = {"name": "Task:", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[menu] if len(tasks) > 1 else [], legend=LEGEND, hovermode="closest", dragmode=False)
    figure.update_layout(windows[0]).update_layout(margin={"t": 30, "b": 50, "l": 20, "r": 24})
    labels = {mark.y: mark.label for _, marks in groups for mark in marks if mark.kind != "paper"}
    figure.update_yaxes(tickvals=list(labels), ticktext=list(labels.values()), showgrid=False, zeroline=False, ticks="", fixedrange=True)
    figure.update_xaxes(range=[-0.025, 1.025], tickvals=[0, 0.25, 0.5, 0.75, 1], tickformat=".0%", zeroline=False, fixedrange=True)
    return figure.update_xaxes(title={"text": "accuracy", "standoff": 4}, gridcolor="#e6e6e6")


def attacked_classes(task: str, result: Mapping[str, Any], paper: Mapping[str, Any] | None, top: int) -> list[tuple[str, list[Mark]]]:
    """The name of each class of a task and its marks, row below row from ``top``; a ``ValueError`` says what is missing."""
    missing = [key for key in ("rows", "baseline", "chosen_on_reported_rows", "measured") if not result.get(key)]
    if missing:
        raise ValueError(f"the result of {task!r} has no {missing[0]!r}, only {sorted(result)}: expected what `reproduce table2` writes")
    if paper is not None and task not in paper:
        raise ValueError(f"the paper's numbers have no task {task!r}, only {sorted(paper)}: expected what attattr.data.paper returns")
    controls = [kind for kind in CONTROLS if kind != "other segment" or len(find_task(task).columns) == 2]
    found = []
    for name, count in result["rows"].items():
        lines = {
            kind: [line for line in result["measured"] if (line["class"], line["kind"]) == (name, kind)] for kind in ("chosen", *controls)
        }
        lines["on these rows"] = [
            {"words": line["tokens"], "after": line[name]} for line in result["chosen_on_reported_rows"].get(name, [])
        ]
        empty = [kind for kind in controls if not lines[kind]] + ["baseline"] * (name not in result["baseline"])
        if empty:
            raise ValueError(f"the result of {task!r} has nothing measured {empty[0]!r} for class {name!r}: expected some")
        chosen = {line["rank"]: line for line in lines["chosen"]}
        if sorted(chosen) != list(range(1, TOP + 1)):
            raise ValueError(
                f"the result of {task!r} has chosen triggers of ranks {sorted(chosen)} for class {name!r}: expected 1 to {TOP}"
            )
        base = result["baseline"][name]
        marks = [Mark("baseline", top + 1, base["accuracy"], count, interval=tuple(base["interval"]))]
        marks += [measured_mark("chosen", top + 1 + rank, chosen[rank], count) for rank in sorted(chosen)]
        for y, kind in enumerate(controls, top + 2 + TOP):
            marks += [measured_mark(kind, y, line, count) for line in lines[kind]]
        if paper is not None:
            called = ["no trigger", *(f"trigger {rank}" for rank in sorted(chosen))]
            shares = paper_shares(paper[task], name)
            marks += [Mark("paper", top + 1 + row, share, words=called[row]) for row, share in enumerate(shares)]
        found.append((f"{name}, {count} rows", marks))
        top += 2 + TOP + len(controls) + 1
    return found


def paper_shares(table: Mapping[str, Any], name: str) -> list[float]:
    """The paper's accuracies of one class, as shares: without a trigger, and with each of its three."""
    rows = ("baseline", *(f"trigger{rank}" for rank in range(1, TOP + 1)))
    missing = [row for row in rows if name not in table.get(row, {})]
    if missing:
        raise ValueError(f"the paper's numbers have no {missing[0]!r} of class {name!r}: expected what attattr.data.paper returns")
    return [round(table[row][name] / 100, 4) for row in rows]


def measured_mark(kind: str, y: int, line: Mapping[str, Any], count: int) -> Mark:
    """One line of a result as a mark; of the chosen ones also the text and the relative position of each word, and the interval."""
    trigger = line.get("trigger", {})
    words = ", ".join(trigger.get("tokens", line.get("words", ())))
    if kind != "chosen":
        return Mark(kind, y, line["after"], count, words)
    places = ", ".join(f"text {part + 1} at {place:.2f}" for part, place in zip(trigger["segments"], trigger["positions"], strict=True))
    return Mark(kind, y, line["after"], count, words, places, tuple(line["after_interval"]))


def class_words(head: str, marks: Sequence[Mark]) -> str:
    """The numbers of one class that matter."""
    chosen = ", ".join(f"{mark.accuracy:.1%} ({mark.words})" for mark in marks if mark.kind == "chosen")
    means = ", ".join(f"{CONTROLS[kind][3]} {mean:.1%}" for kind, _, mean in row_means(marks))
    theirs = [f"{mark.accuracy:.2%}" for mark in marks if mark.kind == "paper"]
    paper = f"; the paper's model: {theirs[0]}, then {', '.join(theirs[1:])}" if theirs else ""
    return f"{head}: {marks[0].accuracy:.1%} without a trigger; {chosen}; means: {means}{paper}."


def row_means(marks: Sequence[Mark]) -> list[tuple[str, int, float]]:
    """Kind, row and mean accuracy of each row of controls."""
    rows: dict[tuple[str, int], list[float]] = {}
    for mark in marks:
        if mark.kind in CONTROLS:
            rows.setdefault((mark.kind, mark.y), []).append(mark.accuracy)
    return [(*row, float(np.mean(found))) for row, found in rows.items()]


def class_traces(groups: Sequence[tuple[str, Sequence[Mark]]]) -> Iterator[go.Scatter]:
    """Behind the marks: for each class the level of its baseline with the interval, and its name."""
    quiet: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}
    ends = [(marks[0], marks[0].y - 0.5, max(mark.y for mark in marks) + 0.5) for _, marks in groups]
    x = [at for base, *_ in ends for low, high in [base.interval or (0, 0)] for at in (low, high, high, low, None)]
    y = [at for _, first, last in ends for at in (first, first, last, last, None)]
    yield go.Scatter(x=x, y=y, mode="lines", fill="toself", fillcolor="#9a9a9a", opacity=0.2, line={"width": 0}, **quiet)
    x, y = [at for base, *_ in ends for at in (base.accuracy, base.accuracy, None)], [at for _, *two in ends for at in (*two, None)]
    yield go.Scatter(x=x, y=y, mode="lines", line={"color": INK, "width": 1, "dash": "dot"}, **quiet)
    heads = {"text": [f"<b>{head}</b>" for head, _ in groups], "textposition": "middle right", "textfont": {"size": 14}}
    yield go.Scatter(x=[-0.02] * len(groups), y=[first - 0.5 for _, first, _ in ends], mode="text", cliponaxis=False, **heads, **quiet)


def mark_traces(marks: Sequence[Mark]) -> Iterator[go.Scatter]:
    """The marks: controls and their means, the paper's, the chosen triggers, the baselines."""
    counted = "<br>%{customdata[1]} of %{customdata[2]} right (%{x:.1%}"
    for kind, (color, symbol, name, _) in CONTROLS.items():
        look = {"color": color, "symbol": symbol, "size": 8, "opacity": 0.7}
        yield scatter(marks, kind, look, f"{name}: %{{customdata[0]}}{counted})").update(showlegend=False)
    means = [Mark("mean", y, round(mean, 4)) for _, y, mean in row_means(marks)]
    yield scatter(means, "mean", {"symbol": "line-ns", "size": 15, "line": {"width": 2.5, "color": INK}}, "mean of the row: %{x:.1%}")
    look = {"color": "#777777", "symbol": "diamond-open", "size": 10, "line": {"width": 1.5}}
    yield scatter(marks, "paper", look, "paper, BERT-base-cased, %{customdata[0]}: %{x:.2%}")
    for kind, color in (("chosen", "#2166ac"), ("baseline", INK)):
        trace = scatter(marks, kind, {"color": color, "size": 9}, f"%{{customdata[0]}}{counted}, %{{customdata[3]}})<br>%{{customdata[4]}}")
        ends = [(mark.accuracy, *(mark.interval or (0, 0))) for mark in marks if mark.kind == kind]
        sides = {"array": [round(high - at, 4) for at, _, high in ends], "arrayminus": [round(at - low, 4) for at, low, _ in ends]}
        yield trace.update(error_x=sides | {"thickness": 1.5, "width": 4, "color": color})


def scatter(marks: Sequence[Mark], kind: str, look: Mapping[str, Any], hover: str) -> go.Scatter:
    """The marks of one kind, with what stands under the pointer."""
    own = [mark for mark in marks if mark.kind == kind]
    told = [[mark.words, round(mark.accuracy * mark.rows), mark.rows] for mark in own]
    for words, mark in zip(told, own, strict=True):
        if mark.interval:
            words += ["{:.1%} to {:.1%}".format(*mark.interval), mark.places]
    x, y = [mark.accuracy for mark in own], [mark.y for mark in own]
    name, hover = NAMES.get(kind), hover + "<extra></extra>"
    return go.Scatter(x=x, y=y, mode="markers", marker=look, customdata=told, hovertemplate=hover, name=name, visible=bool(own))


def defence_figure(result: Mapping[str, Any]) -> go.Figure:
    """Accuracy with and without triggers as the heads that carry them are closed, against random heads (ours, not in the paper).

    Under attack it is the mean over the triggers chosen against the class. Bands go from the lowest to the highest of the random
    orders. A menu chooses the class; at the start it is the mean of all classes.

    Args:
        result: what ``attattr.result("defence-TASK")`` returns.

    Raises:
        ValueError: no order of the heads that carry triggers, none of random heads, or one that lacks a number of heads.
    """
    orders = closed_orders(result)
    carriers = orders.pop("carriers")
    counts, classes = list(carriers), list(carriers[0]["clean"])
    figure, owner, said = go.Figure(), [], []
    for view, names in ({"mean of the classes": classes} | {name: [name] for name in classes}).items():
        for state, (_, _, called) in STATES.items():
            curves = [[np.mean([line[state][name] for name in names]) for line in lines.values()] for lines in (carriers, *orders.values())]
            for trace in defence_traces(state, np.array(curves), [closed_heads(line["heads"]) for line in carriers.values()]):
                figure.add_trace(trace.update(visible=view == "mean of the classes"))
                owner.append(view)
            last = [curve[-1] for curve in curves[1:]]
            said.append(
                f"{view}, {called}: {curves[0][0]:.1%}, with {counts[-1]} heads closed {curves[0][-1]:.1%} "
                f"(random heads {min(last):.1%} to {max(last):.1%})."
            )
    finish(figure, f"Accuracy on {result['texts']} texts as heads that carry triggers are closed. {' '.join(said)}", height=430)
    buttons = [{"label": view, "method": "restyle", "args": [{"visible": [of == view for of in owner]}]} for view in dict.fromkeys(owner)]
    menu = {"name": "Class:", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[menu], legend=LEGEND, hovermode="closest", dragmode=False)
    figure.update_layout(margin={"t": 30, "b": 60, "l": 56, "r": 8})
    ticks = {"tickvals": list(range(len(counts))), "ticktext": [str(count) for count in counts]}
    figure.update_xaxes(ticks, title={"text": "heads closed", "standoff": 6}, zeroline=False, fixedrange=True)
    return figure.update_yaxes(title="accuracy", tickformat=".0%", zeroline=False, fixedrange=True)


def closed_orders(result: Mapping[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Each order: by how many heads are closed, from 0 up, which ones, and accuracy by class, under attack the mean of the triggers."""
    orders: dict[str, dict[int, dict[str, Any]]] = {}
    for line in sorted(result.get("closed", []), key=lambda line: line["closed"]):
        attacked = {name: float(np.mean(shares)) for name, shares in line["attacked"].items()}
        orders.setdefault(line["order"], {})[line["closed"]] = {"heads": line["heads"], "clean": line["clean"], "attacked": attacked}
    if 0 not in orders.get("carriers", {}) or len(orders) < 2:
        raise ValueError(f"a result with the orders {sorted(orders)}: expected 'carriers', from no head closed up, and random ones")
    counts = list(orders["carriers"])
    for order, lines in orders.items():
        lines |= {0: orders["carriers"][0]}  # the whole model is measured once for all
        if sorted(lines) != counts:
            raise ValueError(f"the order {order!r} has {sorted(lines)} heads closed: expected {counts}")
    return {order: {count: lines[count] for count in counts} for order, lines in orders.items()}


def closed_heads(heads: Sequence[Sequence[int]]) -> str:
    """Which heads are closed, a line for each layer."""
    of_layer: dict[int, list[int]] = {}
    for layer, head in sorted(map(tuple, heads)):
        of_layer.setdefault(layer, []).append(head)
    return "<br>".join(f"layer {layer}, head {', '.join(map(str, those))}" for layer, those in of_layer.items()) or "no head"


def defence_traces(state: str, curves: np.ndarray, heads: Sequence[str]) -> Iterator[go.Scatter]:
    """Accuracy in one state: the band of the random orders and their mean, and the first curve, that of the carriers."""
    color, symbol, name = STATES[state]
    x = np.arange(curves.shape[1])
    random = curves[1:]
    band = {"mode": "lines", "fill": "toself", "fillcolor": color, "line": {"width": 0}, "opacity": 0.15, "hoverinfo": "skip"}
    yield go.Scatter(x=np.r_[x, x[::-1]], y=np.r_[random.max(0), random.min(0)[::-1]].round(4), showlegend=False, **band)
    for values, told, dash, what in (
        (random.mean(0), None, "dash", "random heads"),
        (curves[0], heads, "solid", "heads that carry triggers"),
    ):
        yield go.Scatter(
            x=x,
            y=values.round(4),
            customdata=told,
            mode="lines+markers",
            line={"color": color, "dash": dash, "width": 2.5},
            marker={"symbol": symbol if told else f"{symbol}-open", "size": 8},
            name=f"{name}, {what} closed",
            hovertemplate=f"{name}, {what} closed: %{{y:.1%}}" + ("<br>%{customdata}" if told else "") + "<extra></extra>",
        )
