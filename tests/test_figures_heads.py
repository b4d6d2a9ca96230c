"""The figures of single heads and of one sentence: what is drawn is what was computed, number for number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import Tensor

import attattr
from attattr.figures import head_figure, maps_figure, sentence_figure, sheets_figure, token_paths_figure

LAYERS, HEADS, SIZE = 2, 3, 5
TOKENS = ("<s>", "film", "2", "film")
N = len(TOKENS)
LABELS = ["&lt;s&gt;", "film ·1", "2", "film ·3"]
COUNTS = (1, 2, 4)


def made_up(seed: int = 0) -> attattr.Attribution:
    """An attribution of random numbers; the largest score is that of the connection (1, 2, 3, 0)."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randn(LAYERS, HEADS, N, N, generator=generator).mul(2).softmax(-1)
    scores = torch.randn(LAYERS, HEADS, N, N, generator=generator) / 10
    scores[1, 2, 3, 0] = 0.9
    per_layer = torch.zeros(LAYERS)
    return attattr.Attribution(
        scores=scores, attention=attention, tokens=TOKENS, text="film 2 film", target=1, label="positive",
        probabilities=torch.tensor([0.1, 0.9]), difference=per_layer, completeness=per_layer, error=per_layer,
        evaluations=torch.ones(LAYERS, dtype=torch.long), method="riemann", tolerance=0.01,
    )  # fmt: skip


ATT = made_up()
VALUE = torch.randn(LAYERS, HEADS, N, SIZE, generator=torch.Generator().manual_seed(1))
CONTEXT = torch.einsum("lhij,lhjd->lihd", ATT.attention, VALUE)


def per_cent(values: Tensor, limit: float = 1.0) -> np.ndarray:
    return np.rint(np.clip(values.double().numpy() / limit, -1, 1) * 100)


def frames(figure: go.Figure) -> dict[str, go.Figure]:
    """The figure at each position of its slider or menu."""
    found = {}
    for frame in figure.frames:
        found[frame.name] = go.Figure(figure.data)
        for place, trace in zip(frame.traces, frame.data, strict=True):
            found[frame.name].data[place].update(trace.to_plotly_json())
    return found


def name(layer: int, head: int) -> str:
    return f"layer {layer}, head {head}"


# what each figure must show, as a check that a figure of other numbers must fail


def shows_paths(figure: go.Figure) -> None:
    drawn = frames(figure)
    assert list(drawn) == ["mean of all", "0", "1", "2"]
    for shown, map_ in zip(drawn.values(), [ATT.attention.mean(1), *ATT.attention.unbind(1)], strict=True):
        for trace, (low, high) in zip(shown.data[1:4], [(0.5, 1.01), (0.25, 0.5), (0.12, 0.25)], strict=True):
            lines = set(zip(zip(trace.x[1::3], trace.x[::3], strict=True), trace.y[1::3], strict=True))  # from below upward
            wanted = ((map_ >= low) & (map_ < high)).nonzero().tolist()
            assert lines == {((query, key), layer + 1) for layer, query, key in wanted}
            assert all(below == above - 1 for below, above in zip(trace.y[::3], trace.y[1::3], strict=True))


def shows_heads(figure: go.Figure) -> None:
    drawn, limit = frames(figure), float(VALUE.abs().flatten().quantile(0.995))
    assert len(drawn) == LAYERS * HEADS
    for layer, head in np.ndindex(LAYERS, HEADS):
        matrix, value, context = drawn[name(layer, head)].data
        assert np.array_equal(matrix.z, per_cent(ATT.attention[layer, head]))
        assert np.array_equal(value.z, per_cent(VALUE[layer, head], limit))
        assert np.array_equal(context.z, per_cent(CONTEXT[layer, :, head], limit))


def shows_maps(figure: go.Figure) -> None:
    drawn = frames(figure)
    assert len(drawn) == LAYERS * HEADS
    for at in np.ndindex(LAYERS, HEADS):
        attention, scores = drawn[name(*at)].data
        assert np.array_equal(attention.z, per_cent(ATT.attention[at]))
        assert np.array_equal(scores.z, per_cent(ATT.scores[at], 0.9))


def shows_sheets(figure: go.Figure) -> None:
    sheets = {"attention": figure.data[0].z, "attribution": figure.data[2].z}
    for layer, head in np.ndindex(LAYERS, HEADS):
        tile = slice(head * N, (head + 1) * N), slice(layer * N, (layer + 1) * N)
        assert np.array_equal(sheets["attention"][tile], per_cent(ATT.attention[layer, head]))
        assert np.array_equal(sheets["attribution"][tile], per_cent(ATT.scores[layer, head], 0.9 / 4))


def shows_sentence(figure: go.Figure) -> None:
    half = len(figure.data) // 2
    for traces, axis, total, of_heads, signed in (
        (figure.data[:half], None, ATT.attention.mean(1), ATT.attention, False),
        (figure.data[half:], "x2", ATT.scores.sum(1), ATT.scores, True),
    ):
        assert {trace.xaxis for trace in traces} <= {axis, axis or "x"}
        ranked = sorted(np.ndindex(*total.shape), key=lambda at: -abs(float(total[at])))[: COUNTS[-1]]
        for rank, (layer, query, key) in enumerate(ranked):
            line, value = traces[-2 - rank], float(total[layer, query, key])  # the strongest is drawn last, below the disc alone
            assert [line.x[0], line.y[0], line.x[-1], line.y[-1]] == [layer, key, layer + 1, query]
            assert line.line.width == pytest.approx(1.2 + 11 * abs(value) / abs(float(total[ranked[0]])), abs=0.06)
            head = int((of_heads[layer, :, query, key] * np.sign(value)).argmax())
            most = float(of_heads[layer, head, query, key])
            number = "+.3f" if signed else ".2f"
            assert f"<b>{LABELS[query]}</b> reads <b>{LABELS[key]}</b>" in line.text
            assert f" {value:{number}}<br>most in head {head}: {most:{number}}" in line.text
            assert (line.line.dash == "dash") == (signed and value < 0)


CHECKS: dict[str, tuple[Callable[[attattr.Attribution, Tensor, Tensor], go.Figure], Callable[[go.Figure], None]]] = {
    "paths": (lambda att, value, context: token_paths_figure(att.attention, TOKENS), shows_paths),
    "head": (lambda att, value, context: head_figure(att.attention, value, context, TOKENS), shows_heads),
    "maps": (lambda att, value, context: maps_figure(att), shows_maps),
    "sheets": (lambda att, value, context: sheets_figure(att), shows_sheets),
    "sentence": (lambda att, value, context: sentence_figure(att, COUNTS, active=1), shows_sentence),
}
# where a score, an attention weight, a value or a context is another one
SPOILT = {
    "scores zeroed": (("maps", "sheets", "sentence"), lambda: (replace(ATT, scores=torch.zeros_like(ATT.scores)), VALUE, CONTEXT)),
    "scores permuted": (("maps", "sheets", "sentence"), lambda: (replace(ATT, scores=ATT.scores.mT.contiguous()), VALUE, CONTEXT)),
    "attention zeroed": (tuple(CHECKS), lambda: (replace(ATT, attention=torch.zeros_like(ATT.attention)), VALUE, CONTEXT)),
    "attention permuted": (tuple(CHECKS), lambda: (replace(ATT, attention=ATT.attention.mT.contiguous()), VALUE, CONTEXT)),
    "layers exchanged": (tuple(CHECKS), lambda: (replace(ATT, attention=ATT.attention.flip(0)), VALUE, CONTEXT)),
    "values zeroed": (("head",), lambda: (ATT, torch.zeros_like(VALUE), CONTEXT)),
    "context zeroed": (("head",), lambda: (ATT, VALUE, torch.zeros_like(CONTEXT))),
    "context permuted": (("head",), lambda: (ATT, VALUE, CONTEXT.flip(2))),
}


@pytest.mark.parametrize("figure", CHECKS)
def test_a_figure_shows_the_numbers_it_was_given(figure: str) -> None:
    draw, check = CHECKS[figure]
    check(draw(ATT, VALUE, CONTEXT))


@pytest.mark.parametrize(("spoilt", "figure"), [(spoilt, figure) for spoilt, (figures, _) in SPOILT.items() for figure in figures])
def test_a_figure_of_other_numbers_would_be_noticed(spoilt: str, figure: str) -> None:
    draw, check = CHECKS[figure]
    with pytest.raises(AssertionError):
        check(draw(*SPOILT[spoilt][1]()))


# tokens, words, controls


@pytest.mark.parametrize(("figure", "axes"), [("paths", ["xaxis"]), ("head", ["xaxis", "yaxis"]), ("maps", ["xaxis", "xaxis2", "yaxis"])])
def test_tokens_stand_at_numbered_places(figure: str, axes: list[str]) -> None:
    layout = CHECKS[figure][0](ATT, VALUE, CONTEXT).layout
    for axis in axes:
        assert (list(layout[axis].tickvals), list(layout[axis].ticktext), layout[axis].type) == ([0, 1, 2, 3], LABELS, "linear")
        assert layout[axis].showticklabels is not False
    if "yaxis" in axes:
        assert list(layout.yaxis.range) == [3.5, -0.5]


def test_the_words_of_the_sentence_stand_at_numbered_rows() -> None:
    axis = sentence_figure(ATT).layout.yaxis
    assert (list(axis.tickvals), list(axis.ticktext), axis.type) == ([0, 1, 2, 3], LABELS, "linear")


@pytest.mark.parametrize("figure", CHECKS)
def test_a_figure_says_in_words_what_it_shows(figure: str) -> None:
    layout = CHECKS[figure][0](ATT, VALUE, CONTEXT).layout
    assert len(layout.meta["alt"]) > 60
    assert layout.title.text is None


def test_the_sentence_names_its_strongest_connections_and_fits_a_telephone() -> None:
    figure = sentence_figure(ATT)
    for values, number in ((ATT.attention.mean(1), ".2f"), (ATT.scores.sum(1), "+.2f")):
        layer, query, key = np.unravel_index(int(values.abs().argmax()), (LAYERS, N, N))
        told = f"“{TOKENS[query]}” reads “{TOKENS[key]}” in layer {layer}, {float(values[layer, query, key]):{number}}"
        assert told in figure.layout.meta["alt"]
    assert figure.layout.annotations[0].text == "The model decides: <b>positive</b>, p = 0.900"
    assert "min_width" not in figure.layout.meta


def test_each_position_of_the_sentence_slider_draws_that_many_lines() -> None:
    figure = sentence_figure(ATT, COUNTS, active=1)
    for step, count in zip(figure.layout.sliders[0].steps, COUNTS, strict=True):
        assert step.label == str(count)
        assert step.args[0]["visible"] == 2 * ([True] * 2 + [False] * (4 - count) + [True] * (count + 1))  # as many on either side
    assert [trace.visible for trace in figure.data] == figure.layout.sliders[0].steps[1].args[0]["visible"]


@pytest.mark.parametrize(("counts", "active"), [((3, 1), 0), ((), 0), ((0, 2), 0), ((1, 2), 2)])
def test_counts_that_make_no_slider_are_refused(counts: tuple[int, ...], active: int) -> None:
    with pytest.raises(ValueError, match="ascending"):
        sentence_figure(ATT, counts, active)


def test_maps_open_on_the_head_of_the_largest_score_and_heads_where_they_are_told() -> None:
    for figure, at in ((maps_figure(ATT), (1, 2)), (head_figure(ATT.attention, VALUE, CONTEXT, TOKENS, start=(1, 0)), (1, 0))):
        slider = figure.layout.sliders[0]
        assert slider.steps[slider.active].label == name(*at)
        assert np.array_equal(figure.data[0].z, per_cent(ATT.attention[at]))


def test_a_model_without_any_attribution_can_be_drawn() -> None:
    nothing = replace(ATT, scores=torch.zeros_like(ATT.scores))
    assert not np.asarray(maps_figure(nothing).data[1].z).any()
    assert not np.asarray(sheets_figure(nothing).data[2].z).any()
    assert len(sentence_figure(nothing, COUNTS, active=0).data) == 2 * (3 + COUNTS[-1])
