"""Figures of chapter 10 over validation sets: each number is where its row, task and reference are; what cannot be drawn is refused."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import numpy as np
import pytest

from attattr.figures import masking_figure, ranking_figure, saturation_figure
from attattr.figures.correlations import AWAY, DASHES, MODELS

LAYERED = ("raw attention", "rollout", "flow", "attribution, all rows", "rollout of attribution")
WHOLE = ("gradient", "integrated gradients", "attribution, all layers")
NOT_SIGNED = ("raw attention", "rollout", "flow", "gradient")
KINDS = [("blank-out", "row"), ("input gradient", "row"), ("signed blank-out", "row"), ("blank-out", "max"), ("input gradient", "max")]


def around(generator, low, high, half):
    mean = generator.uniform(low, high)
    return [round(mean, 4), round(mean - half, 4), round(mean + half, 4)]


def synthetic(seed=0, layers=6):
    """A result as `reproduce flow-correlations` writes it."""
    generator, correlations = random.Random(seed), []
    for against, reading in KINDS:
        for method in (*LAYERED, *WHOLE):
            if (against == "signed blank-out" and method in NOT_SIGNED) or (reading == "max" and method not in LAYERED[:3]):
                continue
            for layer in range(layers) if method in LAYERED else [None]:
                mean, low, high = around(generator, -0.1, 0.5, 0.04)
                keys = {"method": method, "layer": layer, "reading": reading, "against": against}
                correlations.append(keys | {"mean": mean, "low": low, "high": high, "texts": 198})
    generator.shuffle(correlations)
    masking = [
        {
            "method": method,
            "layer": generator.randrange(layers) if method in LAYERED else None,
            "comprehensiveness": around(generator, 0.1, 0.4, 0.02),
            "sufficiency": around(generator, 0.05, 0.3, 0.02),
            "deletion": [0.9] * 11,
            "insertion": [0.9] * 11,
        }
        for method in (*LAYERED, *WHOLE, "random")
    ]
    return {"rows": 200, "texts": 198, "tokens": 17.3, "correlations": correlations, "masking": masking}


@pytest.fixture
def results():
    return {"sst2": synthetic(0), "mnli": synthetic(1)}


def best_first(result, against, reading) -> list[tuple[str, dict]]:
    """The methods with their values by layer, the largest value first."""
    values: dict[str, dict] = {}
    for line in result["correlations"]:
        if (line["against"], line["reading"]) == (against, reading):
            values.setdefault(line["method"], {})[line["layer"]] = [line["mean"], line["low"], line["high"]]
    return sorted(values.items(), key=lambda item: -max(mean for mean, *_ in item[1].values()))


def written(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def seen_in(figure, button):
    visible = button.args[0]["visible"]
    assert len(visible) == len(figure.data)
    return [trace for trace, on in zip(figure.data, visible, strict=True) if on]


@pytest.mark.parametrize(("place", "kind"), list(enumerate(KINDS)))
def test_every_correlation_is_a_dot_in_the_row_of_its_method(results, place, kind):
    figure = ranking_figure(results)
    traces = seen_in(figure, figure.layout.updatemenus[1].buttons[place])
    (names,) = (trace for trace in traces if trace.mode == "text")
    dots = {}
    for trace in traces:
        for number, words in enumerate(trace.customdata or ()):
            if words[0]:
                ends = trace.error_x.arrayminus[number], trace.error_x.array[number]
                task = int(trace.y[number] // AWAY)
                assert (task, words[0]) not in dots
                dots[task, words[0]] = (trace.x[number], *ends, trace.y[number], trace.marker.size[number])
    for task, result in enumerate(results.values()):
        expected, previous = best_first(result, *kind), -1
        labels = [(y, text) for y, text in zip(names.y, names.text, strict=True) if y // AWAY == task]
        assert len(labels) == len(expected)
        for (y, text), (method, values) in zip(sorted(labels), expected, strict=True):
            best = max(values, key=lambda layer: values[layer][0])
            in_best = "" if best is None else f", layer {best + 1}"
            assert text == f"<b>{method}</b> {written(values[best][0])}{in_best}"
            assert y > previous
            previous = y
            for layer in sorted(values, key=lambda layer: layer or 0):
                mean, low, high = values[layer]
                x, minus, plus, at, size = dots.pop((task, method + ("" if layer is None else f", layer {layer + 1}")))
                assert (x, x - minus, x + plus) == pytest.approx((mean, low, high), abs=2e-3)
                assert at > previous  # below its name, and below the layer before
                assert size == (10 if layer == best else 5)
                previous = at
    assert not dots


def test_no_line_joins_two_methods(results):
    for trace in ranking_figure(results).data:
        if trace.mode == "lines+markers":
            names = [words[0].split(", layer")[0] for words in trace.customdata]
            gaps = [x is None for x in trace.x]
            for (one, other), gap in zip(pairwise(names), gaps[1:], strict=True):
                assert gap or one in ("", other)


def test_the_menu_of_tasks_moves_the_window_to_all_of_its_rows_and_no_other(results):
    for figure in (ranking_figure(results), masking_figure(results)):
        menu = figure.layout.updatemenus[0]
        assert [button.label for button in menu.buttons] == ["SST-2", "MNLI"]
        for task, button in enumerate(menu.buttons):
            end, start = button.args[0]["yaxis.range"]
            rows = [y for trace in figure.data if trace.mode != "lines" for y in trace.y if y is not None]
            for y in rows:
                assert (start <= y <= end) == (y // AWAY == task)
            assert {y // AWAY for y in rows} == {0, 1}
        assert list(figure.layout.yaxis.range) == list(menu.buttons[0].args[0]["yaxis.range"])


def test_one_task_and_one_reference_have_no_menus(results):
    one = results["sst2"]
    one["correlations"] = [line for line in one["correlations"] if (line["against"], line["reading"]) == KINDS[0]]
    figure = ranking_figure({"sst2": one})
    assert not figure.layout.updatemenus and not masking_figure({"sst2": one}).layout.updatemenus
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 0  # a random ranking


def test_colours_tell_families_apart(results):
    figure = ranking_figure(results)
    color = {words[0].split(", layer")[0]: t.marker.color for t in figure.data for words in t.customdata or ()}
    assert len({color[name] for name in ("raw attention", "rollout", "flow")}) == 1
    assert color["rollout of attribution"] == color["attribution, all rows"] == color["attribution, all layers"]
    assert len({color[name] for name in ("rollout", "rollout of attribution", "gradient")}) == 3


def test_the_ranking_in_words(results):
    alt = ranking_figure(results).layout.meta["alt"]
    method, values = best_first(results["mnli"], *KINDS[0])[0]
    best = max(values, key=lambda layer: values[layer][0])
    mean, low, high = values[best]
    assert f"MNLI, 198 texts: {method} {written(mean)} ({written(low)} to {written(high)})" in alt


def test_masking_has_two_dots_for_each_method_and_bands_of_the_random_order(results):
    figure = masking_figure(results)
    for measure, (band, dots) in {"comprehensiveness": figure.data[:2], "sufficiency": figure.data[2:4]}.items():
        names = figure.data[4]
        for task, result in enumerate(results.values()):
            random_order = next(line for line in result["masking"] if line["method"] == "random")
            _, low, high = random_order[measure]
            assert {x for x, y in zip(band.x, band.y, strict=True) if y is not None and round(y / AWAY) == task} == {low, high}
            lines = sorted((line for line in result["masking"] if line["method"] != "random"), key=lambda e: -e["comprehensiveness"][0])
            places = [n for n, y in enumerate(dots.y) if y // AWAY == task]
            assert len(places) == len(lines)
            for n, line in zip(places, lines, strict=True):
                mean, low, high = line[measure]
                ends = dots.x[n] - dots.error_x.arrayminus[n], dots.x[n], dots.x[n] + dots.error_x.array[n]
                assert ends == pytest.approx((low, mean, high), abs=2e-3)
                assert 0 < dots.y[n] - names.y[n] < 30
                assert names.text[n] == f"<b>{line['method']}</b>" + ("" if line["layer"] is None else f", layer {line['layer'] + 1}")
    assert "random" in figure.layout.meta["alt"]


def saturation():
    share = [0.0, 0.02, 0.5]
    twelve = [k / 11 for k in range(12)]
    return {
        "MiniLM, SST-2 (6 layers)": {"layers": share, "low": [0.0, 0.01, 0.4], "high": [0.0, 0.03, 0.6]},
        "random (12 layers)": {"layers": twelve, "low": twelve, "high": twelve},
    }


def test_saturation_has_a_line_and_a_band_for_each_model():
    figure = saturation_figure(saturation())
    for number, (name, shares) in enumerate(saturation().items()):
        band, line = figure.data[2 * number : 2 * number + 2]
        count = len(shares["layers"])
        assert line.name == name and list(line.x) == list(range(1, count + 1))
        assert np.asarray(line.y) == pytest.approx(shares["layers"], abs=1e-4)
        assert np.asarray(band.y) == pytest.approx([*shares["high"], *shares["low"][::-1]], abs=1e-4)
        assert (line.line.color, line.line.dash) == (MODELS[number], DASHES[number])
        assert f"{name}: " in figure.layout.meta["alt"]
    assert "0%, 2%, 50%" in figure.layout.meta["alt"]
    assert figure.layout.xaxis.range[1] > 12


@pytest.mark.parametrize("draw", [ranking_figure, masking_figure])
def test_no_result_and_none_of_this_kind_are_refused(draw, results):
    with pytest.raises(ValueError, match="no results to draw"):
        draw({})
    with pytest.raises(ValueError, match=r"'sst2' has no '(correlations|masking)'"):
        draw({"sst2": {"texts": 3}})
    with pytest.raises(ValueError, match="has no 'texts'"):
        draw({"sst2": results["sst2"] | {"texts": None}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": 0.9, "low": 0.1, "high": 0.2}, "expected a mean in its interval"),
        ({"mean": 1.2, "low": 1.1, "high": 1.3}, "within -1 to 1"),
        ({"mean": float("nan")}, "expected a mean"),
        ({"against": "gravity"}, "'gravity', "),
        ({"reading": "column"}, "'column': expected one of"),
    ],
)
def test_a_correlation_that_is_none_is_refused(results, change, words):
    results["mnli"]["correlations"][3].update(change)
    with pytest.raises(ValueError, match=words):
        ranking_figure(results)


def test_a_correlation_that_too_few_texts_have_is_left_out(results):
    lines = results["sst2"]["correlations"]
    (own,) = [line for line in lines if (line["method"], line["layer"], line["against"], line["reading"]) == ("flow", 2, *KINDS[0])]
    own |= {"mean": None, "low": None, "high": None}
    figure = ranking_figure(results)
    names = [words[0] for t in seen_in(figure, figure.layout.updatemenus[1].buttons[0]) for words in t.customdata or ()]
    assert names.count("flow, layer 2") == 2 and names.count("flow, layer 3") == 1


def test_a_line_too_few_or_too_many_is_refused(results):
    lines = results["mnli"]["correlations"]
    with pytest.raises(ValueError, match="MNLI has no 'low'"):
        ranking_figure({"mnli": results["mnli"] | {"correlations": [{k: v for k, v in lines[0].items() if k != "low"}]}})
    with pytest.raises(ValueError, match="stands twice"):
        ranking_figure({"mnli": results["mnli"] | {"correlations": [*lines, lines[0]]}})
    results["mnli"]["correlations"] = [line for line in lines if line["reading"] == "row"]
    with pytest.raises(ValueError, match="MNLI is compared with"):
        ranking_figure(results)


def test_masking_without_random_order_or_with_wrong_numbers_is_refused(results):
    for wrong, words in (
        (lambda lines: lines[:-1], "0 random orders and 8 methods"),
        (lambda lines: lines[-1:], "1 random orders and 0 methods"),
        (lambda lines: [{"method": "flow"}], "has no 'layer'"),
        (lambda lines: [lines[0] | {"sufficiency": [0.5, 0.6, 0.7]}, *lines[1:]], "sufficiency: mean, low, high"),
        (lambda lines: [lines[0] | {"sufficiency": [0.5]}, *lines[1:]], "sufficiency: mean, low, high"),
    ):
        changed = copy.deepcopy(results)
        changed["mnli"]["masking"] = wrong(changed["mnli"]["masking"])
        with pytest.raises(ValueError, match=words):
            masking_figure(changed)


def test_saturation_of_wrong_lists_is_refused():
    models = saturation()
    for wrong, words in (
        ({}, "0 models"),
        ({f"model {k}": models["random (12 layers)"] for k in range(7)}, "7 models"),
        ({"one": {"layers": [0.1, 0.2], "low": [0.1], "high": [0.1, 0.2]}}, "lists of lengths"),
        ({"one": {"layers": [], "low": [], "high": []}}, "lists of lengths"),
        ({"one": {"layers": [0.1]}}, "lists of lengths"),
        ({"one": {"layers": [1.1], "low": [1.0], "high": [1.2]}}, "one, layer 1: .* within 0 to 1"),
        ({"one": {"layers": [0.1], "low": [None], "high": [None]}}, "one, layer 1: mean, low, high"),
        ({"one": {"layers": [0.1], "low": [0.2], "high": [0.3]}}, "expected a mean in its interval"),
    ):
        with pytest.raises(ValueError, match=words):
            saturation_figure(wrong)


def test_they_are_small_and_fit_a_phone(results):
    deep = {task: synthetic(seed, layers=12) for seed, task in enumerate(("sst2", "mnli", "agreement"))}
    for figure in (ranking_figure(deep), masking_figure(deep), saturation_figure(saturation())):
        assert len(figure.to_json()) < 120_000
        assert "min_width" not in figure.layout.meta and figure.layout.width is None
        assert figure.layout.height < 1200
    assert [button.label for button in masking_figure(deep).layout.updatemenus[0].buttons] == ["SST-2", "MNLI", "agreement"]
