"""The attribution graph: each position of its slider draws the graph of its τ, from edges stored once; also in sentences. And the
graph of attention flow: bars are the maximum flow of the source that menu and slider choose."""

from __future__ import annotations

import dataclasses
import html
import itertools
import re

import networkx as nx
import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import attattr
from attattr.attribution import Attribution
from attattr.figures import graph_figure, graph_sentences, maximum_flow_figure
from attattr.figures.graphs import TAIL, TAUS
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
    points = np.stack([np.asarray(trace.x, float), np.asarray(trace.y, float)], 1)
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
    check_positions(att, graph_figure(att), TAUS)


def test_the_graph_of_a_higher_tau_is_no_part_of_a_lower_ones_so_that_the_test_above_shows_something():
    att = random_attribution(0)
    graphs = [attention_edges(attribution_graph(att, tau)) for tau in TAUS]
    assert any(not high <= low for low, high in itertools.pairwise(graphs))


def test_every_edge_is_stored_once():
    att = random_attribution(1)
    edges = [edge for found in curves(graph_figure(att)).values() for edge in found]
    assert len(edges) == len(set(edges))
    assert set(edges) == set().union(*(attention_edges(attribution_graph(att, tau)) for tau in TAUS))


def test_it_starts_at_the_active_position():
    figure = graph_figure(random_attribution(2), taus=(0.2, 0.7), active=1)
    assert [trace.visible for trace in figure.data] == list(figure.layout.sliders[0].steps[1].args[0]["visible"])
    assert figure.layout.sliders[0].active == 1


@pytest.mark.parametrize("position", range(len(TAUS)))
def test_residual_edges_and_nodes_are_those_of_the_graph(position):
    att = random_attribution(3)
    figure, graph = graph_figure(att), attribution_graph(att, TAUS[position])
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
    figure = graph_figure(made(a))
    style = {
        edge: (figure.data[number].line.width, figure.data[number].opacity) for number, edges in curves(figure).items() for edge in edges
    }
    strong, weak, below = style[(2, 0), (1, 1)], style[(2, 0), (1, 2)], style[(1, 1), (0, 2)]
    assert strong == below
    assert strong[0] > 2 * weak[0] and strong[1] > 1.5 * weak[1]


def test_the_pointer_is_told_layer_head_words_and_score():
    a = np.zeros((1, 3, 3))
    a[0, 0, 1] = 0.123
    (trace,) = (trace for trace in graph_figure(made(a, ("[CLS]", "dull", "[SEP]"))).data if trace.hovertemplate)
    assert list(trace.customdata[0]) == [0, 0, "[CLS]", "dull", 0.12]
    assert 0 < trace.x[0] < 0.5 or 0.5 < trace.x[0] < 1  # on the curve, not in its middle


def test_a_pair_of_forty_tokens_is_small_and_exact(pair: Attribution):
    figure = graph_figure(pair)
    assert len(figure.to_json()) < 200_000
    assert figure.layout.meta["min_width"] > 14 * len(pair.tokens)
    assert figure.layout.xaxis.tickangle == -90
    check_positions(pair, figure, TAUS)


def test_premise_and_hypothesis_are_told_apart(pair: Attribution):
    figure = graph_figure(pair)
    split = pair.tokens.index("[SEP]") + 1
    first, second = figure.layout.shapes
    assert (first.x0, first.x1, second.x0, second.x1) == (0.5, split - 0.5, split - 0.5, len(pair.tokens) - 0.5)
    assert first.fillcolor != second.fillcolor
    assert [note.text for note in figure.layout.annotations[:2]] == ["premise", "hypothesis"]
    labels = figure.layout.xaxis.ticktext
    assert labels[0] == "[CLS]"
    colors = [re.search(r"color:(#\w+)", label)[1] for label in labels[1:]]
    assert figure.layout.yaxis.ticktext == tuple("012345") and figure.layout.yaxis.tickvals[0] == 0.5
    assert len(set(colors[: split - 1])) == len(set(colors[split - 1 :])) == 1 and colors[0] != colors[-1]


def test_pairs_of_another_task_are_first_and_second_text_and_one_text_has_no_bands():
    tokens = ("[CLS]", "a", "[SEP]", "b", "[SEP]")
    scores = np.random.default_rng(0).random((2, 5, 5))
    figure = graph_figure(made(scores, tokens, ("a", "b")))
    assert [note.text for note in figure.layout.annotations[:2]] == ["first text", "second text"]
    assert not graph_figure(made(scores, tokens)).layout.shapes
    assert not graph_figure(made(scores, ("[CLS]", *"abcd"), ("a", "b"))).layout.shapes  # nothing splits them


def test_it_says_what_was_decided_and_what_there_is_to_see():
    figure = graph_figure(random_attribution(4))
    assert figure.layout.annotations[-1].text == "[CLS] decides: <b>yes, p = 0.750</b>"
    alt = figure.layout.meta["alt"]
    assert "“made”" in alt and "yes, p = 0.750" in alt and "At τ = 0.4" in alt
    assert graph_sentences(attribution_graph(random_attribution(4), 0.4)) in alt
    assert "min_width" not in figure.layout.meta and figure.layout.width is None and figure.layout.title.text is None


def test_tiny_and_empty_attributions_are_drawn():
    assert curves(graph_figure(made(np.zeros((2, 3, 3))))) == {}
    assert "residual edges only" in graph_figure(made(np.zeros((2, 3, 3)))).layout.meta["alt"]
    assert len(curves(graph_figure(made(np.ones((2, 1, 1)), ("[CLS]",))))) == 1


def test_another_terminal_is_drawn_where_it_stands():
    att = dataclasses.replace(random_attribution(5), tokens=tuple("abcdefghi"))
    goal = graph_figure(att, terminal=8).data[-1]
    assert (goal.x, goal.y) == ((8,), (4,))
    with pytest.raises(ValueError, match=r"terminal=None: expected the place of one of .* \[CLS\]"):
        graph_figure(att)


@pytest.mark.parametrize("taus", [(), (0.4, 0.2), (0.1, 0.1), (-0.1, 0.5), (0.5, 1.1), (float("nan"),)])
def test_thresholds_that_make_no_slider_are_refused(taus):
    with pytest.raises(ValueError, match="expected thresholds that ascend within 0 to 1"):
        graph_figure(random_attribution(0), taus=taus, active=0)


@pytest.mark.parametrize("active", [-1, 10])
def test_a_start_off_the_slider_is_refused(active):
    with pytest.raises(ValueError, match="place of one of 10 thresholds"):
        graph_figure(random_attribution(0), active=active)


def by_hand():
    a = np.zeros((2, 5, 5))
    a[1, 0, 1], a[1, 0, 2] = 0.21, 0.104
    a[0, 1, 2], a[0, 1, 3], a[0, 2, 3] = 0.0021, 0.002, 0.0015
    return attribution_graph(made(a, ("[CLS]", "never", "dull", "never", "[SEP]")), tau=0.4)


def test_the_graph_in_sentences():
    assert graph_sentences(by_hand()) == (
        "In layer 1, [CLS] reads “never ·1” (0.21, most in head 0) and “dull” (0.10). "
        "In layer 0, “never ·1” reads “dull” (0.002, most in head 0) and “never ·3” (0.002); "
        "“dull” reads “never ·3” (0.002, most in head 0)."
    )


def test_few_sentences_tell_the_strongest_of_every_layer():
    assert graph_sentences(by_hand(), count=2) == (
        "In layer 1, [CLS] reads “never ·1” (0.21, most in head 0). In layer 0, “never ·1” reads “dull” (0.002, most in head 0). "
        "3 more edges are weaker in their layers."
    )
    assert "1 more edge is weaker in its layer." in graph_sentences(by_hand(), count=4)


def test_no_sentence_is_refused_and_no_edge_is_said():
    with pytest.raises(ValueError, match="count=0"):
        graph_sentences(by_hand(), count=0)
    assert "residual edges only" in graph_sentences(attribution_graph(made(np.zeros((2, 3, 3)))))


def test_words_that_hold_numbers_or_markup_stand_at_their_places():
    tokens = ("[CLS]", "won", "3", "2", "<s>", "2")
    axis = graph_figure(made(np.ones((2, 6, 6)), tokens)).layout.xaxis
    assert (axis.type, axis.tickvals) == ("linear", (0, 1, 2, 3, 4, 5))
    assert axis.ticktext == ("[CLS]", "won", "3", "2 ·3", "&lt;s&gt;", "2 ·5")


N, LAYERS = 6, 3
WORDS = ("[CLS]", "a", "warm", "2", "<s>", "[SEP]")


@pytest.fixture(scope="module")
def attention() -> torch.Tensor:
    """Attention of two heads, sharp enough for some flows to reach their bound, and some not."""
    return (3 * torch.randn(LAYERS, 2, N, N, generator=torch.Generator().manual_seed(6))).softmax(-1)


@pytest.fixture(scope="module")
def flows(attention) -> go.Figure:
    return maximum_flow_figure(attention, WORDS)


def adjusted(attention) -> np.ndarray:
    """Ã by itself."""
    return attention.double().mean(1).numpy() / 2 + np.eye(N) / 2


@pytest.fixture(scope="module")
def flow(attention) -> np.ndarray:
    """The maximum flow from every node of every layer to every input token, by networkx."""
    a = adjusted(attention)
    graph = nx.DiGraph()
    for layer, i, j in np.ndindex(a.shape):
        graph.add_edge((layer + 1, i), (layer, j), capacity=a[layer, i, j])
    found = np.zeros_like(a)
    for layer, i, j in np.ndindex(a.shape):
        found[layer, i, j] = nx.maximum_flow_value(graph, (layer + 1, i), (0, j))
    return found


def chosen(figure: go.Figure, layer: int, token: int) -> list[dict]:
    """The traces that are seen when menu and slider stand here, as the page's script applies them."""
    traces = [trace.to_plotly_json() for trace in figure.data]
    ((name,), _) = figure.layout.updatemenus[0].buttons[layer].args
    (frame,) = (frame for frame in figure.frames if frame.name == name)
    for place, changed in zip(frame.traces, frame.data, strict=True):
        traces[place] |= changed.to_plotly_json()
    visible = figure.layout.sliders[0].steps[token].args[0]["visible"]
    return [trace for trace, seen in zip(traces, visible, strict=True) if seen]


def heights(traces: list[dict], name: str) -> np.ndarray:
    """The heights of the bars of a name over the input tokens; NaN where there is none."""
    (trace,) = (trace for trace in traces if trace["type"] == "bar" and trace["name"] == name)
    values = np.full(N, np.nan)
    values[list(trace["x"])] = trace["y"]
    return values


def test_menu_and_slider_choose_the_source_whose_flow_rollout_and_bound_are_drawn(attention, flow, flows):
    a = adjusted(attention)
    bound, rolled = np.minimum(1, a[0].sum(0)), [a[0]]
    for of_layer in a[1:]:
        rolled.append(of_layer @ rolled[-1])
    full = flow >= bound - 1e-6
    assert full.any() and not full.all()  # so that this shows something
    for layer, token in np.ndindex(LAYERS, N):
        traces = chosen(flows, layer, token)
        blue, orange = heights(traces, "flow"), heights(traces, "flow, at its bound")
        assert (np.isnan(blue) == full[layer, token]).all() and (np.isnan(orange) == ~full[layer, token]).all()
        assert np.where(np.isnan(blue), orange, blue) == pytest.approx(flow[layer, token], abs=2e-5)
        assert heights(traces, "rollout") == pytest.approx(rolled[layer][token], abs=2e-5)
        (ticks,) = (trace for trace in traces if trace.get("name", "").startswith("bound"))
        assert ticks["y"] == pytest.approx(bound, abs=2e-5)
        (mark,) = (trace for trace in traces if trace.get("marker", {}).get("size") == 17)
        assert (list(mark["x"]), list(mark["y"])) == ([token], [layer + 1])


def weights_drawn(traces: list[dict]) -> dict:
    """The edges that are drawn, each with the width and colour of its line."""
    found = {}
    for trace in traces:
        if trace["type"] == "scatter" and trace["mode"] == "lines":
            for to_x, x, to_y, y in zip(trace["x"][::3], trace["x"][1::3], trace["y"][::3], trace["y"][1::3], strict=True):
                assert ((y, x), (to_y, to_x)) not in found
                found[(y, x), (to_y, to_x)] = trace["line"]["width"], trace["line"]["color"]
    return found


def test_the_lines_are_the_weights_below_the_source_and_wider_where_they_are_larger(attention, flows):
    a, widths = adjusted(attention), {}
    graph = nx.DiGraph([((layer + 1, i), (layer, j)) for layer, i, j in np.argwhere(a >= 0.05).tolist()])
    for layer, token in np.ndindex(LAYERS, N):
        below = nx.descendants(graph, (layer + 1, token)) | {(layer + 1, token)}
        found = weights_drawn(chosen(flows, layer, token))
        assert set(found) == {(u, v) for u, v in graph.edges if u in below}
        for ((_, i), (low, j)), (width, color) in found.items():
            widths[a[low, i, j]] = width
            assert (color == TAIL) == (i == j)
    ordered = [widths[weight] for weight in sorted(widths)]
    assert ordered == sorted(ordered) and len(set(ordered)) == 4


def test_a_node_says_what_it_is_made_of(attention, flows):
    a = adjusted(attention)
    dots = flows.data[0]
    place = list(zip(dots.y, dots.x, strict=True)).index((2, 3))
    best = int(a[1, 3].argmax())
    assert dots.hovertext[place].startswith(f"<b>2</b>, after layer 1<br>{a[1, 3, best]:.2f} {html.escape(WORDS[best])}")


def test_flow_starts_at_the_node_asked_for(attention, flows):
    figure = maximum_flow_figure(attention, WORDS, node=(1, 2))
    assert (figure.layout.sliders[0].active, figure.layout.updatemenus[0].active) == (2, 1)
    shown = [trace.to_plotly_json() for trace in figure.data if trace.visible]
    assert heights(shown, "rollout") == pytest.approx(heights(chosen(flows, 1, 2), "rollout"))
    assert maximum_flow_figure(attention, WORDS, node=(-2, -4)) == figure
    assert [step.label for step in flows.layout.sliders[0].steps][3:5] == ["2", "&lt;s&gt;"]
    assert [button.label for button in flows.layout.updatemenus[0].buttons] == ["0", "1", "2 (top)"]
    assert flows.layout.xaxis2.ticktext == flows.layout.xaxis.ticktext == ("[CLS]", "a", "warm", "2", "&lt;s&gt;", "[SEP]")


def test_the_flow_in_words_counts_what_is_at_its_bound(attention, flow, flows):
    a = adjusted(attention)
    full = flow[2] >= np.minimum(1, a[0].sum(0)) - 1e-6
    alt = flows.layout.meta["alt"]
    assert f"{full[0].sum()} of 6 flows equal their bound" in alt and f"after layer 2, {full.mean():.0%} do" in alt
    assert "below “[CLS]” after layer 2; under it" in alt and f"Most flow: “{WORDS[flow[2, 0].argmax()]}”, {flow[2, 0].max():.2f}" in alt


def test_twelve_tokens_in_six_layers_stay_under_200_kilobytes_and_one_token_is_drawn():
    attention = (1.5 * torch.randn(6, 12, 12, 12, generator=torch.Generator().manual_seed(0))).softmax(-1)
    assert len(maximum_flow_figure(attention, [f"word{i}" for i in range(12)], least=0.06).to_json()) < 200_000
    assert "1 of 1 flows" in maximum_flow_figure(torch.ones(2, 1, 1), ["only"]).layout.meta["alt"]


@pytest.mark.parametrize("node", [(3, 0), (-4, 0), (0, 6), (0, -7)])
def test_a_source_that_is_none_is_refused(attention, node):
    with pytest.raises(ValueError, match="expected a layer from 0 to 2 and the place of a token from 0 to 5"):
        maximum_flow_figure(attention, WORDS, node=node)


@pytest.mark.parametrize("least", [0.0, -0.1, 0.51, float("nan")])
def test_a_smallest_weight_out_of_range_is_refused(attention, least):
    with pytest.raises(ValueError, match="least="):
        maximum_flow_figure(attention, WORDS, least=least)


def test_other_tokens_and_scores_for_attention_are_refused(attention):
    with pytest.raises(ValueError, match="5 tokens for attention among 6"):
        maximum_flow_figure(attention, WORDS[:5])
    with pytest.raises(ValueError, match="scores_as_attention"):
        maximum_flow_figure(attention - 0.5, WORDS)
    with pytest.raises(TypeError):
        maximum_flow_figure(attention.numpy(), WORDS)
