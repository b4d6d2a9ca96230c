"""Deletion and insertion curves: each method's own, where its task is chosen; what cannot be drawn is refused."""

from __future__ import annotations

import copy

import pytest
from test_figures_correlations import synthetic

from attattr.figures import masking_curves_figure
from attattr.figures.curves import CURVES


def with_curves(seed):
    """A result in which every method has curves of its own."""
    result = synthetic(seed)
    for number, line in enumerate(result["masking"]):
        line["deletion"] = [round(0.9 - 0.005 * (number + seed) * k, 3) for k in range(11)]
        line["insertion"] = [round(0.3 + 0.005 * (number + seed) * k, 3) for k in range(11)]
    return result


@pytest.fixture
def results():
    return {"sst2": with_curves(0), "mnli": with_curves(2)}


@pytest.mark.parametrize("place", [0, 1])
def test_the_curves_of_the_task_chosen_are_shown_and_no_others(results, place):
    figure = masking_curves_figure(results)
    button = figure.layout.updatemenus[0].buttons[place]
    seen = [trace for trace, on in zip(figure.data, button.args[0]["visible"], strict=True) if on]
    if place == 0:
        assert [trace.visible for trace in figure.data] == list(button.args[0]["visible"])
    lines = {line["method"]: line for line in results[["sst2", "mnli"][place]]["masking"]}
    assert len(seen) == 2 * len(CURVES)
    for panel, axis in (("deletion", "y"), ("insertion", "y2")):
        drawn = {trace.name: trace for trace in seen if (trace.yaxis or "y") == axis}
        assert set(drawn) == set(CURVES)
        for method, trace in drawn.items():
            assert list(trace.y) == lines[method][panel]
            assert list(trace.x) == [k / 10 for k in range(11)]
            layer = lines[method]["layer"]
            assert (f", layer {(layer or 0) + 1}<" in trace.hovertemplate) == (layer is not None)
            assert (trace.line.color, trace.line.dash, trace.marker.symbol) == CURVES[method]


def test_no_two_curves_look_alike_and_the_words_name_their_middles(results):
    assert len(set(CURVES.values())) == len(CURVES)
    whole = masking_curves_figure(results)
    assert "by 7 rankings" in whole.layout.meta["alt"]
    assert whole.layout.yaxis.range == whole.layout.yaxis2.range == (0, 1)  # equal heights are equal probabilities
    titles = whole.layout.annotations
    assert [(one.text.split(":")[0], one.yref, one.y) for one in titles] == [
        ("deletion", "paper", 1.0),
        ("insertion", "paper", pytest.approx(0.44)),
    ]
    figure = masking_curves_figure({"sst2": results["sst2"]}, ("flow", "random"))
    assert not figure.layout.updatemenus
    (flow,) = (line for line in results["sst2"]["masking"] if line["method"] == "flow")
    assert "by 2 rankings" in figure.layout.meta["alt"]
    assert f"flow, layer {flow['layer'] + 1} {flow['deletion'][5]:.2f} and {flow['insertion'][5]:.2f}" in figure.layout.meta["alt"]


def change(result, **changes):
    found = copy.deepcopy(result)
    found["masking"][0].update(changes)
    return found


def test_what_cannot_be_drawn_is_refused(results):
    with pytest.raises(ValueError, match="no results to draw"):
        masking_curves_figure({})
    for methods in (["guess"], [], ["flow", "flow"]):
        with pytest.raises(ValueError, match=r"methods=\[.*\]: expected some of .*, each once"):
            masking_curves_figure(results, methods)
    with pytest.raises(ValueError, match="the masking of SST-2 has no 'raw attention'"):
        masking_curves_figure({"sst2": change(results["sst2"], method="other")})
    del results["mnli"]["masking"][0]["method"]
    with pytest.raises(ValueError, match="the masking of MNLI has no 'raw attention'"):
        masking_curves_figure({"mnli": results["mnli"]})
    for wrong in ([], [0.5] * 10 + [1.5], [0.5] * 7, [0.5] * 21, [None] * 11, 0.5, None):
        with pytest.raises(ValueError, match=r"raw attention: deletion = .*: expected 11 probabilities"):
            masking_curves_figure({"sst2": change(results["sst2"], deletion=wrong)})
