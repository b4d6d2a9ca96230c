"""Figures of chapter 10 for one sentence: views are read from the right rows, flow is the maximum flow, each source has its cone."""

from __future__ import annotations

import dataclasses
from itertools import product

import networkx as nx
import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from attattr.attribution import Attribution
from attattr.figures import maximum_flow_figure, views_figure
from attattr.figures.views import BARS, WORDS

TOKENS = ("[CLS]", "a", "warm", "film", ".", "[SEP]")
VIEWS = ("attention", "rollout", "flow", "attribution")


def made(seed=0, layers=3, heads=2, tokens=TOKENS, text="a warm film ."):
    """An attribution of random numbers, read from the first token."""
    generator, n = torch.Generator().manual_seed(seed), len(tokens)
    attention = (3 * torch.randn(layers, heads, n, n, generator=generator)).softmax(-1)
    scores = torch.randn(layers, heads, n, n, generator=generator)
    scores[-1, :, 1:] = 0
    zeros = torch.zeros(layers)
    return Attribution(
        scores=scores, attention=attention, tokens=tuple(tokens), text=text, target=1, label="positive",
        probabilities=torch.tensor([0.25, 0.75]), difference=zeros, completeness=zeros, error=zeros, evaluations=zeros.int(),
        method="riemann", tolerance=0.01,
    )  # fmt: skip


def adjusted(attention) -> np.ndarray:
    """Ã by itself."""
    mean = attention.double().mean(1).numpy()
    return mean / 2 + np.eye(mean.shape[-1]) / 2


def flow_by_networkx(a: np.ndarray) -> np.ndarray:
    """The maximum flow from every node of every layer to every input token."""
    layers, n, _ = a.shape
    graph = nx.DiGraph()
    for layer, i, j in product(range(layers), range(n), range(n)):
        graph.add_edge((layer + 1, i), (layer, j), capacity=a[layer, i, j])
    found = np.zeros_like(a)
    for layer, i, j in product(range(layers), range(n), range(n)):
        found[layer, i, j] = nx.maximum_flow_value(graph, (layer + 1, i), (0, j))
    return found


def heatmaps(figure, start):
    return {name: figure.data[start + k] for k, name in enumerate(VIEWS)}


def expected_views(att) -> dict[str, np.ndarray]:
    a = adjusted(att.attention)
    rolled = [a[0]]
    for of_layer in a[1:]:
        rolled.append(of_layer @ rolled[-1])
    flow = flow_by_networkx(a)
    return {
        "attention": att.attention.double().numpy().mean(1)[:, 0].T,
        "rollout": np.stack(rolled)[:, 0].T,
        "flow": (flow / flow.sum(-1, keepdims=True))[:, 0].T,
        "attribution": att.scores.double().numpy().sum((1, 2)).T,
    }


def test_each_view_is_what_the_classifiers_token_sees_layer_by_layer():
    att = made()
    maps, expected = heatmaps(views_figure(att), 0), expected_views(att)
    for name in VIEWS:
        assert np.array(maps[name].z, float) == pytest.approx(expected[name], rel=6e-3, abs=1e-6), name
        assert list(maps[name].x) == ["1", "2", "3"]
        assert maps[name].visible and name in maps[name].hovertemplate


def test_attribution_can_be_read_in_the_classifiers_row_alone():
    att = made(1)
    trace = heatmaps(views_figure(att, all_rows=False), 0)["attribution"]
    assert np.array(trace.z, float) == pytest.approx(att.scores.sum(1)[:, 0].T.numpy(), rel=6e-3)
    assert np.array(trace.z, float)[:, 0] != pytest.approx(att.scores.sum((1, 2))[0].numpy(), rel=0.1)


def test_colours_end_at_the_largest_word_and_are_centred_for_attribution_only():
    att = made(2)
    figure, words = views_figure(att), [1, 2, 3, 4]
    for number, (name, trace) in enumerate(heatmaps(figure, 0).items()):
        largest = np.abs(np.array(trace.z, float)[words]).max()
        assert trace.zmax == pytest.approx(largest, rel=0.06)
        signed = name == "attribution"
        assert trace.zmin == (-trace.zmax if signed else 0)
        said = figure.layout.annotations[number].text
        assert said == f"<b>{name}</b><br>" + (f"±{trace.zmax:g}" if signed else f"0 … {trace.zmax:g}")
    assert (np.array(heatmaps(figure, 0)["flow"].z, float)[[0, 5]] > 0).all()


def test_words_only_blanks_special_tokens_and_columns_sum_to_one():
    figure = views_figure(made(3))
    button = figure.layout.updatemenus[0].buttons[1]
    assert button.label == WORDS
    assert list(button.args[0]["visible"]) == [False] * 4 + [True] * 4
    assert [button.args[1][f"annotations[{k}].visible"] for k in range(8)] == [False] * 4 + [True] * 4
    for name, trace in heatmaps(figure, 4).items():
        z = np.array(trace.z, float)
        assert np.isnan(z[[0, 5]]).all() and not trace.visible
        if name != "attribution":
            assert z[1:5].sum(0) == pytest.approx(np.ones(3), abs=3e-3)
            whole = np.array(heatmaps(figure, 0)[name].z, float)[1:5]
            assert z[1:5] == pytest.approx(whole / whole.sum(0), rel=2e-2)


def test_special_tokens_are_marked_and_repeated_words_keep_their_rows():
    att = made(tokens=("[CLS]", "a", "[SEP]", "a", "b", "[SEP]"), text=("a", "a b"))
    figure = views_figure(att)
    labels = figure.layout.yaxis.ticktext
    assert [label.startswith("<span") for label in labels] == [True, False, True, False, False, True]
    assert len(set(figure.data[0].y)) == 6
    assert "“a / a b”" in figure.layout.meta["alt"]


def test_some_layers_can_be_shown():
    att = made(4)
    whole, some = (np.array(views_figure(att, layers).data[1].z, float) for layers in (None, [0, 2]))
    assert (some == whole[:, [0, 2]]).all()
    assert list(views_figure(att, [0, 2]).data[0].x) == ["1", "3"]


@pytest.mark.parametrize("layers", [[], [2, 1], [0, 0], [-1], [3]])
def test_layers_that_there_are_not_are_refused(layers):
    with pytest.raises(ValueError, match="expected ascending numbers from 0 to 2"):
        views_figure(made(), layers)


def test_views_of_no_word_and_of_several_readers_are_refused():
    with pytest.raises(ValueError, match="at least one word"):
        views_figure(made(tokens=("[CLS]", "[SEP]")))
    att = made()
    with pytest.raises(ValueError, match="expected one"):
        views_figure(dataclasses.replace(att, scores=torch.ones_like(att.scores)))


def test_the_views_in_words_name_the_word_of_the_last_layer():
    att = made(5)
    alt = views_figure(att).layout.meta["alt"]
    values = expected_views(att)["rollout"]
    word = 1 + int(values[1:5, -1].argmax())
    assert f"rollout: most to “{TOKENS[word]}”, {values[word, -1]:.2g}" in alt
    assert "where positive is decided" in alt


def test_views_of_24_tokens_in_12_layers_are_small():
    att = made(layers=12, tokens=("[CLS]", *(f"word{i}" for i in range(22)), "[SEP]"))
    assert len(views_figure(att).to_json()) < 60_000


@pytest.fixture(scope="module")
def att() -> Attribution:
    return made(6)


@pytest.fixture(scope="module")
def figure(att) -> go.Figure:
    return maximum_flow_figure(att.attention, att.tokens)


def bars(figure) -> dict[str, np.ndarray]:
    """Heights by source layer, source token and input token, NaN where there is no bar."""
    found, n = {}, len(TOKENS)
    for kind, (_, name) in BARS.items():
        (trace,) = (trace for trace in figure.data if trace.type == "bar" and trace.name == name)
        values = np.full((3, n, n), np.nan)
        for x, base, y in zip(trace.x, trace.base, trace.y, strict=True):
            values[base // 2, x // (n + 2), x % (n + 2)] = y
        found[kind] = values
    return found


def test_bars_are_the_maximum_flow_rollout_and_bound_of_every_source(att, figure):
    a, found = adjusted(att.attention), bars(figure)
    flow = np.where(np.isnan(found["flow"]), found["full"], found["flow"])
    assert flow == pytest.approx(flow_by_networkx(a), abs=1e-5)
    rolled = [a[0]]
    for of_layer in a[1:]:
        rolled.append(of_layer @ rolled[-1])
    assert found["rollout"] == pytest.approx(np.stack(rolled), abs=1e-5)
    (ticks,) = (trace for trace in figure.data if (trace.name or "").startswith("bound"))
    bound = np.minimum(1, a[0].sum(0))
    assert np.asarray(ticks.y) - 2 * np.repeat(range(3), 36) == pytest.approx(np.tile(bound, 18), abs=1e-5)


def test_a_bar_is_of_the_other_colour_exactly_where_flow_equals_its_bound(att, figure):
    a, found = adjusted(att.attention), bars(figure)
    full = flow_by_networkx(a) >= np.minimum(1, a[0].sum(0)) - 1e-6
    assert (~np.isnan(found["full"]) == full).all() and (np.isnan(found["flow"]) == full).all()
    assert full.any() and not full.all()  # so that this shows something


def test_the_slider_shows_the_cone_and_the_bars_of_its_source(att, figure):
    a, n = adjusted(att.attention), len(TOKENS)
    steps = figure.layout.sliders[0].steps
    assert [step.label for step in steps] == list(TOKENS)
    for source, step in enumerate(steps):
        assert list(step.args[1]["xaxis2.range"]) == pytest.approx([source * (n + 2) - 0.7, source * (n + 2) + n - 0.3])
        expected = set()
        graph = nx.DiGraph()
        for layer, i, j in np.argwhere(a >= 0.05).tolist():
            graph.add_edge((layer + 1, i), (layer, j))
        for layer in range(3):
            below = nx.descendants(graph, (layer + 1, source)) | {(layer + 1, source)}
            expected |= {(layer, u, v) for u, v in graph.edges if u in below}
        assert drawn(figure, step.args[0]["visible"]) == expected
        marks = [
            t for t, on in zip(figure.data, step.args[0]["visible"], strict=True) if on and t.type == "scatter" and t.marker.size == 17
        ]
        assert [(mark.x[0], list(mark.y)) for mark in marks] == [(source, [1, 7, 13])]


def drawn(figure, visible) -> set:
    """The edges of the visible traces: the layer of their source, and both ends."""
    edges = []
    for trace, on in zip(figure.data, visible, strict=True):
        if on and trace.type == "scatter" and trace.mode == "lines":
            x, y = np.asarray(trace.x).reshape(-1, 3), np.asarray(trace.y).reshape(-1, 3)
            for (i, j, _), (high, low, _) in zip(x, y, strict=True):
                edges.append((int(low // 5), (int(high % 5), int(i)), (int(low % 5), int(j))))
    assert len(edges) == len(set(edges))
    return set(edges)


def test_a_wider_line_is_a_larger_weight_and_residual_edges_are_grey(att, figure):
    a, widths = adjusted(att.attention), {}
    for trace in figure.data:
        if trace.type == "scatter" and trace.mode == "lines":
            for i, j, low in zip(trace.x[::3], trace.x[1::3], trace.y[1::3], strict=True):
                i, j = int(i), int(j)
                widths[float(a[int(low % 5), i, j])] = trace.line.width
                assert (trace.line.color == "#bdbcb8") == (i == j)
    ordered = [widths[weight] for weight in sorted(widths)]
    assert ordered == sorted(ordered) and len(set(ordered)) == 4


def test_the_menu_moves_both_windows_to_the_layer(figure):
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["1", "2", "3 (top)"]
    for layer, button in enumerate(buttons):
        low, high = button.args[0]["yaxis.range"]
        assert low < layer * 5 and (layer + 1) * 5 > high > layer * 5 + 3
        assert list(button.args[0]["yaxis2.range"]) == [2 * layer, 2 * layer + 1.06]


def test_it_starts_at_the_node_asked_for(att):
    figure = maximum_flow_figure(att.attention, att.tokens, node=(1, 2))
    slider, menu = figure.layout.sliders[0], figure.layout.updatemenus[0]
    assert (slider.active, menu.active) == (2, 1)
    assert [trace.visible for trace in figure.data] == list(slider.steps[2].args[0]["visible"])
    assert list(figure.layout.yaxis.range) == list(menu.buttons[1].args[0]["yaxis.range"])
    assert list(figure.layout.xaxis2.range) == list(slider.steps[2].args[1]["xaxis2.range"])
    assert maximum_flow_figure(att.attention, att.tokens, node=(-2, -4)) == figure


def test_the_flow_in_words_counts_what_is_at_its_bound(att, figure):
    a = adjusted(att.attention)
    full = flow_by_networkx(a)[2] >= np.minimum(1, a[0].sum(0)) - 1e-6
    alt = figure.layout.meta["alt"]
    assert f"{full[0].sum()} of 6 flows equal their bound" in alt and f"{full.mean():.0%} do" in alt
    assert "“[CLS]” after layer 3" in alt


def test_heads_averaged_before_make_the_same_figure(att, figure):
    assert maximum_flow_figure(att.attention.mean(1), att.tokens).data[-2].y == pytest.approx(figure.data[-2].y, abs=1e-5)


def test_twelve_tokens_in_six_layers_stay_under_200_kilobytes():
    generator = torch.Generator().manual_seed(0)
    attention = (1.5 * torch.randn(6, 12, 12, 12, generator=generator)).softmax(-1)
    assert len(maximum_flow_figure(attention, [f"word{i}" for i in range(12)], least=0.06).to_json()) < 200_000


def test_one_token_is_drawn():
    figure = maximum_flow_figure(torch.ones(2, 1, 1), ["only"])
    assert "1 of 1 flows" in figure.layout.meta["alt"]


@pytest.mark.parametrize("node", [(3, 0), (-4, 0), (0, 6), (0, -7)])
def test_a_node_that_is_none_is_refused(att, node):
    with pytest.raises(ValueError, match="expected a layer from 0 to 2 and the place of a token from 0 to 5"):
        maximum_flow_figure(att.attention, att.tokens, node=node)


@pytest.mark.parametrize("least", [0.0, -0.1, 0.51, float("nan")])
def test_a_smallest_weight_out_of_range_is_refused(att, least):
    with pytest.raises(ValueError, match="least="):
        maximum_flow_figure(att.attention, att.tokens, least=least)


def test_other_tokens_and_scores_for_attention_are_refused(att):
    with pytest.raises(ValueError, match="5 tokens for attention among 6"):
        maximum_flow_figure(att.attention, att.tokens[:5])
    with pytest.raises(ValueError, match="scores_as_attention"):
        maximum_flow_figure(att.scores, att.tokens)
    with pytest.raises(TypeError):
        maximum_flow_figure(att.attention.numpy(), att.tokens)
