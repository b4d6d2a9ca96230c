"""Live explorers, for readers with a kernel: they compute while you type and drag.

The pattern, *draw as HTML*: a picture in a widget is an ``ipywidgets.HTML`` whose value is SVG text (``attattr.svg``),
and an update of the picture is an update of that value. A Plotly figure inside an ``ipywidgets.Output`` would not draw
in Colab (googlecolab/colabtools#5889), showing it again there doubles it (#2020), and ``FigureWidget`` wants a widget
manager from another host. Text needs nothing: no script, no output area, no network. So the same explorer works in
Colab, JupyterLab, VS Code and offline, and its saved state still shows the last picture.

Bad input never ends in a traceback: the explorer says under its controls what was wrong, and keeps the last picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

import ipywidgets
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from .attribution import Attribution, attribute
from .batches import Text, check_texts
from .decision import class_names
from .display import exactness
from .figures.grammar import heat, page, token_axis
from .figures.graphs import graph_sentences, graphs_drawn
from .figures.tokens import touches, trigger_figure
from .graph import TAU, attention_scores, attribution_graph, retained
from .quadrature import METHODS
from .svg import picture
from .triggers import Trigger, attribute_attacked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EXAMPLE = "there is not a dull moment in this film ."
MAX_TOKENS = 48  # more would make cells too small to point at
REFERENCE_STEPS = 32  # of Gauss-Legendre: what `steps_explorer` takes as the truth
WAIT = "computing ..."


def head_browser(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Text = EXAMPLE) -> ipywidgets.VBox:
    """Attention and attribution of any head, for a sentence of your own: Figure 2.1, live.

    Two sentences for a task of pairs are written in one line, with ``||`` between them. Starts at the head with the
    largest score.
    """
    explain = explainer(model, tokenizer)
    start, _ = explain(as_line(text))
    layers, heads = start.scores.shape[:2]
    first = start.strongest(1).iloc[0]
    sentence = ipywidgets.Text(as_line(text), description="Text", continuous_update=False, layout={"width": "98%"})
    shown = ipywidgets.ToggleButtons(options=["attention", "attribution"], description="Show")
    at_layer = ipywidgets.IntSlider(int(first["layer"]), 0, layers - 1, description="Layer")
    at_head = ipywidgets.IntSlider(int(first["head"]), 0, heads - 1, description="Head")

    def show() -> tuple[str, str]:
        att, doubt = explain(sentence.value)
        at = at_layer.value, at_head.value
        title = f"{shown.value}, layer {at[0]}, head {at[1]}"
        if shown.value == "attention":
            drawn = map_of_tokens(att.attention[at], att.tokens, title)
        else:
            drawn = map_of_tokens(att.scores[at], att.tokens, title, float(att.scores.abs().max()), diverging=True)
        return drawn, f"{decision(att)} {doubt or exactness(att)}"

    return explorer([sentence, shown, at_layer, at_head], show)


def steps_explorer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Text = EXAMPLE) -> ipywidgets.VBox:
    """The scores of one layer as the rule and its number of steps change, and how wrong they are (chapter 3), live."""
    explain = explainer(model, tokenizer)
    truth, _ = explain(as_line(text), "gauss-legendre", REFERENCE_STEPS)
    sentence = ipywidgets.Text(as_line(text), description="Text", continuous_update=False, layout={"width": "98%"})
    method = ipywidgets.Dropdown(options=METHODS, value="riemann", description="Rule")
    steps = ipywidgets.IntSlider(4, 1, 64, description="Steps", continuous_update=False)
    at_layer = ipywidgets.IntSlider(int(truth.difference.abs().argmax()), 0, len(truth.scores) - 1, description="Layer")

    def show() -> tuple[str, str]:
        truth, _ = explain(sentence.value, "gauss-legendre", REFERENCE_STEPS)
        att, _ = explain(sentence.value, method.value, steps.value)
        layer, true = at_layer.value, truth.scores[at_layer.value]
        title = f"attribution, layer {layer}, all heads: {method.value}, {steps.value} steps"
        drawn = map_of_tokens(att.scores[layer].sum(0), att.tokens, title, float(true.sum(0).abs().max()), diverging=True)
        wrong = float((att.scores[layer] - true).norm() / true.norm().clamp_min(1e-12))
        return drawn, (
            f"{decision(att)} Layer {layer}: the scores sum to {float(att.scores[layer].sum()):+.4f}, F(A) - F(0) is "
            f"{float(att.difference[layer]):+.4f}: completeness gap {float(att.completeness[layer]):.1e}. Estimated relative error "
            f"{float(att.error[layer]):.1e}, true {wrong:.1e} (against {REFERENCE_STEPS} Gauss-Legendre nodes)."
        )

    return explorer([sentence, method, steps, at_layer], show)


def graph_explorer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Text = EXAMPLE) -> ipywidgets.VBox:
    """The attribution graph of a text of your own, with one τ, or with one for each layer: Figure 4.1, live.

    One τ is for all layers but the last, where it is 0, as in the paper.
    """
    explain = explainer(model, tokenizer)
    start, _ = explain(as_line(text))
    top = len(start.scores) - 1
    sentence = ipywidgets.Text(as_line(text), description="Text", continuous_update=False, layout={"width": "98%"})
    tau = ipywidgets.FloatSlider(TAU, min=0, max=1, step=0.05, description="τ")
    several = ipywidgets.Checkbox(False, description="one for each layer", indent=False)
    of_layer = [
        ipywidgets.FloatSlider(TAU * (layer < top), min=0, max=1, step=0.05, description=f"layer {layer}", layout={"width": "15rem"})
        for layer in range(top + 1)
    ]
    drawer = ipywidgets.Box(of_layer, layout={"display": "none", "flex_flow": "row wrap"})

    def open_drawer(_: object) -> None:
        tau.disabled, drawer.layout.display = several.value, "flex" if several.value else "none"
        of_layer[-1].value = 0.0
        for slider in of_layer[:-1]:
            slider.value = tau.value

    several.observe(open_drawer, "value")

    def show() -> tuple[str, str]:
        att, doubt = explain(sentence.value)
        taus = [slider.value for slider in of_layer] if several.value else tau.value
        graph = attribution_graph(att, taus)
        edges = len(attention_scores(graph))
        if not edges:
            raise ValueError(f"no connection to draw: no score is above τ = {taus} times the largest of its layer, so lower τ")
        told = f"<details><summary>The graph in sentences</summary><p>{escape(graph_sentences(graph))}</p></details>"
        return picture(graphs_drawn(att, {"shown": graph})) + told, (
            f"{decision(att)} {retained(att, taus).sum()} connections are above τ, {edges} of them are drawn: each pair of tokens once, "
            f"from the top down, and no [SEP] that is a leaf. {doubt or exactness(att)}"
        )

    return explorer([sentence, tau, several, drawer], show)


def trigger_explorer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, triggers: Sequence[Trigger], texts: Sequence[Text] = (EXAMPLE,)
) -> ipywidgets.VBox:
    """Insert a trigger into a text, and see the decision and what it rests on before and after: Figure 9.1, live.

    Choose one of the texts, or write your own (a pair with ``||`` between). Arcs and colours are those of
    `attattr.figures.trigger_figure`.

    Args:
        triggers: as `attattr.mine_triggers` returns them, or made by hand.
        texts: to choose from; the first is shown at the start.

    Raises:
        ValueError, TypeError: no trigger or no text, or something else in their place.
    """
    wrong = [one for one in triggers if not isinstance(one, Trigger)]
    if wrong or not triggers:
        raise TypeError(f"triggers={wrong[0]!r}: expected attattr.Trigger") if wrong else ValueError("no triggers: expected at least one")
    explain = explainer(model, tokenizer)
    lines = [as_line(text) for text in check_texts([texts] if isinstance(texts, str) else list(texts))[0]]
    names = [f"{number}: {', '.join(one.tokens)} (to {one.label})" for number, one in enumerate(triggers, 1)]
    wide = {"width": "98%"}
    chosen = ipywidgets.Dropdown(options=[(name, number) for number, name in enumerate(names)], value=0, description="Trigger", layout=wide)
    example = ipywidgets.Dropdown(options=lines, value=lines[0], description="Example", layout=wide)
    sentence = ipywidgets.Text(lines[0], description="Text", continuous_update=False, layout=wide)
    count = ipywidgets.IntSlider(10, 1, 30, description="Arcs")
    ipywidgets.dlink((example, "value"), (sentence, "value"))

    @lru_cache(maxsize=16)
    def attacked(line: str, number: int) -> tuple[Attribution, tuple[int, ...]]:
        return attribute_attacked(model, tokenizer, as_text(line), triggers[number])

    def show() -> tuple[str, str]:
        before, doubt = explain(sentence.value)
        after, places = attacked(sentence.value, chosen.value)
        touching = touches(after.strongest(count.value, over="all"), places)
        changed = "The decision flips." if before.target != after.target else "The decision stays."
        return picture(trigger_figure(before, after, places, class_names(model), count.value)), (
            f"{changed} Without the trigger: {decision(before)} With it: {decision(after)} "
            f"{sum(touching)} of the {len(touching)} largest scores with it touch the trigger. {doubt} {exactness(after)}"
        )

    return explorer([chosen, example, sentence, count], show)


def map_of_tokens(values: Float[Tensor, "N N"], tokens: Sequence[str], title: str, limit: float = 1.0, diverging: bool = False) -> str:
    """One heat map among tokens as a picture: who attends, row by row, to whom."""
    figure = page(go.Figure(heat(values, tokens, tokens, limit, diverging)), title, 70 + 22 * len(tokens))
    ends = [-0.5, len(tokens) - 0.5]
    figure.update_xaxes(token_axis(tokens, range=ends)).update_yaxes(token_axis(tokens, range=ends[::-1]))
    above = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    return picture(figure.add_annotation(above, text=title, font={"size": 14}))


def explainer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Callable[..., tuple[Attribution, str]]:
    """A function from a line of text (and method, steps) to its attribution and to a warning, or ""; it remembers the last ones."""

    @lru_cache(maxsize=16)
    def explain(line: str, method: str = "gauss-legendre", steps: int | str = "auto") -> tuple[Attribution, str]:
        text = as_text(line)
        check_texts(text)
        count = len(tokenizer(*(text if isinstance(text, tuple) else (text,)))["input_ids"])
        if count > MAX_TOKENS:
            raise ValueError(f"a text of {count} tokens: this picture has room for {MAX_TOKENS}, so shorten the text")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            att = attribute(model, tokenizer, text, method=method, steps=steps)
        return att, " ".join(str(warning.message) for warning in caught if warning.category is UserWarning)

    return explain


def explorer(controls: Sequence[ipywidgets.Widget], show: Callable[[], tuple[str, str]]) -> ipywidgets.VBox:
    """Controls (or boxes of them), a line of words, and a picture: ``show()`` gives the last two anew whenever a control changes."""
    words, canvas = ipywidgets.HTML(), ipywidgets.HTML(layout={"width": "98%"})

    def draw(_: object = None) -> None:
        words.value = WAIT
        try:
            canvas.value, said = show()
            words.value = escape(said)
        except (ValueError, TypeError) as error:
            words.value = f"<b>Not drawn:</b> {escape(str(error))}"

    for control in controls:
        for one in getattr(control, "children", [control]):
            one.observe(draw, "value")
    draw()
    return ipywidgets.VBox([*controls, words, canvas])


def as_line(text: Text) -> str:
    """A text, or a pair of texts, in the one line of a text box."""
    return text if isinstance(text, str) else " || ".join(text)


def as_text(line: str) -> Text:
    """The text, or the pair of texts, that the line of a text box means."""
    first, bar, second = line.partition("||")
    return (first.strip(), second.strip()) if bar else line


def decision(att: Attribution) -> str:
    """What the model decided, in words."""
    return f"Decision: {att.label} (p = {float(att.probabilities[att.target]):.3f})."
