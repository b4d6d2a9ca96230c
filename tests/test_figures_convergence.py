"""The figures of the index page and of chapter 3, and the checks of its exercises, on made-up results."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from attattr import exercises
from attattr.attribution import Attribution
from attattr.figures import cancellation_figure, convergence_figure, path_figure, sentence_figure, steps_figure
from attattr.figures.sentence import strongest

TOKENS = ("[CLS]", "not", "bad", "[SEP]")


@pytest.fixture
def attribution() -> Attribution:
    """An `Attribution` of 2 layers, 3 heads, 4 tokens whose strongest connection is known."""
    generator = torch.Generator().manual_seed(0)
    scores = 0.02 * torch.randn(2, 3, 4, 4, generator=generator)
    scores[0, 1, 1, 2] = 0.9  # layer 0, head 1: "not" reads "bad"
    zero = torch.zeros(2)
    return Attribution(
        scores=scores,
        attention=torch.rand(2, 3, 4, 4, generator=generator).softmax(-1),
        tokens=TOKENS,
        text="not bad",
        target=1,
        label="positive",
        probabilities=torch.tensor([0.1, 0.9]),
        difference=scores.sum((1, 2, 3)),
        completeness=zero,
        error=zero,
        evaluations=torch.tensor([6, 6]),
        method="gauss-legendre",
        tolerance=0.01,
    )


def figures(attribution: Attribution) -> list[go.Figure]:
    errors = {method: {m: np.full(5, 1 / m) for m in (1, 4, 20)} for method in ("riemann", "riemann-left", "gauss-legendre")}
    scores = attribution.scores[0].sum(0).numpy()
    return [
        sentence_figure(attribution),
        path_figure(np.linspace(0, 1, 9), np.random.default_rng(0).random((2, 9)), "positive"),
        steps_figure(TOKENS, (1, 4), np.stack([scores / 2, scores]), scores, (0.5, 0.0)),
        convergence_figure(errors, np.array([6, 6, 16, 6, 6]), np.full(5, 1e-5), tolerance=0.01),
        cancellation_figure({"right": np.full(5, 0.1), "shuffled": np.zeros(5)}, {"right": np.full(5, 0.1), "shuffled": np.ones(5)}),
    ]


def test_every_figure_has_alternative_text_and_fits_a_telephone(attribution: Attribution) -> None:
    for figure in figures(attribution):
        assert len(figure.layout.meta["alt"]) > 60
        assert "min_width" not in figure.layout.meta and figure.layout.width is None
        assert figure.layout.title.text is None


def test_the_strongest_connection_is_found_with_its_head(attribution: Attribution) -> None:
    best = strongest(attribution.scores.numpy(), 3, mean=False)[0]
    assert (best.layer, best.query, best.key, best.head) == (0, 1, 2, 1)
    assert best.head_value == pytest.approx(0.9)
    assert "“not” reads “bad” in layer 0" in sentence_figure(attribution).layout.meta["alt"]


def test_each_position_of_the_sentence_slider_draws_that_many_lines_in_both_views(attribution: Attribution) -> None:
    counts = (1, 3, 7)
    figure = sentence_figure(attribution, counts=counts, active=1)
    for count, step in zip(counts, figure.layout.sliders[0].steps, strict=True):
        assert sum(step.args[0]["visible"]) == 2 + 2 * count  # rails and nodes are always there
        assert len(step.args[0]["visible"]) == len(figure.data)
    assert [trace.visible for trace in figure.data[2:]] == figure.layout.sliders[0].steps[1].args[0]["visible"][2:]


def test_the_menu_moves_the_window_to_the_attention(attribution: Attribution) -> None:
    figure = sentence_figure(attribution)
    first, second = (button.args[0]["xaxis.range"] for button in figure.layout.updatemenus[0].buttons)
    assert tuple(first) == tuple(figure.layout.xaxis.range)
    lines = [np.asarray(trace.x) for trace in figure.data[2:]]
    shown = [sum(bool((low <= x.min()) & (x.max() <= high)) for x in lines) for low, high in (first, second)]
    assert shown[0] == shown[1] == len(lines) / 2
    assert second[0] > first[1]


@pytest.mark.parametrize(("counts", "active"), [((3, 1), 0), ((), 0), ((0, 2), 0), ((1, 2), 2)])
def test_counts_that_make_no_slider_are_refused(attribution: Attribution, counts: tuple[int, ...], active: int) -> None:
    with pytest.raises(ValueError, match="expected ascending numbers"):
        sentence_figure(attribution, counts=counts, active=active)


def test_the_steps_slider_names_its_frames_and_starts_with_the_first(attribution: Attribution) -> None:
    figure = steps_figure(TOKENS, (1, 4), np.stack([np.eye(4) / 2, np.eye(4)]), np.eye(4), (0.5, 0.0))
    assert [frame.name for frame in figure.frames] == [step.args[0][0] for step in figure.layout.sliders[0].steps]
    assert (np.asarray(figure.data[0].z) == np.asarray(figure.frames[0].data[0].z)).all()
    assert np.asarray(figure.data[1].z).dtype == np.int8  # quantised: a tenth of the page's size
    assert np.asarray(figure.data[1].z).max() == 127 and figure.data[1].zmin == -127


def test_the_convergence_figure_draws_median_and_range() -> None:
    values = np.array([1e-3, 1e-2, 1e-1])
    figure = convergence_figure({"riemann": {1: values, 2: values / 2}}, np.array([6, 6, 16]), np.full(3, 1e-5), tolerance=0.01)
    band, median, auto = figure.data
    assert list(median.y) == pytest.approx([1e-2, 5e-3])
    assert list(band.y) == pytest.approx([1e-1, 5e-2, 5e-4, 1e-3])
    assert list(auto.customdata) == [6, 6, 16]


def test_right_answers_are_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_right_sums(lambda gradient, m: sum(gradient(k / m) for k in range(1, m + 1)) / m)
    exercises.check_completeness_gap(lambda att: (att.scores.sum((1, 2, 3)) - att.difference).abs())
    exercises.check_trapezoid(lambda g, m: (sum(g(k / m) for k in range(1, m)) + (g(0.0) + g(1.0)) / 2) / m)
    assert capsys.readouterr().out.split("\n")[:3] == [f"Exercise 3.{i}: right" for i in (1, 2, 3)]


def test_stubs_do_not_stop_the_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_right_sums(lambda gradient, m: ...)
    exercises.check_completeness_gap(lambda att: ...)
    exercises.check_trapezoid(lambda gradient, m: ...)
    assert capsys.readouterr().out.count("not filled in yet") == 3


def test_wrong_answers_raise_and_show_what_was_expected() -> None:
    with pytest.raises(AssertionError, match=r"3\.1: expected .* got"):  # a left sum
        exercises.check_right_sums(lambda gradient, m: sum(gradient(k / m) for k in range(m)) / m)
    with pytest.raises(AssertionError, match=r"3\.2: expected .*two layers"):  # the sign was forgotten
        exercises.check_completeness_gap(lambda att: att.scores.sum((1, 2, 3)) - att.difference)
    with pytest.raises(AssertionError, match=r"3\.3: expected .* from 6 gradients, got"):  # the right value from too many gradients
        exercises.check_trapezoid(lambda g, m: (sum(g(k / m) for k in range(m)) + sum(g(k / m) for k in range(1, m + 1))) / (2 * m))
