"""Live explorers, for readers with a kernel: they compute while you type and drag.

The pattern, *draw as HTML*: a picture in a widget is an ``ipywidgets.HTML`` whose value is SVG text (``attattr.svg``),
and an update of the picture is an update of that value. A Plotly figure inside an ``ipywidgets.Output`` would not draw
in Colab (googlecolab/colabtools#5889), showing it again there doubles it (#2020), and ``FigureWidget`` wants a widget
manager from another host. Text needs nothing: no script, no output area, no network. So the same explorer works in
Colab, JupyterLab, VS Code and offline, and its saved state still shows the last picture.

Bad input never ends in a traceback: the explorer says under its controls what was wrong, and keeps the last picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from html import escape

import ipywidgets
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from .attribution import attribute
from .batches import Model, Text, Tokenizer, check_texts, encode
from .connections import Attribution
from .decision import class_names
from .display import exactness
from .figures.grammar import heat, note, page, token_axis
from .figures.graphs import decided, edges_of, graph_sentences, graphs_drawn
from .figures.tokens import touches, trigger_figure
from .graph import TAU, attribution_graph, retained
from .quadrature import METHODS
from .svg import picture
from .triggers import Trigger, attribute_attacked

EXAMPLE = "there is not a dull moment in this film ."
MAX_TOKENS = 48  # more would make cells too small to point at
REFERENCE_STEPS = 32  # of Gauss-Legendre: what `steps_explorer` takes as the truth
WIDE = {"width": "98%"}


def head_browser(model: Model, tokenizer: Tokenizer, text: Text = EXAMPLE) -> ipywidgets.VBox:
    """Attention and attribution of any head, for a sentence of your own: Figure 2.1, live.

    Two sentences for a task of pairs are written in one line, with ``||`` between them, unless ``text`` is a single one that has it.
    Starts at the head with the largest score.
    """
    sentence, explain = explainer(model, tokenizer, text)
    layers, heads = explain().scores.shape[:2]
    first = explain().strongest(1).iloc[0]
    shown = ipywidgets.ToggleButtons(options=["attention", "attribution"], description="Show")
    at_layer = ipywidgets.IntSlider(int(first["layer"]), 0, layers - 1, description="Layer")
    at_head = ipywidgets.IntSlider(int(first["head"]), 0, heads - 1, description="Head")

    def show() -> tuple[str, str]:
        att = explain()
        at = at_layer.value, at_head.value
        values, limit = (att.attention, None) if shown.value == "attention" else (att.scores, float(att.scores.abs().max()))
        title = f"{shown.value}, layer {at[0]}, head {at[1]}"
        return map_of_tokens(values[at], att.tokens, title, limit), f"Decision: {decided(att)}. {exactness(att)}"

    return explorer([sentence, shown, at_layer, at_head], show)


def steps_explorer(model: Model, tokenizer: Tokenizer, text: Text = EXAMPLE) -> ipywidgets.VBox:
    """The scores of one layer as the rule and its number of steps change, and how wrong they are (chapter 3), live."""
    sentence, explain = explainer(model, tokenizer, text)
    start = explain(steps=REFERENCE_STEPS)
    method = ipywidgets.Dropdown(options=METHODS, value="riemann", description="Rule")
    steps = ipywidgets.IntSlider(4, 2, 64, description="Steps", continuous_update=False)
    at_layer = ipywidgets.IntSlider(int(start.difference.abs().argmax()), 0, len(start.scores) - 1, description="Layer")

    def show() -> tuple[str, str]:
        layer = at_layer.value
        att = explain(method.value, steps.value)
        true = explain(steps=REFERENCE_STEPS).scores[layer]
        title = f"attribution, layer {layer}, all heads: {method.value}, {steps.value} steps"
        drawn = map_of_tokens(att.scores[layer].sum(0), att.tokens, title, float(true.sum(0).abs().max()))
        wrong = float((att.scores[layer] - true).norm() / true.norm().clamp_min(1e-12))
        return drawn, (
            f"Decision: {decided(att)}. Layer {layer}: the scores sum to {float(att.scores[layer].sum()):+.4f}, F(A) - F(0) is "
            f"{float(att.difference[layer]):+.4f}: completeness gap {float(att.completeness[layer]):.1e}. Estimated relative error "
            f"{float(att.error[layer]):.1e}, true {wrong:.1e} (against {REFERENCE_STEPS} Gauss-Legendre nodes)."
        )

    return explorer([sentence, method, steps, at_layer], show)


def graph_explorer(model: Model, tokenizer: Tokenizer, text: Text = EXAMPLE, terminal: int | None = None) -> ipywidgets.VBox:
    """The attribution graph of a text of your own, with one τ, or with one for each layer: Figure 4.1, live.

    One τ is for all layers but the last, where it is 0, as in the paper. The flow ends at the token at ``terminal`` (-1: the last, which
    a decoder reads); None: at [CLS].
    """
    sentence, explain = explainer(model, tokenizer, text)
    top = len(explain().scores) - 1
    threshold = partial(ipywidgets.FloatSlider, min=0, max=1, step=0.05)
    tau = threshold(TAU, description="τ")
    several = ipywidgets.Checkbox(False, description="one for each layer", indent=False)
    of_layer = [threshold(TAU * (layer < top), description=f"layer {layer}", layout={"width": "15rem"}) for layer in range(top + 1)]
    drawer = ipywidgets.Box(of_layer, layout={"display": "none", "flex_flow": "row wrap"})

    def open_drawer(_: object) -> None:
        tau.disabled, drawer.layout.display = several.value, "flex" if several.value else "none"
        for layer, slider in enumerate(of_layer):
            slider.value = tau.value * (layer < top)

    several.observe(open_drawer, "value")

    def show() -> tuple[str, str]:
        att = explain()
        taus = [slider.value for slider in of_layer] if several.value else tau.value
        end = len(att.tokens) + terminal if terminal is not None and terminal < 0 else terminal
        graph = attribution_graph(att, taus, end)
        edges = len(edges_of(graph, "attention"))
        if not edges:
            raise ValueError(f"no connection to draw: no score is above τ = {taus} times the largest of its layer, so lower τ")
        told = f"<details><summary>The graph in sentences</summary><p>{escape(graph_sentences(graph))}</p></details>"
        return picture(graphs_drawn(att, {"shown": graph}, terminal=end)) + told, (
            f"Decision: {decided(att)}. {retained(att, taus).sum()} connections are above τ, {edges} of them are drawn: each pair of "
            f"tokens once, from the top down, and no [SEP] that is a leaf. {exactness(att)}"
        )

    return explorer([sentence, tau, several, drawer], show)


def trigger_explorer(
    model: Model, tokenizer: Tokenizer, triggers: Sequence[Trigger], texts: Sequence[Text] = (EXAMPLE,)
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
    if not triggers:
        raise ValueError("no triggers: expected at least one")
    for one in triggers:
        if not isinstance(one, Trigger):
            raise TypeError(f"triggers={one!r}: expected attattr.Trigger")
    given = check_texts([texts] if isinstance(texts, str) else list(texts))[0]
    lines = [as_line(text) for text in given]
    names = [f"{number}: {', '.join(one.tokens)} (to {one.label})" for number, one in enumerate(triggers, 1)]
    chosen = ipywidgets.Dropdown(options=names, description="Trigger", layout=WIDE)
    example = ipywidgets.Dropdown(options=lines, description="Example", layout=WIDE)
    sentence, explain = explainer(model, tokenizer, given[0])
    count = ipywidgets.IntSlider(10, 1, 30, description="Arcs")
    ipywidgets.dlink((example, "value"), (sentence, "value"))
    attacked = lru_cache(maxsize=16)(attribute_attacked)

    def show() -> tuple[str, str]:
        before = explain()
        after, places = attacked(model, tokenizer, as_text(sentence.value, given[0]), triggers[chosen.index])
        touching = touches(after.strongest(count.value, over="all"), places)
        changed = "The decision flips." if before.target != after.target else "The decision stays."
        return picture(trigger_figure(before, after, places, class_names(model), count.value)), (
            f"{changed} Without the trigger: {decided(before)}. {exactness(before)} With it: {decided(after)}. {exactness(after)} "
            f"{sum(touching)} of the {len(touching)} largest scores with it touch the trigger."
        )

    return explorer([chosen, example, sentence, count], show)


def map_of_tokens(values: Float[Tensor, "N N"], tokens: Sequence[str], title: str, limit: float | None = None) -> str:
    """One heat map among tokens as a picture: who attends, row by row, to whom; to both sides of 0 if there is a limit, else up to 1."""
    drawn = heat(values, tokens, tokens) if limit is None else heat(values, tokens, tokens, limit, diverging=True)
    figure = page(go.Figure(drawn), title, 70 + 22 * len(tokens))
    ends = [-0.5, len(tokens) - 0.5]
    figure.update_xaxes(token_axis(tokens, range=ends)).update_yaxes(token_axis(tokens, range=ends[::-1]))
    return picture(note(figure, title, 0, 1, "left", xref="paper", yref="paper", font={"size": 14}))


def explainer(model: Model, tokenizer: Tokenizer, text: Text) -> tuple[ipywidgets.Text, Callable[..., Attribution]]:
    """A box with a text, and a function (of method and steps) that attributes what stands in the box; it remembers the last ones."""
    sentence = ipywidgets.Text(as_line(text), description="Text", continuous_update=False, layout=WIDE)
    attributed = lru_cache(maxsize=16)(attribute)

    def explain(method: str | None = None, steps: int | str = "auto") -> Attribution:
        shown = as_text(sentence.value, text)
        count = len(encode(tokenizer, check_texts(shown)[0][0])["input_ids"])
        if count > MAX_TOKENS:
            raise ValueError(f"a text of {count} tokens: this picture has room for {MAX_TOKENS}, so shorten the text")
        return attributed(model, tokenizer, shown, method=method, steps=steps)

    return sentence, explain


def explorer(controls: Sequence[ipywidgets.Widget], show: Callable[[], tuple[str, str]]) -> ipywidgets.VBox:
    """Controls (or boxes of them), a line of words, and a picture: ``show()`` gives the last two anew whenever a control changes."""
    words, canvas = ipywidgets.HTML(), ipywidgets.HTML(layout=WIDE)

    def draw(_: object = None) -> None:
        words.value = "computing ..."
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


def as_text(line: str, start: Text) -> Text:
    """The text that the line of a text box means, or the two that ``||`` is between; unless it began with a single text that has one."""
    first, bar, second = line.partition("||")
    return (first.strip(), second.strip()) if bar and (isinstance(start, tuple) or "||" not in start) else line
