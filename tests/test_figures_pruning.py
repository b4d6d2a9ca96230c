"""The pruning slider: the grid, the heads that are greyed and the accuracies told are those of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import attattr
from attattr.figures import pruning_slider
from attattr.heads import least_important, random_importance

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

NAMES = {"attribution": "attribution", "taylor": "Taylor", "accuracy": "accuracy difference", "random": "random"}


@pytest.fixture(scope="module")
def table() -> pandas.DataFrame:
    return attattr.result("fig5-sst2")


def importance(table: pandas.DataFrame, method: str, sample: int) -> torch.Tensor:
    rows = table[(table.measure == "importance") & (table["sample"] == sample)]
    if method == "random":
        return random_importance(torch.zeros(6, 12), sample)
    return torch.tensor(rows[rows.method == method].sort_values(["layer", "head"]).value.to_numpy().reshape(6, 12))


def accuracies(table: pandas.DataFrame, sample: int) -> dict[str, dict[int, float]]:
    rows = table[(table.measure == "accuracy") & (table["sample"] == sample)]
    return {method: dict(zip(own.pruned.astype(int), own.value, strict=True)) for method, own in rows.groupby("method") if method in NAMES}


def chosen(figure: go.Figure, name: str) -> list[Any]:
    """All traces as they are when the menu shows one measure."""
    (frame,) = [frame for frame in figure.frames if frame.name == name]
    traces = [type(trace)(trace.to_plotly_json()) for trace in figure.data]
    for place, change in zip(frame.traces, frame.data, strict=True):
        traces[place].update(change.to_plotly_json(), overwrite=True)
    return traces


def check(figure: go.Figure, table: pandas.DataFrame, sample: int) -> None:
    """Raise unless at every position, for every measure, the figure shows the numbers of the table."""
    wanted = accuracies(table, sample)
    assert [frame.name for frame in figure.frames] == [NAMES[method] for method in NAMES if method in wanted]
    for method in wanted:
        traces, values = chosen(figure, NAMES[method]), importance(table, method, sample)
        assert np.asarray(traces[0].z, float) == pytest.approx(values.numpy(), rel=1e-5)
        for step, pruned in zip(figure.layout.sliders[0].steps, wanted[method], strict=True):
            seen = [trace for trace, visible in zip(traces, step.args[0]["visible"], strict=True) if visible]
            covers = [np.asarray(trace.z, bool) for trace in seen if trace.type == "heatmap"][1:]
            crosses = [np.asarray(trace.text) == "✕" for trace in seen if trace.type == "heatmap"][1:]
            kept = least_important(values, pruned).numpy()
            for hidden in (covers, crosses):
                gone = np.any([np.zeros((6, 12), bool), *hidden], axis=0)
                assert np.array_equal(~gone, kept), (method, pruned)
            marks = {trace.name: (list(trace.x), list(trace.y)) for trace in seen if trace.type == "scatter" and trace.mode == "markers"}
            assert marks == {f"{NAMES[m]} {line[pruned]:.1%}": ([pruned], [line[pruned]]) for m, line in wanted.items()}
            assert step.label == f"{pruned} of 72"
        lines = [trace for trace in traces if trace.type == "scatter" and trace.mode == "lines"]
        assert sorted(tuple(line.y) for line in lines) == sorted(tuple(line.values()) for line in wanted.values())
        (thick,) = [line for line in lines if line.line.width == max(line.line.width for line in lines)]
        assert tuple(thick.y) == tuple(wanted[method].values())


@pytest.mark.parametrize("sample", [0, 1])
def test_the_grid_greys_as_heads_go_and_the_accuracies_are_those_of_the_table(table: pandas.DataFrame, sample: int) -> None:
    check(pruning_slider(table, sample), table, sample)


@pytest.mark.parametrize("measure", ["importance", "accuracy"])
@pytest.mark.parametrize("spoil", [np.zeros_like, lambda values: values[::-1]], ids=["zeroed", "permuted"])
def test_a_slider_of_other_numbers_would_be_noticed(table: pandas.DataFrame, measure: str, spoil: object) -> None:
    other = table.copy()
    for _, rows in table[table.measure == measure].groupby(["method", "sample"]):
        other.loc[rows.index, "value"] = spoil(rows.value.to_numpy())  # type: ignore[operator]
    with pytest.raises(AssertionError):
        check(pruning_slider(other, 1), table, 1)


def test_the_words_have_the_numbers_that_matter(table: pandas.DataFrame) -> None:
    alt, wanted = pruning_slider(table, 1).layout.meta["alt"], accuracies(table, 1)
    for pruned in (36, 64):
        told = ", ".join(f"{NAMES[method]} {wanted[method][pruned]:.1%}" for method in NAMES if method in wanted)
        assert f"With {pruned} of 72 heads pruned by {told}." in alt
    layer, head = divmod(int(importance(table, "attribution", 1).argmax()), 12)
    assert f"The most important by attribution: layer {layer}, head {head} (" in alt


def test_it_opens_at_half_of_the_heads_by_attribution_and_is_small(table: pandas.DataFrame) -> None:
    figure = pruning_slider(table, 1)
    (slider,) = figure.layout.sliders
    assert slider.steps[slider.active].label == "36 of 72"
    assert [trace.visible for trace in figure.data] == list(slider.steps[slider.active].args[0]["visible"])
    assert np.asarray(figure.data[0].z, float) == pytest.approx(importance(table, "attribution", 1).numpy(), rel=1e-5)
    assert len(figure.to_json()) < 60_000
    assert "min_width" not in figure.layout.meta


def test_an_importance_below_zero_is_drawn_around_zero(table: pandas.DataFrame) -> None:
    grid = chosen(pruning_slider(table, 0), "accuracy difference")[0]
    assert np.asarray(grid.z, float).min() < 0
    assert grid.zmin == -grid.zmax


def test_a_sample_that_was_not_measured_and_another_table_are_refused(table: pandas.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"on sample 7: there is \[0, 1, 2, 3, 4\]"):
        pruning_slider(table, sample=7)
    with pytest.raises(ValueError, match=r"without the columns .*'layer', 'measure'"):
        pruning_slider(attattr.result("fig5-sst2", "accuracy"))
