"""A drawing of chapter 7: heads grey out on the grid of all heads as they are pruned, above what that costs (Hao et al., §5.2, Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
import plotly.graph_objects as go
import torch

from ..heads import least_important, random_importance
from . import grammar

COLUMNS = {"measure", "method", "sample", "layer", "head", "pruned", "value", "error"}
NAMES = {"attribution": "attribution", "taylor": "Taylor", "accuracy": "accuracy difference", "random": "random"}
ON_GRID = {"xaxis": "x2", "yaxis": "y2", "xgap": 2, "ygap": 2, "showscale": False}
COVER = {"colorscale": [[0, "rgba(226, 226, 226, 0)"], [1, "rgb(226, 226, 226)"]], "zmin": 0, "zmax": 1, "texttemplate": "%{text}"}


def pruning_slider(table: pandas.DataFrame, sample: int = 0) -> go.Figure:
    """The pruning slider: a grid of layers by heads that greys out as heads go, and the accuracy curves with marks that move.

    The slider stands at the numbers of heads for which accuracy was measured. A menu chooses the measure of importance, which
    fills the grid and decides what goes next; the accuracies of all are told at every position.

    Args:
        table: what ``attattr.result("fig5-TASK")`` returns.
        sample: on which of the samples importance was measured; for ``random``, which of the orders. A measure without
            this sample is left out.

    Raises:
        ValueError: a table of another kind; no importance by attribution on this sample.

    >>> import attattr
    >>> figure = pruning_slider(attattr.result("fig5-sst2"), sample=1)
    >>> [button.label for button in figure.layout.updatemenus[0].buttons]
    ['attribution', 'Taylor', 'random']
    """
    if lacking := COLUMNS - set(getattr(table, "columns", ())):
        raise ValueError(f"a {type(table).__name__} without the columns {sorted(lacking)}: expected all of attattr.result('fig5-TASK')")
    accuracy, importance = (table[table.measure == measure] for measure in ("accuracy", "importance"))
    there = sorted(set(importance[importance.method == "attribution"]["sample"]))
    if sample not in there:
        raise ValueError(f"no importance by attribution on sample {sample}: there is {there}")
    of_methods = importance[importance["sample"] == sample].groupby("method")
    grids: dict[str, Any] = {method: own.pivot(index="layer", columns="head") for method, own in of_methods}
    grids["random"] = {"value": random_importance(torch.tensor(grids["attribution"]["value"].to_numpy()), sample)}
    curves = accuracy[accuracy["sample"] == sample].pivot(index="pruned", columns="method", values="value")
    curves = curves[[method for method in NAMES if method in curves and method in grids]].set_index(curves.index.astype(int))
    numbers = [np.asarray(values, float) for values in (curves, *(grid["value"] for grid in grids.values()))]
    if not all(one.size and np.isfinite(one).all() for one in numbers):
        raise ValueError(f"accuracies {curves.to_dict()}: expected a finite one of every measure, and a finite importance of every head")
    labels, active = [f"{pruned} of {curves.index[-1]}" for pruned in curves.index], len(curves) // 2
    views = {NAMES[method]: grammar.reveal([*traces(grids, curves, method)], labels, "Heads pruned:", active) for method in curves}
    figure = grammar.swap(views, "Importance by:")
    figure.add_hline(curves.iloc[0, 0], line={"dash": "dash", "width": 1, "color": grammar.INK})
    x = {"title": "heads pruned", "tickvals": list(curves.index), "range": [-1.5, 1.02 * curves.index[-1]]}
    figure.update_layout(xaxis=x, yaxis={"title": "accuracy", "tickformat": ".0%", "domain": [0, 0.47]})
    every = {"tickvals": list(range(max(grids["attribution"]["value"].shape)))}
    figure.update_layout(xaxis2=every | {"title": "head", "anchor": "y2"}, yaxis2=every | {"title": "layer", "anchor": "x2"})
    figure.update_layout(yaxis2_domain=[0.64, 1]).update_xaxes(title_standoff=6, showgrid=False).update_yaxes(showgrid=False)
    return grammar.page(figure, words(grids["attribution"]["value"], curves), height=620)


def traces(grids: dict[str, Any], curves: pandas.DataFrame, chosen: str) -> Iterator[tuple[Any, range]]:
    """What is drawn when one measure is chosen, each with the positions of the slider at which it is seen."""
    values, error, every = np.asarray(grids[chosen]["value"]), grids[chosen].get("error"), range(len(curves))
    low = -abs(values).max() if values.min() < 0 else 0
    colors = {"colorscale": grammar.DIVERGING if low < 0 else grammar.SEQUENTIAL, "zmin": low, "zmax": abs(values).max()}
    told = "layer %{y}, head %{x}<br>%{z:.3g}" + ("" if error is None else " ± %{customdata:.2g}") + "<extra></extra>"
    yield go.Heatmap(z=values, customdata=error, hovertemplate=told, **colors, **ON_GRID), every
    kept = [least_important(torch.tensor(values), pruned) for pruned in curves.index]
    for place in every[1:]:
        gone = (kept[place - 1] & ~kept[place]).numpy()
        yield go.Heatmap(z=gone.astype(np.int8), text=np.where(gone, "✕", ""), hoverinfo="skip", **COVER, **ON_GRID), every[place:]
    looks = grammar.looks([*NAMES.values()])
    for method, accuracy in curves.items():
        color, dash, symbol = (looks[kind][NAMES[method]] for kind in looks)
        line = {"width": 3 if method == chosen else 1.3, "color": color, "dash": dash}
        yield go.Scatter(x=curves.index, y=accuracy, mode="lines", line=line, hoverinfo="skip", showlegend=False), every
        marker = {"size": 13, "color": color, "symbol": symbol, "line": {"width": 2, "color": grammar.INK}}
        for place, value in enumerate(accuracy):
            name = f"{NAMES[method]} {value:.1%}"
            yield go.Scatter(x=curves.index[[place]], y=[value], mode="markers", marker=marker, name=name), every[place : place + 1]


def words(importance: pandas.DataFrame, curves: pandas.DataFrame) -> str:
    """The figure in words, with the accuracies at half and at nine tenths."""
    parts = []
    for place in sorted({round(0.5 * (len(curves) - 1)), round(0.9 * (len(curves) - 1))}):
        values = ", ".join(f"{NAMES[method]} {value:.1%}" for method, value in curves.iloc[place].items())
        parts.append(f"With {curves.index[place]} of {curves.index[-1]} heads pruned by {values}.")
    largest = importance.stack().nlargest(3)
    top = ", ".join(f"layer {layer:.0f}, head {head:.0f} ({value:.3g})" for (layer, head), value in largest.items())
    layers, heads = importance.shape
    return (
        f"A grid of {layers} layers by {heads} heads, coloured by importance; heads that are pruned are grey and crossed out. Below it "
        "accuracy against the number of heads pruned, with marks that move with the slider. "
        f"{curves.iloc[0, 0]:.1%} with all heads. {' '.join(parts)} The most important by attribution: {top}; "
        f"the median of all is {importance.stack().median():.2g}."
    )
