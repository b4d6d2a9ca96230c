"""Figures of single heads: tokens through the layers, A and V and c (chapter 1); attention beside attribution (chapter 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from ..connections import Attribution
from . import grammar
from .graphs import points, straight

BANDS = ((0.5, 1.01, "#00224e", 3.2), (0.25, 0.5, "#4a6c8c", 1.8), (0.12, 0.25, "#a9b7c4", 1.0))  # attention from, to; colour, width
SLANTED = {"tickangle": -60}


def head_name(layer: int, head: int) -> str:
    """What a head is called in every picture and control; both counted from 0."""
    return f"layer {layer}, head {head}"


def token_paths_figure(attention: Float[Tensor, "L H N N"], tokens: Sequence[str]) -> go.Figure:
    """Figure 1.1: the tokens, a row of nodes for each level, joined where attention is 0.12 or more; a slider over heads.

    The line from node i above layer l to node j below it is ``attention[l, h, i, j]``. The first step of the slider is
    the mean over heads.
    """
    grammar.check_maps(attention, tokens)
    layers, heads, count, _ = attention.shape
    stay = straight([((layers, place), (0, place)) for place in range(count)], grammar.FAINT, 6.0)
    stay.update(name="the token itself (residual)", showlegend=True)
    nodes = points([(level, place) for level in range(layers + 1) for place in range(count)], 9.0, "#ffffff")
    told = [f"{word}, level {level}" for level in range(layers + 1) for word in grammar.token_labels(tokens)]
    nodes.update(marker_line={"color": grammar.NEUTRAL, "width": 1.5}, hoverinfo="text", text=told)
    read = points([(layers, 0)], 16.0, grammar.CONTROL).update(name="read by the classifier", showlegend=True)
    maps = {"mean of all": attention.mean(1)} | {str(head): attention[:, head] for head in range(heads)}
    drawn = {name: [stay, *(band_lines(map_, *band) for band in BANDS), nodes, read] for name, map_ in maps.items()}
    figure = grammar.slide(drawn, "Head (of every layer):")
    above = ["embedding", *(f"after {layer}" for layer in range(layers))]
    figure.update_xaxes(grammar.token_axis(tokens, tickangle=-45))
    figure.update_yaxes(tickvals=np.arange(layers + 1), ticktext=above, showgrid=False, ticks="", range=[-0.3, layers + 0.4])
    alt = f"{count} tokens as columns, {layers + 1} rows of nodes from the embeddings below to the output of layer {layers - 1} above. "
    alt += "Lines show who attends to whom in each layer; darker and thicker means more attention. The classifier reads the top [CLS] node."
    min_width = 90 + 20 * count if count > 16 else None
    return grammar.page(figure, alt, 600, min_width, "x").update_layout(legend={"y": -0.15}, margin={"t": 16, "b": 130})


def band_lines(attention: Float[Tensor, "L N N"], low: float, high: float, color: str, width: float) -> go.Scatter:
    """One trace with the lines of all connections whose attention is in [``low``, ``high``)."""
    edges = [((layer + 1, query), (layer, key)) for layer, query, key in ((attention >= low) & (attention < high)).nonzero().tolist()]
    return straight(edges, color, width).update(name=f"attention {low:g} to {min(high, 1):g}", showlegend=True)


def head_figure(
    attention: Float[Tensor, "L H N N"],
    value: Float[Tensor, "L H N d"],
    context: Float[Tensor, "L N H d"],
    tokens: Sequence[str],
    start: tuple[int, int] = (0, 0),
) -> go.Figure:
    """Figure 1.2: A, V and c = A V of one head, side by side, with a slider over all heads; opens on layer and head ``start``."""
    grammar.check_maps(attention, tokens)
    layers, heads, count, _ = attention.shape
    shapes = [list(rows.shape) if isinstance(rows, Tensor) else [type(rows).__name__] for rows in (value, context)]
    size = shapes[0][-1]
    if shapes != [[layers, heads, count, size], [layers, count, heads, size]]:
        raise ValueError(f"value {shapes[0]}, context {shapes[1]}, attention {list(attention.shape)}: expected L H N d, L N H d, L H N N")
    if start not in product(range(layers), range(heads)):
        raise ValueError(f"start={start!r}: expected a layer below {layers} and a head below {heads}")
    limit = float(value.abs().flatten().quantile(0.995))  # beyond it colours are at their end
    dimensions = [f"dimension {number}" for number in range(size)]

    def draw(layer: int, head: int) -> list[go.Heatmap]:
        matrix = grammar.heat(attention[layer, head], tokens, tokens, colorbar_x=0.31)
        sides = [grammar.heat(rows, tokens, dimensions, limit, True) for rows in (value[layer, head], context[layer, :, head])]
        return [matrix, sides[0].update(xaxis="x2", yaxis="y2", showscale=False), sides[1].update(xaxis="x3", yaxis="y3")]

    drawn = {head_name(*at): draw(*at) for at in product(range(layers), range(heads))}
    figure = grammar.slide(drawn, "Head:", start[0] * heads + start[1])
    panels(figure, {"attention A": (0.0, 0.3), "values V": (0.43, 0.7), "context c = A V": (0.73, 1.0)}, tokens)
    figure.update_xaxes(grammar.token_axis(tokens, **SLANTED), selector=0)
    wide = {"title": f"{size} dimensions", "showticklabels": False, "ticks": "", "showgrid": False}
    figure.update_layout(xaxis2=wide, xaxis3=wide)
    alt = f"Three heatmaps of one head, for {len(tokens)} tokens: the attention matrix, its values with {size} dimensions, and the "
    alt += "context, each row of which is the mixture of value rows that the attention row asks for. A slider goes through all heads."
    return grammar.page(figure, alt, height=430).update_layout(margin={"b": 90})


def maps_figure(attribution: Attribution) -> go.Figure:
    """Figure 2.1: attention (left) and attribution (right) of one head, with a slider over all heads.

    Opens on the head with the largest score. Attribution is in per cent of that score, so that heads can be compared.
    """
    grammar.check_attribution(attribution)
    scores, tokens = attribution.scores, attribution.tokens
    limit = float(scores.abs().max())

    def draw(at: tuple[int, ...]) -> list[go.Heatmap]:
        right = grammar.heat(scores[at], tokens, tokens, limit, diverging=True, xaxis="x2", yaxis="y2")
        return [grammar.heat(attribution.attention[at], tokens, tokens, colorbar_x=0.435), right]

    drawn = {head_name(*at): draw(at) for at in np.ndindex(*scores.shape[:2])}
    figure = grammar.slide(drawn, "Head:", int(scores.amax((2, 3)).argmax()))
    panels(figure, {"attention": (0.0, 0.43), f"attribution (100 % = {limit:.2g})": (0.57, 1.0)}, tokens)
    figure.update_xaxes(grammar.token_axis(tokens, **SLANTED))
    alt = f"Two {len(tokens)} by {len(tokens)} heatmaps of one head, rows attend to columns: attention left, attribution right. "
    alt += "Several cells are bright on the left; on the right nearly all of them are blank. A slider goes through all heads."
    return grammar.page(figure, alt, height=460).update_layout(margin={"b": 90})


def sheets_figure(attribution: Attribution) -> go.Figure:
    """Figure 2.2: the maps of all heads at once, attention (left) and attribution (right); layers across, heads down.

    The colours of attribution end at a quarter of the largest score, so that small scores show, too.
    """
    grammar.check_attribution(attribution)
    layers, heads, count, _ = attribution.scores.shape
    limit = float(attribution.scores.abs().max()) / 4
    left = grammar.heat(sheet(attribution.attention), colorbar_x=0.435)
    right = grammar.heat(sheet(attribution.scores), limit=limit, diverging=True, xaxis="x2", yaxis="y2")
    across, down = ([at * count - 0.5 for at in range(parts + 1)] for parts in (layers, heads))
    between = [((down[0], x), (down[-1], x)) for x in across[1:-1]] + [((y, across[-1]), (y, across[0])) for y in down[1:-1]]
    grid = straight(between, "#999999").update(xaxis="x2", yaxis="y2")
    figure = go.Figure([left, straight(between, "#ffffff"), right, grid])
    panels(figure, {"attention": (0.0, 0.43), f"attribution (100 % = {limit:.2g})": (0.57, 1.0)}, [])
    middle = [np.arange(parts) * count + (count - 1) / 2 for parts in (layers, heads)]
    plain = {"showgrid": False, "ticks": ""}
    figure.update_xaxes(plain, title="layer", tickvals=middle[0], ticktext=np.arange(layers), range=[across[0], across[-1]])
    figure.update_yaxes(plain, tickvals=middle[1], ticktext=np.arange(heads), range=[down[-1], down[0]])
    alt = f"Two sheets with one small heatmap for each of {layers * heads} heads, layers across and heads down. The attention sheet is "
    alt += "full of patterns: stripes, diagonals, blocks. The attribution sheet is almost empty: a few dots in a few heads."
    return grammar.page(figure, alt, height=780).update_layout(yaxis_title="head")


def sheet(maps: Float[Tensor, "L H N N"]) -> Float[Tensor, "rows columns"]:
    """The maps of all heads as the tiles of one: rows (H N), columns (L N)."""
    layers, heads, count, _ = maps.shape
    return maps.permute(1, 2, 0, 3).reshape(heads * count, layers * count)


def panels(figure: go.Figure, names: Mapping[str, tuple[float, float]], tokens: Sequence[str]) -> None:
    """Panels side by side, each with its name above and its share of the width; the tokens are named at the first one's rows."""
    for number, (name, (left, right)) in enumerate(names.items(), 1):
        own = "" if number == 1 else str(number)
        rows = grammar.token_axis(tokens, range=[len(tokens) - 0.5, -0.5], showticklabels=number == 1, anchor=f"x{own}")
        figure.update_layout({f"xaxis{own}": {"domain": [left, right], "anchor": f"y{own}"}, f"yaxis{own}": rows})
        grammar.note(figure, name, (left + right) / 2, 1, xref="paper", yref="paper", font={"size": 15})
