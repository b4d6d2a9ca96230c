"""The figure of one attacked decision (Hao et al., §5.3, Fig. 7): what decided without the trigger, and what decides with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..graph import SEP
from ..triggers import arranged
from .evidence import INK
from .heads import head_name
from .sentence import CURVE
from .style import finish

if TYPE_CHECKING:
    from ..attribution import Attribution
    from ..triggers import Trigger

TRIGGER, OTHER, PALE, BAND, RAIL = "#d55e00", "#5b7083", "#c9d1d8", "#fbe7d8", "#e3e3e3"
LINE, BAR, BETWEEN = 17, 24, 52  # pixels: the row of a token, that of a class, what is between the two
LETTER, PHONE = 7.6, 370  # pixels: a letter of the tokens, and the width in which there must be room for them


@dataclass(frozen=True)
class Link:
    """A connection with its largest score in any layer and head: token ``query`` reads token ``key``."""

    query: int
    key: int
    score: float
    layer: int
    head: int


def strongest_links(att: Attribution, count: int) -> list[Link]:
    """The connections of two tokens with the largest scores in any layer and head, the largest first; only those above 0."""
    _, heads, tokens, _ = att.scores.shape
    values, where = att.scores.flatten(0, 1).max(0)
    found = []
    for flat in values.flatten().argsort(descending=True, stable=True)[:count].tolist():
        query, key = divmod(flat, tokens)
        layer, head = divmod(int(where[query, key]), heads)
        found.append(Link(query, key, float(values[query, key]), layer, head))
    return [link for link in found if link.score > 0]


def trigger_places(before: Attribution, after: Attribution, trigger: Trigger) -> tuple[int, ...]:
    """Where in the tokens of ``after`` those of the trigger stand; a ``ValueError`` if it is not ``before`` with the trigger inserted."""
    end = next((place for place, token in enumerate(before.tokens) if token in SEP), len(before.tokens))  # of the first segment
    parts = [None if place == 0 or token in SEP else int(place > end) for place, token in enumerate(before.tokens)]  # the first is [CLS]
    own = {segment: [place for place, part in enumerate(parts) if part == segment] for segment in (0, 1)}
    order = arranged(parts, own, trigger)
    expected = [before.tokens[at] if at >= 0 else trigger.tokens[-1 - at] for at in order]
    places = [place for place, at in enumerate(order) if at < 0]
    if tuple(expected) != after.tokens or len(places) != len(trigger.tokens):
        raise ValueError(
            f"after has the tokens {' '.join(after.tokens)!r}, but before with the trigger {trigger.tokens} inserted would have "
            f"{' '.join(expected)!r}: expected the attributions of one text, not shortened, without and with the trigger"
        )
    return tuple(places)


def trigger_figure(
    before: Attribution, after: Attribution, trigger: Trigger, classes: Sequence[str] | None = None, count: int = 10
) -> go.Figure:
    """One decision without a trigger, on the left, and with it, on the right (Hao et al., Fig. 7).

    Above, the probability of each class. Below, the tokens as rows, the trigger's on a band; arcs join the tokens of the
    connections with the largest scores in any layer and head, for the class decided on their side, with a dot at the token
    that is read. Width gives the score in relation to the largest of the side; arcs that touch the trigger have its colour.

    Args:
        before, after: what `attattr.attribute` and `attattr.triggers.attribute_attacked` return for one text.
        trigger: what was inserted.
        classes: the names of all classes in the model's order; None: only those of the two decisions are named.
        count: how many arcs are drawn on each side.

    Raises:
        ValueError: ``after`` is not the text of ``before`` with the trigger, or was shortened; other classes; a count below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: expected at least 1 connection")
    places = trigger_places(before, after, trigger)
    names, rows = named_classes(before, after, classes), len(after.tokens)
    own = [place for place in range(rows) if place not in places]  # where the tokens of ``before`` stand
    figure = go.Figure(
        [*side_traces("left", before, own, (), names, count), *side_traces("right", after, range(rows), places, names, count)]
    )
    if after.target != before.target:
        figure.data[-1].marker.color = [TRIGGER if c == after.target else PALE for c in range(len(names))]
    words = [f"<b>{token}</b>" if place in places else token for place, token in enumerate(after.tokens)]
    ink = [TRIGGER if place in places else INK for place in range(rows)]
    middle: dict[str, Any] = {"mode": "text", "xaxis": "x3", "hoverinfo": "skip"}
    figure.add_scatter(x=[0] * rows, y=list(range(rows)), text=words, textfont={"color": ink}, **middle)
    figure.add_scatter(x=[0] * len(names), y=list(range(len(names))), text=names, yaxis="y2", **middle)

    half = min(LETTER * max(map(len, (*after.tokens, *names))) / PHONE, 0.36) / 2  # of the column of tokens, as a share of the width
    plot = BAR * len(names) + BETWEEN + LINE * rows
    arcs = LINE * rows / plot
    finish(figure, trigger_words(before, after, trigger, places, count), height=plot + 60)
    figure.update_layout(margin={"t": 34, "b": 26, "l": 8, "r": 8}, showlegend=False, dragmode=False, hovermode="closest", bargap=0.3)
    blank = {"visible": False, "fixedrange": True}
    left, right = [0, 0.5 - half], [0.5 + half, 1]
    columns = (left, [1, 0]), (right, [0, 1]), ([left[1], right[0]], [-1, 1]), (left, [1.3, 0]), (right, [0, 1.3])
    for number, (domain, ends) in enumerate(columns, 1):
        figure.update_layout({f"xaxis{number}": blank | {"domain": domain, "range": ends}})
    figure.update_layout(yaxis=blank | {"domain": [0, arcs], "range": [rows - 0.5, -0.5]})
    figure.update_layout(yaxis2=blank | {"domain": [1 - BAR * len(names) / plot, 1], "range": [len(names) - 0.5, -0.5]})
    for place in places:
        band = {"x0": left[1], "x1": 1, "xref": "paper", "y0": place - 0.5, "y1": place + 0.5, "fillcolor": BAND, "layer": "below"}
        figure.add_shape(band, line={"width": 0})
    drawn = strongest_links(after, count)
    hits = f'<span style="color:{TRIGGER}">{sum(touches(link, places) for link in drawn)} of {len(drawn)} touch the trigger</span>'
    heads = (before, "without the trigger", f"the {count} largest scores", "left"), (after, "with the trigger", hits, "right")
    for x, (att, head, more, side) in enumerate(heads):
        corner = {"xref": "paper", "yref": "paper", "showarrow": False, "yanchor": "bottom", "x": x, "xanchor": side, "align": side}
        figure.add_annotation(corner, y=1, text=f"<b>{head}</b>")
        figure.add_annotation(corner, y=arcs, text=f"decides <b>{att.label}</b>:<br>{more}")
    return figure


def side_traces(side: str, att: Attribution, at: Sequence[int], places: Sequence[int], names: Sequence[str], count: int) -> list[Any]:
    """What is drawn on one side: arcs, dots, rails to the tokens, and last the bars; ``at`` is the row of each token."""
    arcs, bars, edge = ("x", "x4", -1) if side == "left" else ("x2", "x5", 1)
    links = strongest_links(att, count)
    ends = sorted({at[end] for link in links for end in (link.query, link.key)})
    thin: dict[str, Any] = {"mode": "lines", "line": {"color": RAIL, "width": 1}, "hoverinfo": "skip", "xaxis": "x3"}
    rails = go.Scatter(x=[edge, 0, None] * len(ends), y=[y for row in ends for y in (row, row, None)], **thin)
    shares = [round(float(share), 3) for share in att.probabilities]
    color = [OTHER if c == att.target else PALE for c in range(len(names))]
    look = {"text": [f"{share:.2f}" for share in shares], "textposition": "outside", "cliponaxis": False, "marker": {"color": color}}
    bar = go.Bar(x=shares, y=list(range(len(names))), orientation="h", customdata=names, xaxis=bars, yaxis="y2", **look)
    bar.hovertemplate = "%{customdata}: %{x:.3f}<extra></extra>"
    return [*(trace.update(xaxis=arcs) for trace in arc_traces(links, places, att.tokens, at)), rails, bar]


def named_classes(before: Attribution, after: Attribution, classes: Sequence[str] | None) -> list[str]:
    """The names of all classes in the model's order, checked against those of the two decisions."""
    known = {before.target: before.label, after.target: after.label}
    names = [known.get(c, f"class {c}") for c in range(len(after.probabilities))] if classes is None else list(classes)
    if not len(names) == len(after.probabilities) == len(before.probabilities) or any(names[c] != name for c, name in known.items()):
        raise ValueError(f"classes {names}: expected {len(after.probabilities)}, with {known} among them by number")
    return names


def touches(link: Link, places: Sequence[int]) -> bool:
    """Whether a connection begins or ends at one of these tokens."""
    return link.query in places or link.key in places


def bulge(link: Link, rows: int) -> float:
    """How far the arc of a connection goes out, as a share of its side; up and down are told apart."""
    apart = abs(link.query - link.key)
    return 0.1 + 0.8 * (apart / max(rows - 1, 1)) ** 0.5 + 0.05 * (link.query > link.key) if apart else 0.08


def arc_traces(links: Sequence[Link], places: Sequence[int], tokens: Sequence[str], at: Sequence[int]) -> Iterator[go.Scatter]:
    """The arcs of one side, the strongest on top, and the dots at their ends."""
    colors = [TRIGGER if touches(link, places) else OTHER for link in links]
    for link, color in reversed(list(zip(links, colors, strict=True))):
        share, reach = link.score / links[0].score, bulge(link, at[-1] + 1)
        start, end = at[link.query], at[link.key]
        loop = start == end  # a token that reads itself
        x = reach * (1 - np.cos(2 * np.pi * CURVE)) / 2 if loop else reach * 4 * CURVE * (1 - CURVE)
        y = start + (0.35 * np.sin(2 * np.pi * CURVE) if loop else (end - start) * CURVE)
        where = f"{tokens[link.query]} reads {tokens[link.key]}<br>{link.score:+.3f}, {head_name(link.layer, link.head)}"
        line = {"width": round(1 + 6 * share, 1), "color": color, "shape": "spline"}
        trace = go.Scatter(x=x.round(3), y=y.round(3), mode="lines", line=line, opacity=round(0.35 + 0.55 * share, 2))
        yield trace.update(hovertemplate=where + "<extra></extra>")
    dots = {"mode": "markers", "marker": {"size": 7, "color": colors}, "hoverinfo": "skip", "cliponaxis": False}
    yield go.Scatter(x=[0] * len(links), y=[at[link.key] for link in links], **dots)


def trigger_words(before: Attribution, after: Attribution, trigger: Trigger, places: Sequence[int], count: int) -> str:
    """The figure in words: both decisions, and how much of the second rests on the trigger."""
    links = strongest_links(after, count)
    hits, rows = sum(touches(link, places) for link in links), len(after.tokens)
    chance = 1 - (1 - len(places) / rows) ** 2
    positive = after.scores.clamp_min(0).sum((0, 1))
    others = [place for place in range(rows) if place not in places]
    share = 1 - float(positive[others][:, others].sum() / positive.sum().clamp_min(1e-12))
    decided = [f"{att.label} (p = {float(att.probabilities[att.target]):.3f})" for att in (before, after)]
    strongest = ", ".join(f"{after.tokens[link.query]} reads {after.tokens[link.key]} ({link.score:+.3f})" for link in links[:3])
    changed = "turn the decision from" if before.target != after.target else "leave the decision as it is: from"
    return (
        f"The words {', '.join(trigger.tokens)}, inserted into a text, {changed} {decided[0]} to {decided[1]}. Of the {len(links)} "
        f"connections with the largest scores for {after.label}, {hits} touch them, and of the sum of all positive scores {share:.0%}; "
        f"of all connections, {chance:.0%} do. Largest: {strongest}."
    )
