"""Figures of chapter 5: each menu shows what it says, the curves are the results' numbers, and bad results are refused."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import plotly.graph_objects as go
import pytest

import attattr
from attattr.figures import deletion_figure, removal_figure
from attattr.figures.evidence import AWAY

HEADS = 4
KINDS = ("attribution", "admitted", "attention", "random", "anywhere")
REQUIRED = {"fig3": ("sst2", "mnli", "rte", "mrpc"), "edges": ("sst2", "mnli")}  # tasks whose results must be in data/results/


def removal_result(start: int) -> dict:
    """A made result with 100 texts; every point is another number."""
    count = itertools.count(start)
    keys = [(s, b, f) for s in ("example", "set") for b in ("attribution", "attention") for f in ("largest", "smallest")]
    keys += [("set", f"random {seed}", "largest") for seed in range(3)]
    points = [
        {"scope": s, "by": b, "first": f, "removed": removed, "right": next(count)} for s, b, f in keys for removed in range(HEADS + 1)
    ]
    return {"texts": 100, "curves": points}


def deletion_result(shift: float) -> dict:
    generator = np.random.default_rng(int(shift * 100))
    values = {part: {kind: generator.random((3, 2)).round(3).tolist() for kind in KINDS} for part in ("kept", "deleted")}
    sizes = {"edges": [20.5, 33.0, 80.0], "admitted": [25.0, 40.5, 120.0]}
    return {"texts": 10, "taus": [0.8, 0.4, 0.1], "full": [0.9, 0.01], "none": [0.5, 0.0]} | sizes | values


@pytest.fixture
def removal() -> dict[str, dict]:
    return {"sst2": removal_result(0), "mrpc": removal_result(20)}


@pytest.fixture
def deletion() -> dict[str, dict]:
    return {"mnli": deletion_result(0.0), "rte": deletion_result(0.1)}


def shown(figure: go.Figure, visible: list[bool]) -> list[go.Scatter]:
    assert len(visible) == len(figure.data)
    return [trace for trace, seen in zip(figure.data, visible, strict=True) if seen]


def menu(figure: go.Figure, name: str) -> list:
    (found,) = [menu.buttons for menu in figure.layout.updatemenus if menu.name == name]
    return list(found)


@pytest.mark.parametrize("make", [removal_figure, deletion_figure])
def test_the_figures_are_small_described_and_fit_a_telephone(make, removal, deletion):
    figure = make(removal if make is removal_figure else deletion)
    assert len(figure.to_json()) < 50_000
    assert "min_width" not in figure.layout.meta and figure.layout.width is None
    assert figure.layout.title.text is None


@pytest.mark.parametrize("place", [0, 1])
def test_both_menus_together_show_the_four_curves_of_a_task_and_a_scope(removal, place):
    figure = removal_figure(removal)
    task, scope = list(removal)[place], ("example", "set")[place]
    low, high = menu(figure, "Order of the heads:")[place].args[0]["xaxis.range"]
    traces = shown(figure, menu(figure, "Task:")[place].args[0]["visible"])
    curves = [trace for trace in traces if trace.mode == "lines+markers"]
    directions = ("largest", "smallest")
    assert {trace.name for trace in curves} == {f"{by}, {first} first" for by in ("attribution", "attention") for first in directions}
    ticks = dict(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True))
    for trace in curves:
        by, first = trace.name.removesuffix(" first").split(", ")
        inside = [(x, y, c) for x, y, c in zip(trace.x, trace.y, trace.customdata, strict=True) if low <= x <= high]
        wanted = {
            p["removed"]: p["right"] / 100
            for p in removal[task]["curves"]
            if (p["scope"], p["by"], p["first"]) == (scope, by, first)
        }  # fmt: skip
        assert {c: y for _, y, c in inside} == pytest.approx(wanted)
        assert all(ticks.get(x, str(c)) == str(c) for x, _, c in inside)
        assert len(trace.x) == 2 * (HEADS + 2)


def test_the_windows_of_the_two_scopes_do_not_overlap(removal):
    first, second = (button.args[0]["xaxis.range"] for button in menu(removal_figure(removal), "Order of the heads:"))
    assert first[1] < second[0]
    assert tuple(removal_figure(removal).layout.xaxis.range) == tuple(first)


def test_the_band_reaches_from_the_lowest_to_the_highest_random_order(removal):
    band = removal_figure(removal).data[0]
    random = [p for p in removal["sst2"]["curves"] if p["by"].startswith("random")]
    for removed in range(HEADS + 1):
        accuracies = [p["right"] / 100 for p in random if p["removed"] == removed]
        for place in (0, 1):
            drawn = [y for x, y in zip(band.x, band.y, strict=True) if x == removed + place * AWAY]
            assert sorted(drawn) == pytest.approx([min(accuracies), max(accuracies)])


def test_the_lines_are_the_model_with_all_heads_and_with_none(removal):
    _, full, none, *_ = removal_figure(removal).data
    key = ("set", "attribution", "smallest")
    points = {p["removed"]: p["right"] for p in removal["sst2"]["curves"] if (p["scope"], p["by"], p["first"]) == key}
    assert set(full.y) == {points[0] / 100}
    assert set(none.y) == {points[HEADS] / 100}
    assert f"{points[0]}.0%" in full.name


def test_the_first_task_is_shown_at_the_start_and_others_only_by_the_menu(removal, deletion):
    for figure in (removal_figure(removal), deletion_figure(deletion)):
        assert [trace.visible for trace in figure.data] == list(menu(figure, "Task:")[0].args[0]["visible"])
        one, other = (button.args[0]["visible"] for button in menu(figure, "Task:"))
        assert [a != b for a, b in zip(one, other, strict=True)] == [True] * len(figure.data)


def test_there_is_no_menu_without_a_choice(removal, deletion):
    assert [m.name for m in removal_figure({"sst2": removal["sst2"]}).layout.updatemenus] == ["Order of the heads:"]
    assert not deletion_figure({"rte": deletion["rte"]}).layout.updatemenus


@pytest.mark.parametrize("place", [0, 1])
def test_both_panels_show_means_and_errors_of_the_task(deletion, place):
    figure = deletion_figure(deletion)
    task = list(deletion)[place]
    traces = shown(figure, menu(figure, "Task:")[place].args[0]["visible"])
    names = dict(zip(KINDS, ("attribution", "all above τ", "attention", "random, same rows", "random, anywhere"), strict=True))
    for part, axis in (("kept", "y"), ("deleted", "y2")):
        assert [a.text for a in figure.layout.annotations][axis == "y2"].startswith({"kept": "only", "deleted": "all but"}[part])
        for kind, name in names.items():
            (trace,) = [t for t in traces if t.name == name and (t.yaxis or "y") == axis]
            assert np.stack([trace.y, trace.error_y.array], 1) == pytest.approx(np.array(deletion[task][part][kind]))
            assert list(trace.x) == deletion[task]["admitted" if kind == "admitted" else "edges"]
    assert sum(trace.showlegend for trace in traces) == 7  # once for both panels


def test_the_alternative_text_has_the_numbers_that_matter(removal, deletion):
    alt = removal_figure(removal).layout.meta["alt"]
    key = ("example", "attribution", "smallest", HEADS - 2)
    (kept,) = [p["right"] for p in removal["mrpc"]["curves"] if (p["scope"], p["by"], p["first"], p["removed"]) == key]
    assert f"kept: {kept}.0% if each text has its own order" in alt.split("MRPC")[1]
    alt = deletion_figure(deletion).layout.meta["alt"]
    assert "at τ = 0.4, 33 edges" in alt
    assert f"all but these are left: attribution {deletion['rte']['deleted']['attribution'][1][0]:.2f}" in alt.split("RTE")[1]


@pytest.mark.parametrize("make", [removal_figure, deletion_figure])
def test_no_result_and_no_such_task_are_refused(make):
    with pytest.raises(ValueError, match="no results to draw"):
        make({})
    with pytest.raises(ValueError, match="unknown task 'cola'"):
        make({"cola": {}})


def test_incomplete_results_are_refused(removal, deletion):
    for gone, message in (("attention", "no curve for .*'attention'"), ("random", "no curve for a random order")):
        without = copy.deepcopy(removal["sst2"])
        without["curves"] = [p for p in without["curves"] if not p["by"].startswith(gone)]
        with pytest.raises(ValueError, match=f"'sst2' has {message}"):
            removal_figure({"sst2": without})
    short = copy.deepcopy(removal["sst2"])
    del short["curves"][2]
    with pytest.raises(ValueError, match=r"the points \[0, 1, 3, 4\]: expected 0 to 4 heads"):
        removal_figure({"sst2": short})
    del deletion["rte"]["kept"]["random"]
    with pytest.raises(ValueError, match=r"'rte' has the graphs .*expected .*random"):
        deletion_figure(deletion)


@pytest.mark.parametrize(("name", "make"), [("fig3", removal_figure), ("edges", deletion_figure)])
def test_the_measured_results_can_be_drawn(name, make):
    found = {}
    for task in ("sst2", "mnli", "rte", "mrpc"):
        try:
            found[task] = attattr.result(f"{name}-{task}")
        except FileNotFoundError:
            continue
    assert set(REQUIRED[name]) <= set(found)
    assert len(make(found).to_json()) < 60_000
