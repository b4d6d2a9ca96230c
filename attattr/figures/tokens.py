"""Drawings whose rows are the tokens of one text: four views of it, layer by layer, and what decides with and without a trigger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas
import plotly.graph_objects as go
from jaxtyping import Float

from ..connections import Attribution
from ..graph import CLS, SEP
from .grammar import INK, NEUTRAL, check_attribution, choose, heat, literal, note, page, token_axis, token_labels, token_words
from .graphs import points, straight

WORDS = "words only, each layer's to sum to 1"
TRIGGER, OTHER, PALE, BAND, RAIL = "#d55e00", "#5b7083", "#c9d1d8", "#fbe7d8", "#e3e3e3"
LINE, BAR, BETWEEN = 17, 24, 52  # pixels: the row of a token, that of a class, what is between the two
LETTER, PHONE = 7.6, 370  # pixels: a letter of the tokens, and the width in which there must be room for them
CURVE = np.linspace(0, 1, 15)


def views_figure(att: Attribution, layers: Sequence[int] | None = None, all_rows: bool = True) -> go.Figure:
    """Raw attention (head mean), rollout, flow and attribution of one text: tokens as rows, layers (from 0) as columns.

    The first three as seen by the token that the classifier reads; attribution summed over heads and queries. The colours of each
    view end at its largest number for a word, so special tokens may lie beyond the end. A menu leaves them out; what is left of
    a column of the first three then sums to 1.

    Args:
        att: the attribution of one text or pair.
        layers: those to show, counted from 0, ascending; None: all.
        all_rows: False reads attribution, too, in the classifier's row alone. Below the last layer there is next to nothing in it.

    Raises:
        ValueError: no such layer; a model that reads several tokens; a text of special tokens only; what `attention_rollout` refuses.
    """
    check_attribution(att)
    count, tokens = len(att.scores), att.tokens
    shown = list(range(count)) if layers is None else list(layers)
    if not shown or shown != sorted(set(shown)) or not 0 <= shown[0] <= shown[-1] < count:
        raise ValueError(f"layers={layers!r}: expected ascending numbers from 0 to {count - 1}")
    word = np.array([token not in CLS + SEP for token in tokens])
    if not word.any():
        raise ValueError(f"the tokens {list(tokens)[:8]} are all special: expected at least one word")
    place, views = sentence_views(att, all_rows)
    views = {name: values[:, shown] for name, values in views.items()}
    of_words = {name: values[word] for name, values in views.items()}
    of_words |= {name: values / np.maximum(values.sum(0), 1e-12) for name, values in of_words.items() if name != "attribution"}
    said = []
    for name, values in views.items():
        top, last = int(np.abs(np.where(word, values[:, -1], 0)).argmax()), values[:, -1]
        share = "" if name == "attribution" else f" (special tokens {last[~word].sum():.2f} of {last.sum():.2f})"
        said.append(f"{name}: most to “{tokens[top]}”, {last[top]:.2g}{share}")
    alt = f"Four heat maps of “{att.text if isinstance(att.text, str) else ' / '.join(att.text)}”, {len(tokens)} tokens as rows, layers "
    alt += f"{shown[0]} to {shown[-1]} as columns: what {tokens[place]}, where {att.label} is decided, sees of each token, and "
    alt += f"attribution. In layer {shown[-1]}, {'; '.join(said)}."
    labels = token_labels(tokens)
    marked = [text if own else f'<span style="color:{NEUTRAL}"><i>{text}</i></span>' for text, own in zip(labels, word, strict=True)]
    only = [text for text, own in zip(labels, word, strict=True) if own]
    wide, narrow = four_maps(views, marked, word, shown, alt), four_maps(of_words, only, word[word], shown, alt)
    return choose({"all tokens": wide, WORDS: narrow}, "Show:")


def four_maps(
    views: dict[str, Float[np.ndarray, "N L"]], labels: Sequence[str], word: np.ndarray, layers: Sequence[int], alt: str
) -> go.Figure:
    """The views side by side, each with a scale that ends at its largest number for a word."""
    figure, numbers = go.Figure(), list(map(str, layers))
    for panel, (name, values) in enumerate(views.items(), 1):
        signed, middle = name == "attribution", (panel - 0.5) / len(views)
        limit = float(f"{max(np.abs(values[word]).max(), 1e-12):.2g}")
        rounded = [[float(f"{value:.3g}") for value in row] for row in values]
        hover = f"<b>%{{y}}</b>, layer %{{x}}<br>{name} %{{customdata:{'+' if signed else ''}.3g}}<extra></extra>"
        look: dict[str, Any] = {"showscale": False, "xgap": 1, "ygap": 1, "hoverinfo": None, "hovertemplate": hover, "customdata": rounded}
        figure.add_trace(heat(values, limit=limit, diverging=signed, xaxis=f"x{panel}", **look))
        said = f"<b>{name}</b><br>{f'±{limit:g}' if signed else f'0 … {limit:g}'}"
        note(figure, said, middle, 1, xref="paper", yref="paper", font={"size": 12})
        figure.update_layout({f"xaxis{panel}": token_axis(numbers, domain=[middle - 0.115, middle + 0.115])})
    page(figure, alt, 110 + 21 * len(labels), margin={"t": 44, "b": 40, "l": 20, "r": 6})
    figure.update_xaxes(showgrid=False, ticks="", tickfont={"size": 11}, tickangle=0)
    note(figure, "layer", 0.5, 0, xref="paper", yref="paper", yshift=-36, yanchor="auto")
    return figure.update_yaxes(token_axis(labels, ticktext=list(labels), range=[len(labels) - 0.5, -0.5], automargin=True))


def sentence_views(att: Attribution, all_rows: bool = True) -> tuple[int, dict[str, Float[np.ndarray, "N L"]]]:
    """The token that the classifier reads, and what it sees of each token in each layer, by name of the view."""
    from ..saliency import RELEVANCES, classifier_row  # here, as it needs scipy.stats, which is slow to import

    names = {name: name for name in ("rollout", "flow")} | {"attribution": f"attribution, {'all rows' if all_rows else 'its row'}"}
    seen = {view: RELEVANCES[name](None, None, att) for view, name in ({"attention": "raw attention"} | names).items()}
    return classifier_row(att), {name: values.T.double().numpy() for name, values in seen.items()}


def trigger_figure(
    before: Attribution, after: Attribution, places: Sequence[int], classes: Sequence[str] | None = None, count: int = 10
) -> go.Figure:
    """One decision without a trigger, on the left, and with it, on the right (Hao et al., Fig. 7).

    Above, the probability of each class. Below, the tokens as rows, the trigger's on a band; arcs join the tokens of the
    connections with the largest scores in any layer and head, for the class decided on their side, with a dot at the token
    that is read. Width gives the score in relation to the largest of the side; arcs that touch the trigger have its colour.

    Args:
        before: what `attattr.attribute` returns for a text.
        after, places: what `attattr.triggers.attribute_attacked` returns for it: the attribution with the trigger, and where among
            its tokens those of the trigger stand.
        classes: the names of all classes in the model's order; None: only those of the two decisions are named.
        count: how many arcs are drawn on each side.

    Raises:
        ValueError: ``after`` without the tokens at ``places`` is not the text of ``before`` (perhaps it was shortened); other
            classes; a count below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: expected at least 1 connection")
    for att in (before, after):
        check_attribution(att)
    rows, own = len(after.tokens), [place for place in range(len(after.tokens)) if place not in places]
    if tuple(after.tokens[place] for place in own) != tuple(before.tokens) or not places:
        given = f"after has the tokens {' '.join(after.tokens)!r}, before {' '.join(before.tokens)!r}, the trigger is at {list(places)}"
        raise ValueError(f"{given}: expected the attributions of one text, not shortened, without and with the trigger")
    names = named_classes(before, after, classes)
    left = side_traces(("x", "x4", -1), before, own, (), names, count)
    right = side_traces(("x2", "x5", 1), after, range(rows), places, names, count)
    figure = go.Figure([*left, *right])
    if after.target != before.target:
        figure.data[-1].marker.color = [TRIGGER if c == after.target else PALE for c in range(len(names))]
    words = [f"<b>{word}</b>" if place in places else word for place, word in enumerate(token_words(after.tokens))]
    ink = [TRIGGER if place in places else INK for place in range(rows)]
    middle: dict[str, Any] = {"mode": "text", "xaxis": "x3", "hoverinfo": "skip"}
    figure.add_scatter(x=[0] * rows, y=list(range(rows)), text=words, textfont={"color": ink}, **middle)
    figure.add_scatter(x=[0] * len(names), y=list(range(len(names))), text=list(map(literal, names)), yaxis="y2", **middle)

    half = min(LETTER * max(map(len, (*after.tokens, *names))) / PHONE, 0.36) / 2  # of the column of tokens, as a share of the width
    plot = BAR * len(names) + BETWEEN + LINE * rows
    arcs = LINE * rows / plot
    page(figure, trigger_words(before, after, places, count), plot + 60, showlegend=False, bargap=0.3)
    figure.update_layout(margin={"t": 34, "b": 26, "l": 8, "r": 8})
    on_left, on_right = [0, 0.5 - half], [0.5 + half, 1]
    columns = (on_left, [1, 0]), (on_right, [0, 1]), ([on_left[1], on_right[0]], [-1, 1]), (on_left, [1.3, 0]), (on_right, [0, 1.3])
    for number, (domain, ends) in enumerate(columns, 1):
        figure.update_layout({f"xaxis{number}": {"visible": False, "domain": domain, "range": ends}})
    figure.update_layout(yaxis={"visible": False, "domain": [0, arcs], "range": [rows - 0.5, -0.5]})
    figure.update_layout(yaxis2={"visible": False, "domain": [1 - BAR * len(names) / plot, 1], "range": [len(names) - 0.5, -0.5]})
    for place in places:
        band = {"x0": on_left[1], "x1": 1, "xref": "paper", "y0": place - 0.5, "y1": place + 0.5, "fillcolor": BAND, "layer": "below"}
        figure.add_shape(band, line={"width": 0})
    touching = touches(after.strongest(count, over="all"), places)
    hits = f'<span style="color:{TRIGGER}">{sum(touching)} of {len(touching)} touch the trigger</span>'
    heads = (before, "without the trigger", f"the {count} largest scores", "left"), (after, "with the trigger", hits, "right")
    for x, (att, head, more, side) in enumerate(heads):
        for y, text in ((1, f"<b>{head}</b>"), (arcs, f"decides <b>{literal(att.label)}</b>:<br>{more}")):
            note(figure, text, x, y, side, xref="paper", yref="paper", align=side)
    return figure


def side_traces(
    axes: tuple[str, str, int], att: Attribution, at: Sequence[int], places: Sequence[int], names: Sequence[str], count: int
) -> list[Any]:
    """What is drawn on one side: arcs, dots, rails to the tokens, and last the bars; ``at`` is the row of each token."""
    arcs, bars, edge = axes
    links = att.strongest(count, over="all")
    ends = sorted({at[end] for end in (*links["query"], *links["key"])})
    rails = straight([((row, 0), (row, edge)) for row in ends], RAIL).update(xaxis="x3")
    shares = [round(share, 3) for share in ([] if att.probabilities is None else att.probabilities.tolist())]
    color = [OTHER if c == att.target else PALE for c in range(len(names))]
    look = {"text": [f"{share:.2f}" for share in shares], "textposition": "outside", "cliponaxis": False, "marker": {"color": color}}
    bar = go.Bar(x=shares, y=list(range(len(names))), orientation="h", xaxis=bars, yaxis="y2", **look)
    bar.update(customdata=list(map(literal, names)), hovertemplate="%{customdata}: %{x:.3f}<extra></extra>")
    return [*(trace.update(xaxis=arcs) for trace in arc_traces(links, places, att.tokens, at)), rails, bar]


def named_classes(before: Attribution, after: Attribution, classes: Sequence[str] | None) -> list[str]:
    """The names of all classes in the model's order, checked against those of the two decisions."""
    if before.probabilities is None or after.probabilities is None:
        raise ValueError(f"decisions of the {after.quantity} of {after.label!r}: expected those of a classifier, with its probabilities")
    known: dict[Any, str] = {before.target: before.label, after.target: after.label}
    names = [known.get(c, f"class {c}") for c in range(len(after.probabilities))] if classes is None else list(classes)
    if not len(names) == len(after.probabilities) == len(before.probabilities) or any(names[c] != name for c, name in known.items()):
        raise ValueError(f"classes {names}: expected {len(after.probabilities)}, with {known} among them by number")
    return names


def touches(links: pandas.DataFrame, places: Sequence[int]) -> list[bool]:
    """Whether each connection begins or ends at one of these tokens."""
    return links[["query", "key"]].isin(list(places)).any(axis=1).tolist()


def arc_traces(links: pandas.DataFrame, places: Sequence[int], tokens: Sequence[str], at: Sequence[int]) -> Iterator[go.Scatter]:
    """The arcs of one side, the strongest on top, and the dots at their ends."""
    colors, words = [TRIGGER if touching else OTHER for touching in touches(links, places)], token_words(tokens)
    for link, color in reversed(list(zip(links.itertuples(), colors, strict=True))):
        share, start, end = link.score / links["score"].iloc[0], at[link.query], at[link.key]
        apart = abs(link.query - link.key)
        if apart:  # up and down are told apart
            reach = 0.1 + 0.8 * (apart / max(at[-1], 1)) ** 0.5 + 0.05 * (link.query > link.key)
            x, y = reach * 4 * CURVE * (1 - CURVE), start + (end - start) * CURVE
        else:  # a token that reads itself
            x, y = 0.08 * (1 - np.cos(2 * np.pi * CURVE)) / 2, start + 0.35 * np.sin(2 * np.pi * CURVE)
        where = f"{words[link.query]} reads {words[link.key]}<br>{link.score:+.3f}, layer {link.layer}, head {link.head}"
        line = {"width": round(1 + 6 * share, 1), "color": color, "shape": "spline"}
        trace = go.Scatter(x=x.round(3), y=y.round(3), mode="lines", line=line, opacity=round(0.35 + 0.55 * share, 2))
        yield trace.update(hovertemplate=where + "<extra></extra>")
    yield points([(at[key], 0) for key in links["key"]], 7.0, colors).update(cliponaxis=False)


def trigger_words(before: Attribution, after: Attribution, places: Sequence[int], count: int) -> str:
    """The figure in words: both decisions, and how much of the second rests on the trigger."""
    links, rows = after.strongest(count, over="all"), len(after.tokens)
    chance = 1 - (1 - len(places) / rows) ** 2
    positive = after.scores.clamp_min(0).sum((0, 1))
    others = [place for place in range(rows) if place not in places]
    share = 1 - float(positive[others][:, others].sum() / positive.sum().clamp_min(1e-12))
    decided = [f"{att.label} ({att.amount})" for att in (before, after)]
    largest = [f"{after.tokens[link.query]} reads {after.tokens[link.key]} ({link.score:+.3f})" for link in links[:3].itertuples()]
    changed = "turn the decision from" if before.target != after.target else "leave the decision as it is: from"
    return (
        f"The words {', '.join(after.tokens[place] for place in places)}, inserted into a text, {changed} {decided[0]} to {decided[1]}. "
        f"Of the {len(links)} connections with the largest scores for {after.label}, {sum(touches(links, places))} touch them, and of "
        f"the sum of all positive scores {share:.0%}; of all connections, {chance:.0%} do. Largest: {', '.join(largest)}."
    )
