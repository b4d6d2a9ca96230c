"""Figures of chapter 7: what each head is worth, and accuracy as the least important heads go (Hao et al., §5.2, Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..heads import random_importance
from .evidence import INK, LEGEND, checked
from .heads import head_name
from .style import DIVERGING, SEQUENTIAL, finish

# Method -> colour, dash, symbol, name. Blue and red are those of the paper's Fig. 5.
LOOKS = {
    "attribution": ("#2166ac", "solid", "circle", "attribution"),
    "taylor": ("#b2182b", "solid", "square", "Taylor"),
    "accuracy": ("#009e73", "dash", "triangle-up", "accuracy difference"),
    "random": ("#d98c21", "dashdot", "diamond", "random"),
    "taylor-logits": ("#555555", "dot", "x", "Taylor of the logits"),
    "attention": ("#7b3294", "dot", "cross", "attention"),
}
COMPARED = ("attribution", "taylor", "accuracy", "random")  # what every result must have; others wait in the legend
GONE, CROSS, CLEAR = "#e2e2e2", "#8a8a8a", "rgba(0,0,0,0)"
PLAIN = {"zeroline": False, "showgrid": False, "fixedrange": True}
SHARE = PLAIN | {
    "title": {"text": "heads pruned", "standoff": 6},
    "tickformat": ".0%",
    "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1],
    "range": [-0.02, 1.03],
}
READING = {"xref": "paper", "yref": "paper", "x": 0, "xanchor": "left", "align": "left", "showarrow": False}


@dataclass(frozen=True)
class Curves:
    """Accuracy of one task as heads go, by method, for every sample on which importance was measured."""

    heads: int  # of the whole model
    rates: tuple[float, ...]  # share of them that was pruned, ascending from 0
    pruned: tuple[int, ...]  # their number
    accuracy: dict[str, Float[np.ndarray, "_S R"]]
    samples: dict[str, list[int]]  # what the rows of ``accuracy`` were measured on

    def spread(self, method: str, place: int) -> str:
        """The mean accuracy over samples at one rate, and the lowest and the highest: ``61.0% (59.1% to 62.7%)``."""
        values = self.accuracy[method][:, place]
        several = f" ({values.min():.1%} to {values.max():.1%})" if len(values) > 1 else ""
        return f"{values.mean():.1%}{several}"

    def nearest(self, rate: float) -> int:
        """The place of the rate that is nearest to this one."""
        return int(np.argmin(np.abs(np.array(self.rates) - rate)))


def read_curves(task: str, result: Mapping[str, Any]) -> Curves:
    """The curves of one task; a ``ValueError`` if a method is missing or unknown, or a curve lacks a point that others have."""
    found: dict[str, dict[int, dict[float, tuple[int, float]]]] = {}
    for point in result["curves"]:
        curve = found.setdefault(point["method"], {}).setdefault(point["sample"], {})
        curve[point["rate"]] = (point["pruned"], point["right"] / result["texts"])
    wrong = [f"no curve by {method!r}" for method in COMPARED if method not in found]
    wrong += [f"a curve by {method!r}" for method in found if method not in LOOKS]
    if wrong:
        raise ValueError(f"the result of {task!r} has {wrong[0]}: expected {', '.join(COMPARED)}, and perhaps {', '.join(list(LOOKS)[4:])}")
    rates = sorted(set(chain.from_iterable(curve for samples in found.values() for curve in samples.values())))
    for method, samples in found.items():
        for sample, curve in samples.items():
            if sorted(curve) != rates or rates[0] != 0:
                raise ValueError(f"{task!r}, {method!r}, sample {sample}: rates {sorted(curve)}, expected {rates}, from 0 up")
    any_curve = found["attribution"][min(found["attribution"])]
    order = {method: sorted(found[method]) for method in LOOKS if method in found}
    accuracy = {
        method: np.array([[found[method][sample][rate][1] for rate in rates] for sample in samples]) for method, samples in order.items()
    }
    heads = int(np.size(result["samples"][0]["importance"]))
    return Curves(heads, tuple(rates), tuple(any_curve[rate][0] for rate in rates), accuracy, order)


def pruning_figure(results: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Accuracy against the share of heads pruned, least important first, by the measure of importance (Hao et al., §5.2, Fig. 5).

    Lines are means over the samples that importance was measured on, or over random orders; bands go from the lowest to the
    highest of these. A menu chooses the task. Measures beyond the paper's wait in the legend.

    Args:
        results: for each task what ``attattr.result("fig5-TASK")`` returns; the first is shown at the start.

    Raises:
        ValueError: no result, an unknown task, a result that lacks a method, or a curve that lacks a point.
    """
    tasks = checked(results)
    figure, owner, said = go.Figure(), [], []
    for task, name in tasks.items():
        curves = read_curves(task, results[task])
        for trace in pruning_traces(curves):
            figure.add_trace(trace)
            owner.append(task)
        said.append(pruning_words(name, curves, results[task]["texts"]))
    wanted = [trace.visible or True for trace in figure.data]  # shown, or waiting in the legend
    views = {task: [look if of == task else False for look, of in zip(wanted, owner, strict=True)] for task in tasks}
    for trace, look in zip(figure.data, views[owner[0]], strict=True):
        trace.visible = look
    alt = "Accuracy against the share of heads pruned, the least important of the whole model first. "
    finish(figure, alt + " ".join(said), height=500)
    buttons = [{"label": name, "method": "restyle", "args": [{"visible": views[task]}]} for task, name in tasks.items()]
    menu = {"name": "Task:", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[menu] if len(tasks) > 1 else [], legend=LEGEND, hovermode="closest", dragmode=False)
    figure.update_layout(margin={"t": 30, "b": 60, "l": 56, "r": 14})
    figure.update_xaxes(SHARE)
    return figure.update_yaxes(title="accuracy", tickformat=".0%", zeroline=False)


def pruning_traces(curves: Curves) -> Iterator[go.Scatter]:
    """What is drawn of one task: the bands, the level of the whole model, a line for each method; ``visible`` unless it is to wait."""
    rates = np.array(curves.rates)
    shown = {method: None if method in COMPARED else "legendonly" for method in curves.accuracy}
    for method, accuracy in curves.accuracy.items():
        if len(accuracy) > 1:
            y = np.r_[accuracy.max(0), accuracy.min(0)[::-1]].round(4)
            band = {"mode": "lines", "fill": "toself", "fillcolor": LOOKS[method][0], "line": {"width": 0}, "opacity": 0.2}
            quiet = {"hoverinfo": "skip", "showlegend": False, "legendgroup": method, "visible": shown[method]}
            yield go.Scatter(x=np.r_[rates, rates[::-1]], y=y, **band, **quiet)
    whole = float(curves.accuracy["attribution"][0, 0])
    line = {"color": INK, "width": 1.5, "dash": "dash"}
    yield go.Scatter(x=[0, 1], y=[round(whole, 4)] * 2, mode="lines", line=line, name=f"all heads: {whole:.1%}", hoverinfo="skip")
    for method, accuracy in reversed(curves.accuracy.items()):  # attribution on top
        name = LOOKS[method][3]
        told = [[pruned, curves.spread(method, place)] for place, pruned in enumerate(curves.pruned)]
        yield method_line(method, rates, accuracy.mean(0)).update(
            customdata=told,
            legendgroup=method,
            visible=shown[method],
            name=name,
            legendrank=list(LOOKS).index(method),
            hovertemplate=f"{name}, %{{customdata[0]}} of {curves.heads} heads pruned: %{{customdata[1]}}<extra></extra>",
        )


def method_line(method: str, rates: Sequence[float] | np.ndarray, accuracy: np.ndarray) -> go.Scatter:
    """The curve of one method in its colour."""
    color, dash, symbol, _ = LOOKS[method]
    line = {"color": color, "dash": dash, "width": 2.5}
    return go.Scatter(x=rates, y=accuracy.round(4), mode="lines+markers", line=line, marker={"symbol": symbol, "size": 7})


def pruning_words(name: str, curves: Curves, texts: int) -> str:
    """The numbers of one task that matter: half and nine tenths of the heads pruned."""
    parts = []
    for place in sorted({curves.nearest(0.5), curves.nearest(0.9)}):
        values = ", ".join(f"{LOOKS[method][3]} {curves.spread(method, place)}" for method in curves.accuracy)
        parts.append(f"with {curves.pruned[place]} of {curves.heads} heads pruned by {values}")
    whole = curves.accuracy["attribution"][0, 0]
    return f"{name}, {texts} texts: {whole:.1%} with all heads; {'; '.join(parts)}."


def pruning_slider(result: Mapping[str, Any], sample: int = 0) -> go.Figure:
    """The pruning slider: a grid of layers by heads that greys out as heads go, and the accuracy curves with a moving mark.

    The slider stands at the numbers of heads for which accuracy was measured. A menu chooses the measure of importance, which
    fills the grid and decides what goes next; the accuracies of all are told at every position.

    Args:
        result: what ``attattr.result("fig5-TASK")`` returns.
        sample: on which of the samples importance was measured; for ``random``, which of the orders. A measure without
            this sample is left out.

    Raises:
        ValueError: no importance by attribution on this sample; or as for `pruning_figure`.
    """
    curves = read_curves("the task", result)
    found = sample_importances(result, sample)
    grids = {method: found[method] for method in COMPARED if method in found and sample in curves.samples[method]}
    if "attribution" not in grids:
        there = sorted(line["sample"] for line in result["samples"] if line["method"] == "attribution")
        raise ValueError(f"no importance by attribution on sample {sample}: there is {there}")
    accuracy = {method: curves.accuracy[method][curves.samples[method].index(sample)] for method in grids}
    figure = go.Figure()
    owner: list[str] = []  # the measure with which each trace is shown; "" for always
    for method, grid in grids.items():
        line = method_line(method, curves.rates, accuracy[method]).update(hoverinfo="skip")
        figure.add_traces([*grid_traces(method, *grid), line])
        owner += [method] * (len(figure.data) - len(owner))
    for method in grids:  # all curves stay, thin, under the chosen one
        thin = method_line(method, curves.rates, accuracy[method])
        figure.add_trace(thin.update(mode="lines", line={"width": 1.3}, opacity=0.75, hoverinfo="skip"))
        owner.append("")
    figure.add_trace(go.Scatter(mode="markers", hoverinfo="skip", marker={"size": 13, "line": {"width": 2, "color": INK}}))
    figure.data[-1].marker.color = [LOOKS[method][0] for method in grids]
    owner.append("")
    views = {method: [of in ("", method) for of in owner] for method in grids}
    for trace, seen in zip(figure.data, views["attribution"], strict=True):
        trace.visible = seen

    first, active = grids["attribution"][0], curves.nearest(0.5)
    steps = [slider_step(curves, accuracy, place, len(owner) - 1) for place in range(len(curves.rates))]
    moved, look, _ = steps[active]["args"]
    figure.data[-1].update(x=moved["x"][0], y=moved["y"][0])
    slider_layout(figure, slider_words(first, curves, accuracy), first.shape, accuracy)
    buttons = [{"label": LOOKS[method][3], "method": "restyle", "args": [{"visible": view}]} for method, view in views.items()]
    menu = {"name": "Importance by:", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    slider = {"active": active, "currentvalue": {"prefix": "Heads pruned: "}, "steps": steps, "pad": {"t": 50}}
    return figure.update_layout(updatemenus=[menu], sliders=[slider]).update_layout(look)


def slider_layout(figure: go.Figure, alt: str, shape: Sequence[int], accuracy: Mapping[str, np.ndarray]) -> None:
    """The grid above, the accuracies in words, the curves below; what the slider moves is there, but not yet in its place."""
    upper, between, lower = 30 * shape[0], 70 + 17 * (1 + len(accuracy)), 230  # pixels
    plot = upper + between + lower
    finish(figure, alt, height=plot + 76)
    low, high = (end(np.stack(list(accuracy.values()))) for end in (np.min, np.max))
    whole = round(float(accuracy["attribution"][0]), 4)
    mark = {"yref": "y domain", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1.5, "dash": "dot"}}
    level = {"x0": 0, "x1": 1, "y0": whole, "y1": whole, "line": {"color": INK, "width": 1, "dash": "dash"}, "layer": "below"}
    figure.update_layout(
        coloraxis={"showscale": False, "colorscale": [[0, GONE], [0.5, GONE], [0.5, CLEAR], [1, CLEAR]]},
        coloraxis2={"showscale": False, "colorscale": [[0, CROSS], [0.5, CROSS], [0.5, CLEAR], [1, CLEAR]]},
        shapes=[mark, level],
        annotations=[READING | {"y": lower / plot, "yanchor": "bottom", "font": {"size": 13}}],
        showlegend=False,
        hovermode="closest",
        dragmode=False,
        margin={"t": 30, "b": 46, "l": 56, "r": 14},
    )
    head_axes(figure, "x2", "y2", shape)
    figure.update_layout(xaxis=SHARE, yaxis=PLAIN | {"tickformat": ".0%", "title": {"text": "accuracy"}, "nticks": 6})
    figure.update_layout(yaxis_domain=[0, lower / plot], yaxis_range=[low - 0.03, high + 0.03], yaxis2_domain=[1 - upper / plot, 1])


def sample_importances(result: Mapping[str, Any], sample: int) -> dict[str, tuple[Float[Tensor, "L H"], Float[Tensor, "L H"] | None]]:
    """Importance and its standard error by each method on one sample, in the order of the legend; of ``random`` the numbers drawn."""
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for line in result["samples"]:
        if line["sample"] == sample:
            found[line["method"]] = (torch.tensor(line["importance"]), torch.tensor(line["error"]))
    if found and any((point["method"], point["sample"]) == ("random", sample) for point in result["curves"]):
        found["random"] = (random_importance(next(iter(found.values()))[0], sample), None)
    return {method: found[method] for method in LOOKS if method in found}


def pruning_place(importance: Float[Tensor, "L H"]) -> Int[Tensor, "L H"]:
    """For each head, how many go before it: the least important first, the first of equals first, as `attattr.pruning_curve` does."""
    order = importance.flatten().argsort(stable=True)
    return torch.empty_like(order).scatter(0, order, torch.arange(len(order))).reshape(importance.shape)


def grid_traces(method: str, importance: Float[Tensor, "L H"], error: Float[Tensor, "L H"] | None) -> Iterator[Any]:
    """One method's grid, and what hides the pruned heads: colours of the place in the order, clear above the middle of the axis."""
    place = pruning_place(importance)
    layer, head = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, importance.shape), indexing="ij"))
    grid = importance_map(importance, error).update(texttemplate=None, showscale=False, xaxis="x2", yaxis="y2")
    yield grid.update(name=LOOKS[method][3])
    quiet = {"hoverinfo": "skip", "xaxis": "x2", "yaxis": "y2"}
    small = place.numpy().astype(np.uint8 if place.numel() <= 256 else np.uint16)
    yield go.Heatmap(z=small, coloraxis="coloraxis", xgap=2, ygap=2, **quiet)
    cross = {"symbol": "x-thin-open", "size": 9, "color": small.flatten(), "coloraxis": "coloraxis2", "line": {"width": 1.5}}
    where = {"x": head.numpy().astype(np.uint8), "y": layer.numpy().astype(np.uint8)}
    yield go.Scatter(**where, mode="markers", marker=cross, **quiet)


def slider_step(curves: Curves, accuracy: Mapping[str, np.ndarray], place: int, mark: int) -> dict[str, Any]:
    """One position of the slider: where the marks stand, what is hidden, and the accuracies in words."""
    rate, pruned = curves.rates[place], curves.pruned[place]
    lines = [f"<b>{pruned} of {curves.heads} heads pruned</b>"]
    for method, values in accuracy.items():
        lines.append(f'<span style="color:{LOOKS[method][0]}">⬤</span> {LOOKS[method][3]}: {values[place]:.1%}')
    look = {"shapes[0].x0": rate, "shapes[0].x1": rate, "annotations[0].text": "<br>".join(lines)}
    for axis in ("coloraxis", "coloraxis2"):  # places below `pruned` lie in the lower half of the axis
        look |= {f"{axis}.cmin": pruned - 1, f"{axis}.cmax": pruned}
    moved = {"x": [[rate] * len(accuracy)], "y": [[round(float(values[place]), 4) for values in accuracy.values()]]}
    return {"label": f"{pruned} of {curves.heads}", "method": "update", "args": [moved, look, [mark]]}


def slider_words(importance: Float[Tensor, "L H"], curves: Curves, accuracy: Mapping[str, np.ndarray]) -> str:
    """The slider's figure in words, with the accuracies at half and at nine tenths."""
    layers, heads = importance.shape
    parts = []
    for place in sorted({curves.nearest(0.5), curves.nearest(0.9)}):
        values = ", ".join(f"{LOOKS[method][3]} {values[place]:.1%}" for method, values in accuracy.items())
        parts.append(f"With {curves.pruned[place]} of {curves.heads} heads pruned by {values}.")
    return (
        f"A grid of {layers} layers by {heads} heads, coloured by importance; heads that are pruned are grey and crossed out. Below it "
        f"accuracy against the share of heads pruned, with a mark that moves with the slider. {accuracy['attribution'][0]:.1%} with all "
        f"heads. {' '.join(parts)} {largest_words(importance, None)}"
    )


def importance_figure(importance: Float[Tensor, "L H"], error: Float[Tensor, "_L _H"] | None = None) -> go.Figure:
    """The importance of every head as a grid of layers by heads, with the rank in each cell (1 is the most important).

    Args:
        importance: what `attattr.head_importance` returns; if some are negative, the colours are centred at 0.
        error: their standard errors, told at the pointer.

    Raises:
        ValueError: an importance that is not finite, errors of another shape.
    """
    if not importance.isfinite().all():
        layer, head = (~importance.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"the importance of {head_name(layer, head)} is {float(importance[layer, head])}: expected finite numbers")
    if error is not None and error.shape != importance.shape:
        raise ValueError(f"errors of shape {tuple(error.shape)} for an importance of shape {tuple(importance.shape)}: expected the same")
    layers, heads = importance.shape
    figure = go.Figure(importance_map(importance, error))
    alt = f"A grid of {layers} layers by {heads} heads, coloured by importance, with the rank of each. {largest_words(importance, error)}"
    finish(figure, alt, height=150 + 32 * layers)
    head_axes(figure, "x", "y", importance.shape)
    return figure.update_layout(margin={"t": 14, "b": 46, "l": 46, "r": 8}, dragmode=False)


def importance_map(importance: Float[Tensor, "L H"], error: Float[Tensor, "L H"] | None) -> go.Heatmap:
    """One importance as a heatmap."""
    values = importance.double().cpu().numpy()
    rank = (importance.numel() - pruning_place(importance)).tolist()
    end = "" if error is None else " ± %{customdata}"
    signs = (
        {"colorscale": DIVERGING, "zmid": 0}
        if values.min() < 0
        else {"colorscale": SEQUENTIAL, "zmin": 0, "zmax": max(values.max(), 1e-12)}
    )
    return go.Heatmap(
        z=four_digits(values),
        customdata=None if error is None else four_digits(error.double().cpu().numpy(), 2),
        text=rank,
        texttemplate="%{text}",
        textfont={"size": 10},
        xgap=2,
        ygap=2,
        colorbar={"orientation": "h", "y": -0.06 - 0.9 / len(values), "yanchor": "top", "thickness": 10, "len": 1, "nticks": 6},
        hovertemplate=f"layer %{{y}}, head %{{x}}<br>%{{z:.3g}}{end}, rank %{{text}} of {importance.numel()}<extra></extra>",
        **signs,
    )


def four_digits(values: np.ndarray, digits: int = 4) -> list[list[float]]:
    """A matrix as lists of numbers with this many digits that count."""
    return [[float(f"{value:.{digits}g}") for value in row] for row in values]


def head_axes(figure: go.Figure, x: str, y: str, shape: Sequence[int]) -> None:
    """Axes of a grid of layers, upward, by heads; both counted from 0."""
    for axis, name, count, least in ((x, "head", shape[1], 12), (y, "layer", shape[0], 6)):
        every = 1 if count <= least else 2
        look = PLAIN | {"title": {"text": name, "standoff": 4}, "tickvals": list(range(0, count, every)), "range": [-0.5, count - 0.5]}
        figure.update_layout({f"{axis[0]}axis{axis[1:]}": look | {"anchor": (y if axis == x else x)}})


def largest_words(importance: Float[Tensor, "L H"], error: Float[Tensor, "L H"] | None, count: int = 3) -> str:
    """The most important heads and their values."""
    places = importance.flatten().argsort(descending=True, stable=True)[:count].tolist()
    told = []
    for place in places:
        layer, head = divmod(place, importance.shape[1])
        plus = "" if error is None else f" ± {float(error[layer, head]):.2g}"
        told.append(f"{head_name(layer, head)} ({float(importance[layer, head]):.3g}{plus})")
    middle = float(importance.flatten().double().quantile(0.5))
    return f"The most important: {', '.join(told)}; the median of all is {middle:.2g}."
