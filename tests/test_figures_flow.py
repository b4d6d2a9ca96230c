"""The figure of chapter 4: each position of its slider draws the graph of its τ, from edges stored once; and the graph in sentences."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import attattr
from attattr.attribution import Attribution
from attattr.figures import flow_figure, graph_sentences
from attattr.figures.flow import TAUS
from attattr.graph import attribution_graph

PAIR = (
    "The old ferry still leaves the harbour every morning at six, although hardly any of the islanders take it to work now.",
    "Nobody on the island uses the ferry to get to their job.",
)


def made(scores, tokens=None, text="made"):
    """An attribution with these scores, L N N, in one head."""
    scores = torch.as_tensor(np.asarray(scores), dtype=torch.float32)[:, None]
    layers, _, n, _ = scores.shape
    tokens = tokens or ("[CLS]", *(f"w{i}" for i in range(1, n - 1)), "[SEP]")[:n]
    zeros = torch.zeros(layers)
    return Attribution(
        scores=scores, attention=torch.full_like(scores, 1 / n), tokens=tuple(tokens), text=text, target=1, label="yes",
        probabilities=torch.tensor([0.25, 0.75]), difference=zeros, completeness=zeros, error=zeros, evaluations=zeros.int(),
        method="riemann", tolerance=0.01,
    )  # fmt: skip


def random_attribution(seed, layers=4, n=9):
    return made(np.random.default_rng(seed).normal(size=(layers, n, n)) ** 3)


@pytest.fixture(scope="module")
def pair() -> Attribution:
    """A decision of the embedded MNLI model about 40 tokens."""
    model, tokenizer = attattr.load("mnli")
    att = attattr.attribute(model, tokenizer, PAIR, steps=4)
    assert len(att.tokens) in range(38, 43)
    return att


def drawn(trace: go.Scatter) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The edges of a trace of curves: the pieces between its gaps, upper end first."""
    points = np.stack([np.asarray(trace.x), np.asarray(trace.y)], 1)
    pieces = np.split(points, np.flatnonzero(np.isnan(points[:, 0])) + 1)[:-1]
    return [((int(piece[-2, 1]), int(piece[-2, 0])), (int(piece[0, 1]), int(piece[0, 0]))) for piece in pieces]


def curves(figure: go.Figure) -> dict[int, list]:
    return {number: drawn(trace) for number, trace in enumerate(figure.data) if trace.line.shape == "spline"}


def attention_edges(graph):
    return {(u, v) for u, v, kind in graph.edges(data="kind") if kind == "attention"}


def check_positions(att, figure, taus):
    traces = curves(figure)
    assert len(figure.layout.sliders[0].steps) == len(taus)
    for tau, step in zip(taus, figure.layout.sliders[0].steps, strict=True):
        visible = step.args[0]["visible"]
        assert len(visible) == len(figure.data)
        shown = [edge for number, edges in traces.items() if visible[number] for edge in edges]
        assert len(shown) == len(set(shown))
        assert set(shown) == attention_edges(attribution_graph(att, tau))
        hovers = sum(len(trace.x) for trace, seen in zip(figure.data, visible, strict=True) if seen and trace.hovertemplate)
        assert hovers == len(shown)
        assert step.label == f"{tau:g}: {len(shown)} edges"


@pytest.mark.parametrize("seed", range(6))
def test_each_position_of_the_slider_draws_the_graph_of_its_tau(seed):
    att = random_attribution(seed)
    check_positions(att, flow_figure(att), TAUS)


def test_the_graph_of_a_higher_tau_is_no_part_of_a_lower_ones_so_that_the_test_above_shows_something():
    att = random_attribution(0)
    graphs = [attention_edges(attribution_graph(att, tau)) for tau in TAUS]
    assert any(not high <= low for low, high in itertools.pairwise(graphs))


def test_every_edge_is_stored_once():
    att = random_attribution(1)
    edges = [edge for found in curves(flow_figure(att)).values() for edge in found]
    assert len(edges) == len(set(edges))
    assert set(edges) == set().union(*(attention_edges(attribution_graph(att, tau)) for tau in TAUS))


def test_it_starts_at_the_active_position():
    figure = flow_figure(random_attribution(2), taus=(0.2, 0.7), active=1)
    assert [trace.visible for trace in figure.data] == list(figure.layout.sliders[0].steps[1].args[0]["visible"])
    assert figure.layout.sliders[0].active == 1


@pytest.mark.parametrize("position", range(len(TAUS)))
def test_residual_edges_and_nodes_are_those_of_the_graph(position):
    att = random_attribution(3)
    figure, graph = flow_figure(att), attribution_graph(att, TAUS[position])
    visible = figure.layout.sliders[0].steps[position].args[0]["visible"]
    shown = [trace for trace, seen in zip(figure.data, visible, strict=True) if seen][1:-1]  # without grid and terminal
    verticals = [edge for t in shown if t.mode == "lines" and t.line.shape != "spline" for edge in drawn(t)]
    assert sorted(verticals) == sorted((u, v) for u, v, kind in graph.edges(data="kind") if kind == "residual")
    dots = [node for t in shown if t.mode == "markers" and not t.hovertemplate for node in zip(t.y, t.x, strict=True)]
    assert sorted(dots) == sorted(graph.nodes)


def test_width_and_opacity_follow_the_share_in_the_layers_maximum():
    a = np.zeros((2, 4, 4))
    a[1, 0, 1], a[1, 0, 2] = 1.0, 0.3
    a[0, 1, 2] = 0.001  # weak, but the strongest of its layer
    figure = flow_figure(made(a))
    style = {
        edge: (figure.data[number].line.width, figure.data[number].opacity) for number, edges in curves(figure).items() for edge in edges
    }
    strong, weak, below = style[(2, 0), (1, 1)], style[(2, 0), (1, 2)], style[(1, 1), (0, 2)]
    assert strong == below
    assert strong[0] > 2 * weak[0] and strong[1] > 1.5 * weak[1]


def test_the_pointer_is_told_layer_head_words_and_score():
    a = np.zeros((1, 3, 3))
    a[0, 0, 1] = 0.123
    (trace,) = (trace for trace in flow_figure(made(a, ("[CLS]", "dull", "[SEP]"))).data if trace.hovertemplate)
    assert list(trace.customdata[0]) == [1, 0, "[CLS]", "dull", 0.12]
    assert 0 < trace.x[0] < 0.5 or 0.5 < trace.x[0] < 1  # on the curve, not in its middle


def test_a_pair_of_forty_tokens_is_small_and_exact(pair: Attribution):
    figure = flow_figure(pair)
    assert len(figure.to_json()) < 200_000
    assert figure.layout.meta["min_width"] > 14 * len(pair.tokens)
    assert figure.layout.xaxis.tickangle == -90
    check_positions(pair, figure, TAUS)


def test_premise_and_hypothesis_are_told_apart(pair: Attribution):
    figure = flow_figure(pair)
    split = pair.tokens.index("[SEP]") + 1
    first, second = figure.layout.shapes
    assert (first.x0, first.x1, second.x0, second.x1) == (0.5, split - 0.5, split - 0.5, len(pair.tokens) - 0.5)
    assert first.fillcolor != second.fillcolor
    assert [note.text for note in figure.layout.annotations[:2]] == ["premise", "hypothesis"]
    labels = figure.layout.xaxis.ticktext
    assert labels[0] == "[CLS]"
    colors = [re.search(r"color:(#\w+)", label)[1] for label in labels[1:]]
    assert len(set(colors[: split - 1])) == len(set(colors[split - 1 :])) == 1 and colors[0] != colors[-1]


def test_pairs_of_another_task_are_first_and_second_text_and_one_text_has_no_bands():
    tokens = ("[CLS]", "a", "[SEP]", "b", "[SEP]")
    scores = np.random.default_rng(0).random((2, 5, 5))
    figure = flow_figure(made(scores, tokens, ("a", "b")))
    assert [note.text for note in figure.layout.annotations[:2]] == ["first text", "second text"]
    assert not flow_figure(made(scores, tokens)).layout.shapes
    assert not flow_figure(made(scores, ("[CLS]", *"abcd"), ("a", "b"))).layout.shapes  # nothing splits them


def test_it_says_what_was_decided_and_what_there_is_to_see():
    figure = flow_figure(random_attribution(4))
    assert figure.layout.annotations[-1].text == "[CLS] decides: <b>yes, p = 0.750</b>"
    alt = figure.layout.meta["alt"]
    assert "“made”" in alt and "yes, p = 0.750" in alt and "At τ = 0.4" in alt
    assert graph_sentences(attribution_graph(random_attribution(4), 0.4)) in alt
    assert "min_width" not in figure.layout.meta and figure.layout.width is None and figure.layout.title.text is None


def test_tiny_and_empty_attributions_are_drawn():
    assert curves(flow_figure(made(np.zeros((2, 3, 3))))) == {}
    assert "residual edges only" in flow_figure(made(np.zeros((2, 3, 3)))).layout.meta["alt"]
    assert len(curves(flow_figure(made(np.ones((2, 1, 1)), ("[CLS]",))))) == 1


def test_another_terminal_is_drawn_where_it_stands():
    att = dataclasses.replace(random_attribution(5), tokens=tuple("abcdefghi"))
    goal = flow_figure(att, terminal=8).data[-1]
    assert (goal.x, goal.y) == ((8,), (4,))
    with pytest.raises(ValueError, match=r"no \[CLS\]"):
        flow_figure(att)


@pytest.mark.parametrize("taus", [(), (0.4, 0.2), (0.1, 0.1), (-0.1, 0.5), (0.5, 1.1), (float("nan"),)])
def test_thresholds_that_make_no_slider_are_refused(taus):
    with pytest.raises(ValueError, match="expected thresholds that ascend within 0 to 1"):
        flow_figure(random_attribution(0), taus=taus, active=0)


@pytest.mark.parametrize("active", [-1, 10])
def test_a_start_off_the_slider_is_refused(active):
    with pytest.raises(ValueError, match="place of one of 10 thresholds"):
        flow_figure(random_attribution(0), active=active)


def by_hand():
    a = np.zeros((2, 5, 5))
    a[1, 0, 1], a[1, 0, 2] = 0.21, 0.104
    a[0, 1, 2], a[0, 1, 3], a[0, 2, 3] = 0.0021, 0.002, 0.0015
    return attribution_graph(made(a, ("[CLS]", "never", "dull", "never", "[SEP]")), tau=0.4)


def test_the_graph_in_sentences():
    assert graph_sentences(by_hand()) == (
        "In layer 2, [CLS] reads “never ·1” (0.21, most in head 0) and “dull” (0.10). "
        "In layer 1, “never ·1” reads “dull” (0.002, most in head 0) and “never ·3” (0.002); "
        "“dull” reads “never ·3” (0.002, most in head 0)."
    )


def test_few_sentences_tell_the_strongest_of_every_layer():
    assert graph_sentences(by_hand(), count=2) == (
        "In layer 2, [CLS] reads “never ·1” (0.21, most in head 0). In layer 1, “never ·1” reads “dull” (0.002, most in head 0). "
        "3 more edges are weaker in their layers."
    )
    assert "1 more edge is weaker in its layer." in graph_sentences(by_hand(), count=4)


def test_no_sentence_is_refused_and_no_edge_is_said():
    with pytest.raises(ValueError, match="count=0"):
        graph_sentences(by_hand(), count=0)
    assert "residual edges only" in graph_sentences(attribution_graph(made(np.zeros((2, 3, 3)))))
