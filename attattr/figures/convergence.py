"""Figures of chapter 3: the path of Eq. 4, its sums step by step, and how fast four rules come to the exact scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from .style import DIVERGING, SEQUENTIAL, colorbar, finish, frame_slider, signed, token_labels

RULES = {  # colour (told apart also in grey), dash, name
    "riemann": ("#b2182b", "dot", "right sums (the paper)"),
    "riemann-left": ("#d98c21", "dash", "left sums (the code)"),
    "gauss-legendre": ("#2166ac", "solid", "Gauss–Legendre"),
    "auto": ("#111111", "solid", "auto"),
}
FLOOR = 1e-8  # where a logarithmic axis ends
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}  # above the figure


def path_figure(alphas: Float[np.ndarray, " K"], probabilities: Float[np.ndarray, "L K"], label: str) -> go.Figure:
    """F(αA) along the path of Eq. 4, one line for each layer (chapter 3).

    Args:
        alphas: where the path was looked at, from 0 to 1.
        probabilities: the probability of the class attributed, for each layer and α.
        label: the name of this class.
    """
    layers = len(probabilities)
    colors = sample_colorscale(SEQUENTIAL, list(np.linspace(0, 0.95, layers)))
    figure = go.Figure(
        [
            go.Scatter(x=alphas, y=np.round(row, 4), name=f"layer {layer}", mode="lines", line={"color": color, "width": 3})
            for layer, (row, color) in enumerate(zip(probabilities, colors, strict=True))
        ]
    )
    alt = (
        f"Probability of {label} against α, one line for each of {layers} layers. All lines end in one point at α = 1, the sentence "
        "as it is; at α = 0, where one layer is silent, they start at different heights, and in between they bend."
    )
    finish(figure, alt, height=380).update_layout(hovermode="x unified", legend=LEGEND)
    figure.update_layout(margin={"t": 70, "b": 50, "l": 60, "r": 12})
    figure.update_xaxes(title="α: how loud the layer speaks", zeroline=False)
    return figure.update_yaxes(title=f"probability of {label}", zeroline=False)


def steps_figure(
    tokens: Sequence[str],
    steps: Sequence[int],
    scores: Float[np.ndarray, "S N N"],
    reference: Float[np.ndarray, "N N"],
    errors: Sequence[float],
) -> go.Figure:
    """One layer's scores by right sums with m steps, beside the exact ones; the slider chooses m (chapter 3).

    Args:
        tokens: the N tokens.
        steps: the numbers of steps m, ascending.
        scores: the layer's scores (summed over heads) for each m.
        reference: the same by a rule that is as good as exact.
        errors: the relative error of each, shown at the slider.
    """
    limit = float(max(np.abs(scores).max(), np.abs(reference).max()))
    labels = token_labels(tokens)
    names = [f"{m} (off by {error:.1%})" for m, error in zip(steps, errors, strict=True)]
    figure = make_subplots(cols=2, rows=1, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=["right sum", "exact"])
    look = {"colorscale": DIVERGING, "zmin": -127, "zmax": 127, "x": labels, "y": labels}
    below = {"orientation": "h", "len": 1.0, "y": -0.4, "yanchor": "top", "title": {"text": "score", "side": "top"}}
    bar = colorbar(limit, 127, "score", diverging=True) | below
    hover = "%{y} reads %{x}<extra></extra>"
    figure.add_trace(go.Heatmap(z=signed(scores[0], limit), showscale=False, hovertemplate=hover, **look), 1, 1)
    figure.add_trace(go.Heatmap(z=signed(reference, limit), colorbar=bar, hovertemplate=hover, **look), 1, 2)
    figure.frames = [
        go.Frame(name=name, data=[go.Heatmap(z=signed(table, limit))], traces=[0]) for name, table in zip(names, scores, strict=True)
    ]
    alt = (
        f"Two heat maps of {len(labels)} by {len(labels)} tokens. Left: one layer's attribution by right sums with m steps; right: the "
        f"exact scores. With m = {steps[0]} the left map is off by {errors[0]:.0%}, with m = {steps[-1]} by {errors[-1]:.1%}."
    )
    finish(figure, alt, height=470).update_layout(sliders=[frame_slider(names, "Steps m:")], margin={"t": 40, "b": 130, "l": 66, "r": 8})
    figure.update_xaxes(tickangle=-90, showgrid=False, dtick=1, tickfont={"size": 11})
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def convergence_figure(
    errors: Mapping[str, Mapping[int, Float[np.ndarray, " P"]]],
    auto_evaluations: Int[np.ndarray, " P"],
    auto_errors: Float[np.ndarray, " P"],
    tolerance: float,
) -> go.Figure:
    """Error against number of gradients, four rules: the signature figure of chapter 3.

    Args:
        errors: for each method of `attattr.attribute` and each number of steps, the relative errors of P layers.
        auto_evaluations: how many gradients ``steps="auto"`` spent on each of these layers.
        auto_errors: how far off it was.
        tolerance: what it was told to reach.
    """
    figure = go.Figure()
    for method, by_steps in errors.items():
        color, dash, name = RULES[method]
        steps = sorted(by_steps)
        low, middle, high = (np.maximum([np.quantile(by_steps[m], q) for m in steps], FLOOR) for q in (0, 0.5, 1))
        band = {"x": steps + steps[::-1], "y": np.concatenate([high, low[::-1]]), "fill": "toself", "fillcolor": color, "opacity": 0.13}
        figure.add_trace(go.Scatter(**band, line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=method))
        line = {"color": color, "dash": dash, "width": 3}
        hover = name + ", %{x} gradients: median error %{y:.1e}<extra></extra>"
        figure.add_trace(go.Scatter(x=steps, y=middle, mode="lines+markers", line=line, name=name, legendgroup=method, hovertemplate=hover))
    shift = 1 + 0.05 * (np.arange(len(auto_errors)) % 5 - 2)  # layers with the same count stand side by side
    marker = {"symbol": "diamond-open", "size": 8, "color": RULES["auto"][0], "line": {"width": 1.5}}
    hover = "auto, %{customdata} gradients: error %{y:.1e}<extra></extra>"
    dots = {"x": auto_evaluations * shift, "y": np.maximum(auto_errors, FLOOR), "customdata": auto_evaluations}
    figure.add_trace(go.Scatter(**dots, mode="markers", marker=marker, name="auto, each layer", hovertemplate=hover))
    figure.add_hline(tolerance, line={"dash": "dot", "width": 1.5, "color": "#555"})
    label = {"xref": "paper", "x": 0, "y": np.log10(tolerance), "xanchor": "left", "yanchor": "top", "showarrow": False}
    figure.add_annotation(label, text="tolerance of auto")
    medians = {method: {m: float(np.median(e)) for m, e in by_steps.items()} for method, by_steps in errors.items()}
    said = "; ".join(f"{RULES[method][2]}, {max(by)} gradients: {by[max(by)]:.0e}" for method, by in medians.items())
    alt = (
        "Relative error against number of gradients, both axes logarithmic. Right and left sums fall slowly, Gauss–Legendre steeply. "
        f"Median errors: {said}."
    )
    finish(figure, alt, height=480).update_layout(legend=LEGEND, margin={"t": 80, "b": 55, "l": 66, "r": 10})
    ticks = sorted({m for by_steps in errors.values() for m in by_steps if m in (1, 2, 4, 8, 20, 64)})
    figure.update_xaxes(type="log", title="gradient evaluations for each layer", tickvals=ticks, ticktext=[str(m) for m in ticks])
    return figure.update_yaxes(type="log", title="relative error of the scores", exponentformat="power", dtick=1)


def cancellation_figure(
    gaps: Mapping[str, Float[np.ndarray, " P"]], errors: Mapping[str, Float[np.ndarray, " P"]], shuffled: str = "shuffled"
) -> go.Figure:
    """Completeness gap against true error, one dot for each layer: the control of chapter 3.

    Args:
        gaps: for each kind of scores, |Σ Attr - (F(A) - F(0))| / |F(A) - F(0)| of P layers.
        errors: for each kind of scores, the relative error of the same layers.
        shuffled: the kind that is the control, drawn as crosses.
    """
    figure = go.Figure()
    symbols = cycle(("circle", "square", "triangle-up", "diamond"))
    colors = cycle(sample_colorscale(SEQUENTIAL, [0.0, 0.35, 0.65, 0.9]))
    for kind, gap in gaps.items():
        marker = {"symbol": "x", "color": "#b2182b"} if kind == shuffled else {"symbol": next(symbols), "color": next(colors)}
        x, y = np.maximum(gap, FLOOR), np.maximum(errors[kind], FLOOR)
        hover = kind + ": gap %{x:.1e}, true error %{y:.1e}<extra></extra>"
        marker |= {"size": 9, "opacity": 0.8}
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=kind, marker=marker, hovertemplate=hover))
    ends = [FLOOR, 3.0]
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"color": "#999", "dash": "dot"}, name="error = gap", hoverinfo="skip"))
    alt = (
        "True error against completeness gap, both logarithmic, one mark for each layer. Honest rules lie about the diagonal, some well "
        "above it: a small gap, a large error. The crosses of the shuffled scores have tiny gaps and the largest errors."
    )
    finish(figure, alt, height=440).update_layout(legend=LEGEND, margin={"t": 80, "b": 55, "l": 66, "r": 10})
    figure.update_xaxes(type="log", title="completeness gap, relative", exponentformat="power", dtick=2)
    return figure.update_yaxes(type="log", title="true error of the scores", exponentformat="power", dtick=2)
