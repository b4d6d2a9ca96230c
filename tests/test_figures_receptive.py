"""The figure of chapter 6 draws the distances it is given: bars, means, intervals, what lies beyond; one task at a time."""

from __future__ import annotations

import numpy as np
import pytest

from attattr import exercises
from attattr.figures import receptive_figure
from attattr.reproduce.evidence import spread_of


def made(seed, layers=3, most=12):
    """A result in the layout of ``reproduce fig4``: distances of three texts in each layer."""
    generator = np.random.default_rng(seed)

    def spread():
        return spread_of([generator.integers(1, most + 1, size=20).tolist() for _ in range(3)])

    return {"texts": 3, "layers": {kind: [spread() for _ in range(layers)] for kind in ("attribution", "attention", "random")}}


def bars(figure):
    return [trace for trace in figure.data if trace.type == "bar"]


def marks(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_bars_are_shares_of_the_edges_relative_to_the_most_frequent():
    result = made(0)
    (trace,) = bars(receptive_figure({"A": result}))
    for layer, spread in enumerate(result["layers"]["attribution"], 1):
        total, most = sum(spread["counts"].values()), max(spread["counts"].values())
        at = [k for k, base in enumerate(trace.base) if base == layer]
        assert [trace.x[k] for k in at] == [int(distance) for distance in spread["counts"]]
        heights = np.array([trace.y[k] for k in at])
        assert heights / heights.max() == pytest.approx(np.array(list(spread["counts"].values())) / most, abs=2e-3)
        assert [trace.customdata[k] for k in at] == pytest.approx([100 * n / total for n in spread["counts"].values()], abs=0.06)
        assert heights.max() < 1  # layers do not touch


@pytest.mark.parametrize(
    ("kind", "name"),
    [("attribution", "mean of the graph's edges"), ("attention", "mean, largest attention"), ("random", "mean, random keys")],
)
def test_means_stand_at_their_layers_with_their_intervals(kind, name):
    result = made(1)
    (trace,) = marks(receptive_figure({"A": result}), name)
    for layer, spread in enumerate(result["layers"][kind], 1):
        assert trace.x[layer - 1] == spread["mean"]
        assert round(trace.y[layer - 1]) == layer
        assert trace.x[layer - 1] - trace.error_x.arrayminus[layer - 1] == pytest.approx(spread["interval"][0], abs=0.006)
        assert trace.x[layer - 1] + trace.error_x.array[layer - 1] == pytest.approx(spread["interval"][1], abs=0.006)


def test_distances_beyond_the_cap_are_told_not_drawn():
    result = made(2)
    spread = result["layers"]["attribution"][1]
    spread["counts"] = {"1": 3, "5": 6, "6": 1, "60": 2}
    figure = receptive_figure({"A": result}, cap=5)
    assert max(bars(figure)[0].x) == 5
    (text,) = (trace for trace in figure.data if trace.type == "scatter" and trace.mode == "text")
    assert dict(zip(np.floor(text.y), text.text, strict=True))[2] == "+25%"


def test_the_menu_shows_one_task_at_a_time():
    figure = receptive_figure({"A": made(3), "B": made(4)})
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["A", "B"]
    first, second = (button.args[0]["visible"] for button in menu.buttons)
    assert [trace.visible for trace in figure.data] == list(first)
    assert [not seen for seen in first] == list(second)
    assert len(bars(figure)) == 2 and sum(first) == sum(second)
    assert not receptive_figure({"A": made(3)}).layout.updatemenus


def test_a_layer_without_edges_is_drawn_empty():
    result = made(5)
    for kind in result["layers"]:
        result["layers"][kind][0] = spread_of([[], []])
    figure = receptive_figure({"A": result})
    assert 1 not in bars(figure)[0].base
    assert len(marks(figure, "mean, random keys")[0].x) == 2


def test_it_is_small_and_says_its_numbers():
    result = made(6, layers=12, most=60)
    figure = receptive_figure({"A": result, "B": made(7)})
    assert len(figure.to_json()) < 200_000
    assert (
        f"{result['layers']['attribution'][3]['mean']:.1f}" in figure.layout.meta["alt"] and "B: mean distance" in figure.layout.meta["alt"]
    )
    assert "min_width" not in figure.layout.meta


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no result"):
        receptive_figure({})
    with pytest.raises(ValueError, match="cap=0"):
        receptive_figure({"A": made(0)}, cap=0)


def test_the_checks_of_the_chapter_accept_what_is_right_and_name_what_is_missing(capsys):
    exercises.check_admitted_distances(lambda kept: [[abs(i - j) for i, j in np.argwhere(k) if i != j] for k in kept])
    exercises.check_mean_distance(lambda i, n: (i * (i + 1) + (n - 1 - i) * (n - i)) / (2 * (n - 1)))
    exercises.check_resampled_mean(lambda texts, chosen: np.concatenate([texts[k] for k in chosen]).mean())
    assert capsys.readouterr().out.splitlines() == [f"Exercise 6.{n}: right" for n in (1, 2, 3)]
    exercises.check_admitted_distances(lambda kept: ...)
    exercises.check_mean_distance(lambda i, n: ...)
    exercises.check_resampled_mean(lambda texts, chosen: ...)
    assert capsys.readouterr().out.splitlines() == [f"Exercise 6.{n}: not filled in yet" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("mean_distance", lambda i, n: n / 2),
        ("mean_distance", lambda i, n: sum(abs(i - j) for j in range(n)) / n),
        ("admitted_distances", lambda kept: [[abs(i - j) for i, j in np.argwhere(k)] for k in kept]),
        ("admitted_distances", lambda kept: [[i - j for i, j in np.argwhere(k) if i != j] for k in kept]),
        ("resampled_mean", lambda texts, chosen: np.mean([np.mean(texts[k] or [0]) for k in chosen])),
    ],
)
def test_the_checks_of_the_chapter_refuse_what_is_wrong(check, answer):
    with pytest.raises(AssertionError, match=r"Exercise 6\.\d: expected"):
        getattr(exercises, f"check_{check}")(answer)
