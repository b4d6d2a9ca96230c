"""The grammar of all figures: how they look, how tokens stand on an axis, and how whole figures are joined by a menu or a slider.

A result is drawn in its chapter, by ``plotly.express`` or by a builder from here, from a tidy table. No other file says how a figure
looks, and none keeps lists of what is visible.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, TypeVar

import numpy as np
import pandas
import plotly.graph_objects as go
from plotly.io.json import to_json_plotly
from torch import Tensor

from ..attribution import Attribution
from ..display import printable
from ..flow import by_head

Thing = TypeVar("Thing", bound=Hashable)

SEQUENTIAL, DIVERGING = "Cividis", "RdBu"  # blue is positive; DIVERGING is drawn with its middle at 0
FOR, AGAINST, CONTROL, NEUTRAL = "#2166ac", "#b2182b", "#d98c21", "#777777"  # for the class, against it, by chance, anything else
INK, FAINT = "#222222", "#e6e6e6"
LOOKS = {  # colour, dash, symbol: never told apart by colour alone
    "attribution": (FOR, "solid", "circle"),
    "attention": (AGAINST, "dash", "square"),
    "random": (CONTROL, "dashdot", "diamond"),
    "Taylor": (AGAINST, "solid", "square"),
    "accuracy difference": ("#009e73", "dash", "triangle-up"),
    "Taylor of the logits": ("#555555", "dot", "x"),
    "Taylor, normalised": ("#cc79a7", "longdash", "cross"),
}
OTHERS = (
    ("#0072b2", "solid", "circle"),
    ("#d55e00", "dash", "square"),
    ("#009e73", "dot", "diamond"),
    ("#cc79a7", "dashdot", "triangle-up"),
    ("#56b4e9", "longdash", "x"),
    (INK, "longdashdot", "cross"),
)
LEGEND = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "title": {"text": ""}}
LONGEST = 32  # letters of a token, beyond which it would push the drawing off the page
PERCENT = 100  # heat maps hold whole per cents in bytes: a tenth of the size on the page, and what is under the pointer reads as it is


def check_attribution(att: Any) -> None:
    """Refuse what a figure of one decision cannot show.

    Raises:
        TypeError: something else than an `Attribution`.
        ValueError: scores or attention as `check_maps` refuses them, or of two shapes; a label or text that is none; probabilities
            that are not finite, or no ``target``.
    """
    if not isinstance(att, Attribution):
        raise TypeError(f"{att!r:.80}: expected an Attribution, as attattr.attribute returns it for one text")
    check_maps(att.scores, att.tokens, "scores")
    check_maps(att.attention, att.tokens)
    if att.scores.shape != att.attention.shape:
        raise ValueError(f"scores of shape {list(att.scores.shape)}, attention of {list(att.attention.shape)}: expected the same")
    chances = np.asarray([att.value] if att.probabilities is None else att.probabilities, float)
    target, text = 0 if att.probabilities is None else att.target, att.text if isinstance(att.text, tuple) else (att.text,)
    if chances.ndim != 1 or not np.isfinite(chances).all() or target not in range(len(chances)):
        raise ValueError(f"target={att.target!r:.80}, probabilities={chances}: expected finite ones, and the place of one of them")
    if not all(isinstance(words, str) for words in (att.label, *text)):
        raise ValueError(f"label={att.label!r:.80}, text={att.text!r:.80}: expected strings")


def check_maps(values: Any, tokens: Any, name: str = "attention", ranks: Sequence[int] = (4,)) -> None:
    """Refuse what is no L H N N (or of other ``ranks``) of finite floats, or has not a string for each of the N tokens."""
    by_head(values, name)
    if not isinstance(tokens, Sequence) or not all(isinstance(token, str) for token in tokens) or isinstance(tokens, str):
        raise TypeError(f"tokens={tokens!r:.80}: expected a string for each token")
    if values.ndim not in ranks or len(tokens) != values.shape[-1]:
        raise ValueError(f"{len(tokens)} tokens for {name} among {values.shape[-1]}, L H N N = {list(values.shape)}: expected N tokens")


def looks(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour, dash and symbol for each name, as ``plotly.express`` takes them: ``px.line(..., color="method", **looks(methods))``."""
    unique = list(dict.fromkeys(names))
    taken = {LOOKS[name][1:] for name in unique if name in LOOKS}
    spare = cycle([look for look in OTHERS if look[1:] not in taken])  # two names never share both dash and symbol
    chosen = {name: LOOKS.get(name) or next(spare) for name in unique}
    kinds = ("color_discrete_map", "line_dash_map", "symbol_map")
    return {kind: {name: look[place] for name, look in chosen.items()} for place, kind in enumerate(kinds)}


def page(figure: go.Figure, alt: str, height: int, min_width: int | None = None, words: str | None = None, **layout: Any) -> go.Figure:
    """Put a figure on the page: the look that all share, its height in pixels, and what it shows in words (``alt``).

    Args:
        min_width: of a figure that scrolls in its own box where the page is narrower.
        words: the axis (``"x"`` or ``"y"``) whose tokens the lines join: on the page, the lines of a token light up.
        layout: what else ``update_layout`` takes.

    Raises:
        ValueError: no words.
    """
    if not alt.strip():
        raise ValueError("a figure without alternative text: say in a sentence or two what it shows")
    figure.update_xaxes(zeroline=False, fixedrange=True).update_yaxes(zeroline=False, fixedrange=True, automargin=True)
    figure.update_layout(template="none", height=height, font={"size": 13}, hovermode="closest", dragmode=False, legend=LEGEND)
    meta = {"alt": printable(alt)} | {key: value for key, value in {"min_width": min_width, "words": words}.items() if value}
    figure.update_layout(margin={"t": 40, "b": 60, "l": 60, "r": 12}, meta=meta)
    return figure.update_layout(**layout)


def literal(words: Any) -> str:
    """Words as Plotly and `attattr.svg` show them to the letter: no markup (``<b>``), formula (``$x$``) or field (``%{x}``) comes of them.

    Whatever a user names goes through here: tokens, classes, columns, rows.

    >>> literal("<b>")
    '&lt;b&gt;'
    """
    return escape(printable(str(words)), quote=False).replace("$", "&#36;").replace("%", "&#37;")  # Plotly knows no &quot;


def token_words(tokens: Iterable[str]) -> list[str]:
    """The tokens as `literal` words, long ones cut."""
    return [literal(token if len(token) <= LONGEST else f"{token[: LONGEST - 1]}…") for token in tokens]


def token_labels(tokens: Sequence[str]) -> list[str]:
    """The tokens as `token_words`: one that stands more than once is followed by its place.

    >>> token_labels(["<s>", "to", "be", "or", "not", "to"])
    ['&lt;s&gt;', 'to ·1', 'be', 'or', 'not', 'to ·5']
    """
    words = token_words(tokens)
    return [word + (f" ·{place}" if words.count(word) > 1 else "") for place, word in enumerate(words)]


def token_axis(tokens: Sequence[str], **look: Any) -> dict[str, Any]:
    """An axis with a token at each of the places 0, 1, 2 …. Places are numbers: Plotly takes a *label* "2" for the place 2."""
    ends = {"type": "linear", "tickmode": "array", "tickvals": list(range(len(tokens))), "ticktext": token_labels(tokens)}
    return ends | {"showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True} | look


def heat(
    values: Any, rows: Sequence[str] = (), columns: Sequence[str] = (), limit: float = 1.0, diverging: bool = False, **options: Any
) -> go.Heatmap:
    """One heat map; under the pointer "row → column: so many per cent of the limit".

    Args:
        values: row by row; from 0 to ``limit``, or with ``diverging`` from -``limit`` to it. What is beyond is cut.
        rows, columns: what stands there, tokens for instance; give the same to `token_axis`. Without them the pointer says nothing.
        options: of ``go.Heatmap``.

    Raises:
        ValueError: numbers that are not finite, or not as many rows and columns as are named.
    """
    numbers = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, float)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{int((~np.isfinite(numbers)).sum())} numbers of a heat map are not finite: expected numbers")
    if (rows or columns) and numbers.shape != (len(rows), len(columns)):
        raise ValueError(f"a heat map of shape {numbers.shape}, names for {len(rows)} rows and {len(columns)} columns: expected as many")
    scale = limit if limit > 0 else 1.0
    ticks = np.linspace(-1 if diverging else 0, 1, 5)
    bar = {"tickvals": list(ticks * PERCENT), "ticktext": [f"{tick * scale:.2g}" for tick in ticks], "thickness": 12, "len": 0.9}
    look = {"zmin": -PERCENT if diverging else 0, "zmax": PERCENT, "colorscale": DIVERGING if diverging else SEQUENTIAL, "colorbar": bar}
    look["z"] = np.rint(np.clip(numbers / scale, -1, 1) * PERCENT).astype(np.int8)
    if rows:
        read = np.array([f" → {column}" for column in token_labels(columns)], dtype=object)
        look["hovertext"] = np.add.outer(np.array(token_labels(rows), dtype=object), read)  # Plotly looks at each item of a list
        look["hovertemplate"] = "%{hovertext}: %{z} %" + ("" if scale == 1 else f" of {scale:.2g}") + "<extra></extra>"
    else:
        look["hoverinfo"] = "skip"
    return go.Heatmap(look | options)


def curve(table: pandas.DataFrame, x: str, y: str, by: str, low: str | None = None, high: str | None = None) -> go.Figure:
    """A line for each value of column ``by``, with a band from column ``low`` to ``high`` if they are given and differ."""
    styles = looks(table[by])
    bands, curves = [], []
    for name, own in table.groupby(by, sort=False):
        color, dash, symbol = (styles[kind][name] for kind in styles)
        line = go.Scatter(x=own[x], y=own[y], name=literal(name), legendgroup=name, mode="lines+markers")
        line.update(line={"color": color, "dash": dash, "width": 2.5}, marker={"symbol": symbol, "size": 7, "color": color})
        told = f"{literal(name)}, {literal(x)} %{{x}}<br>{literal(y)} %{{y:.3g}}"
        if low and high and not own[low].equals(own[high]):
            told += " (%{customdata[0]:.3g} to %{customdata[1]:.3g})"
            line.customdata = own[[low, high]].to_numpy()
            around = {"x": [*own[x], *own[x][::-1]], "y": [*own[high], *own[low][::-1]], "fill": "toself", "fillcolor": color}
            bands.append(go.Scatter(around, opacity=0.18, mode="lines", line_width=0, hoverinfo="skip", showlegend=False, legendgroup=name))
        line.hovertemplate = f"{told}<extra></extra>"
        curves.append(line)
    return go.Figure([*bands, *curves]).update_xaxes(title=literal(x), gridcolor=FAINT).update_yaxes(title=literal(y), gridcolor=FAINT)


def dots(table: pandas.DataFrame, x: str, y: str, low: str, high: str, by: str | None = None) -> go.Figure:
    """A row for each value of column ``y``, its name above its dots; each dot with its interval. Column ``by`` gives looks."""
    figure = go.Figure()
    styles = looks(table[by]) if by else looks([x])
    for name, own in table.groupby(by, sort=False) if by else [(x, table)]:
        color, _, symbol = (styles[kind][name] for kind in styles)
        ends = {"array": own[high] - own[x], "arrayminus": own[x] - own[low], "color": color, "thickness": 1.5, "width": 4}
        told = f"%{{y}}<br>{literal(name)} %{{x:.3g}} (%{{customdata[0]:.3g}} to %{{customdata[1]:.3g}})<extra></extra>"
        figure.add_scatter(x=own[x], y=own[y].map(literal), error_x=ends, customdata=own[[low, high]].to_numpy(), mode="markers")
        figure.data[-1].update(name=literal(name), hovertemplate=told, marker={"color": color, "symbol": symbol, "size": 9})
    rows = list(dict.fromkeys(table[y].map(literal)))
    figure.update_yaxes(type="category", categoryarray=rows, range=[len(rows) - 0.5, -0.8])
    figure.update_xaxes(title=literal(x), gridcolor=FAINT).update_yaxes(gridcolor=FAINT, ticks="")
    return row_names(figure, {row: place for place, row in enumerate(rows)})  # an annotation takes "2" for the place 2


def row_names(figure: go.Figure, names: Mapping[str, Any]) -> go.Figure:
    """Name rows at their places on the y-axis, inside, above what stands there: beside it, names would take half of a telephone.

    They are no tick labels, since inside ones take numbers from the other axis.
    """
    for name, place in names.items():
        note(figure, name, 0, place, "left", xref="paper", yshift=4)
    return figure.update_yaxes(showticklabels=False, title="")


def note(figure: go.Figure, text: str, x: Any, y: Any, side: str = "center", **look: Any) -> go.Figure:
    """Words above a point; the point is at their middle, or at their left or right end (``side``)."""
    return figure.add_annotation(text=text, x=x, y=y, xanchor=side, showarrow=False, **{"yanchor": "bottom"} | look)


def choose(figures: Mapping[str, go.Figure], prefix: str, active: int = 0) -> go.Figure:
    """Whole figures under one menu, each with its own traces and layout. Their alternative texts follow one another.

    Raises:
        ValueError: no figure, or one with a slider or menu of its own (choose first, then slide; or see `swap`).
    """
    data, layouts = parts(figures)
    if any(layout.get("sliders") or layout.get("updatemenus") for layout in layouts):
        raise ValueError("a figure with a slider or menu of its own under a menu: choose first, then slide, or swap")
    changing = [key for key in differing(layouts) if key != "meta"]
    buttons: list[dict[str, Any]] = []
    for label, own, layout in zip(figures, data, layouts, strict=True):
        # A trace that waits in the legend ("legendonly") waits there again.
        seen = [of is own and trace.get("visible", True) for of in data for trace in of]
        look = {key: layout.get(key) for key in changing}
        buttons.append({"label": label, "method": "update", "args": [{"visible": seen}, look]})
    traces = [trace for own in data for trace in own]
    shown = buttons[active]["args"][0]["visible"]
    joined = go.Figure([trace | {"visible": seen} for trace, seen in zip(traces, shown, strict=True)], layout=layouts[active])
    return joined.update_layout(updatemenus=menus(buttons, prefix, active), meta=joined_meta(figures, layouts, active))


def slide(figures: Mapping[str, go.Figure | Sequence[Any]], prefix: str, active: int = 0) -> go.Figure:
    """Whole figures under one slider, by frames that hold only what differs. All have the same traces, in the same order.

    A figure without a layout of its own can be given as the list of its traces: Plotly need not check each as a figure then.

    Raises:
        ValueError: no figure, figures of other traces, or with other controls.
    """
    joined, steps = framed(figures, active)
    return joined.update_layout(sliders=[*joined.layout.sliders, slider(steps, prefix, active)])


def swap(figures: Mapping[str, go.Figure], prefix: str, active: int = 0) -> go.Figure:
    """As `slide`, with a menu. The slider that `reveal` gave to all figures goes on working, whichever is chosen.

    Raises:
        ValueError: no figure, figures of other traces, or with other controls.
    """
    joined, buttons = framed(figures, active)
    return joined.update_layout(updatemenus=[*joined.layout.updatemenus, *menus(buttons, prefix, active)])


def framed(figures: Mapping[str, go.Figure | Sequence[Any]], active: int) -> tuple[go.Figure, list[dict[str, Any]]]:
    """One of several figures, a frame for each, and the items of a control that leads to the frames."""
    data, layouts = parts(figures)
    if len({tuple(trace["type"] for trace in traces) for traces in data}) > 1:
        raise ValueError("figures of different traces cannot share a slider: expected the same kinds in the same order")
    keys = [key for key in differing(layouts) if key != "meta"]
    if {"sliders", "updatemenus"} & set(keys):
        raise ValueError("figures with different sliders or menus cannot be joined: expected none, or the same for all")
    every = [(place, differing(same)) for place, same in enumerate(zip(*data, strict=True))]
    moving = [(place, changing) for place, changing in every if changing]
    frames = []
    for label, traces, layout in zip(figures, data, layouts, strict=True):
        changed = [{"type": traces[place]["type"]} | {key: traces[place].get(key) for key in changing} for place, changing in moving]
        look = {key: layout.get(key) for key in keys}
        frames.append(go.Frame(name=label, data=changed, traces=[place for place, _ in moving], layout=look))
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    items = [{"label": label, "method": "animate", "args": [[label], jump]} for label in figures]
    joined = go.Figure(data[active], layouts[active], frames)
    return joined.update_layout(meta=joined_meta(figures, layouts, active)), items


def reveal(drawn: Sequence[tuple[Any, Sequence[int]]], labels: Sequence[str], prefix: str, active: int = 0) -> go.Figure:
    """Traces, each with the positions of the slider at which it is seen."""
    figure = go.Figure([trace.update(visible=active in positions) for trace, positions in drawn])
    visible = [[position in positions for _, positions in drawn] for position in range(len(labels))]
    steps = [{"label": label, "method": "restyle", "args": [{"visible": seen}]} for label, seen in zip(labels, visible, strict=True)]
    return figure.update_layout(sliders=[slider(steps, prefix, active)])


def together(drawn: Sequence[Iterable[Thing]]) -> list[tuple[tuple[int, ...], list[Thing]]]:
    """From what is seen at each position of a slider: sets of positions, each with what is seen at these and no others."""
    positions: dict[Thing, list[int]] = {}
    for position, things in enumerate(drawn):
        for thing in things:
            positions.setdefault(thing, []).append(position)
    groups: dict[tuple[int, ...], list[Thing]] = {}
    for thing, places in positions.items():
        groups.setdefault(tuple(places), []).append(thing)
    return list(groups.items())


def slider(steps: Sequence[Mapping[str, Any]], prefix: str, active: int) -> dict[str, Any]:
    """A slider under a figure."""
    return {"active": active, "currentvalue": {"prefix": f"{prefix} "}, "steps": list(steps), "pad": {"t": 50}}


def menus(buttons: Sequence[Mapping[str, Any]], prefix: str, active: int) -> list[dict[str, Any]]:
    """A menu above a figure; none where there is nothing to choose."""
    menu = {"name": prefix, "buttons": list(buttons), "active": active, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return [menu] if len(buttons) > 1 else []


def parts(figures: Mapping[str, go.Figure | Sequence[Any]]) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """The traces and the layout of each figure, as plain dictionaries."""
    if not figures or any(getattr(figure, "frames", ()) for figure in figures.values()):
        raise ValueError(f"{len(figures)} figures to join: expected at least one, and none that moves by frames of its own")
    drawn = [(one.data, one.layout.to_plotly_json()) if isinstance(one, go.Figure) else (one, {}) for one in figures.values()]
    return [[trace.to_plotly_json() for trace in traces] for traces, _ in drawn], [layout for _, layout in drawn]


def differing(things: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys under which some of the dictionaries hold something else than the first."""
    keys = sorted(set().union(*things))
    return [key for key in keys if len({to_json_plotly(thing.get(key)) for thing in things}) > 1]


def joined_meta(figures: Iterable[str], layouts: Sequence[Mapping[str, Any]], active: int) -> dict[str, Any]:
    """The alternative texts of several figures, each after its label, one that all share once; and the width that all need."""
    metas = [layout.get("meta", {}) for layout in layouts]
    said = [meta.get("alt", "") for meta in metas]
    words = said[0] if len(set(said)) == 1 else " ".join(f"{label}: {alt}" for label, alt in zip(figures, said, strict=True))
    width = max(meta.get("min_width", 0) for meta in metas)
    return metas[active] | {"alt": words} | ({"min_width": width} if width else {})
