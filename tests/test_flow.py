"""Rollout is a matrix product, flow is networkx's maximum flow, and both are right on graphs small enough to do by hand."""

import time

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import maximum_flow

import attattr
from attattr.flow import attention_flow, attention_graph, attention_rollout, flow_bound, flow_saturation, scores_as_attention, source_bound

# Token 0 splits evenly, token 1 keeps to itself; above, both look at token 0. With the residual connection, by hand:
# layer 0: 0.75 0.25 | 0 1; layer 1: 1 0 | 0.5 0.5.
TOY = torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])


def random_attention(seed=0, layers=4, heads=3, tokens=5, sharpness=4.0, causal=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(layers, heads, tokens, tokens, generator=generator, dtype=torch.float64)
    if causal:
        logits = logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    return logits.softmax(-1).to(dtype)


def networkx_flows(graph, layers, tokens, function=None):
    """Every flow, as the authors' code asks for them: one pair at a time, on the whole graph."""
    return np.array(
        [
            [[nx.maximum_flow_value(graph, (level, i), (0, j), flow_func=function) for j in range(tokens)] for i in range(tokens)]
            for level in range(1, layers + 1)
        ]
    )


def test_the_toy_by_hand():
    rolled = [[[0.75, 0.25], [0.0, 1.0]], [[0.75, 0.25], [0.375, 0.625]]]
    # Token 1 after layer 1 has 0.5 for token 0 and 0.5 for token 1: 0.5 fits through 0.75; to token 1, 0.25 by way of 0, and 0.5.
    flows = [[[0.75, 0.25], [0.0, 1.0]], [[0.75, 0.25], [0.5, 0.75]]]
    assert attention_rollout(TOY).tolist() == rolled
    assert attention_flow(TOY, normalize=False).tolist() == flows
    assert torch.allclose(attention_flow(TOY), torch.tensor(flows) / torch.tensor(flows).sum(-1, keepdim=True))
    assert flow_bound(TOY).tolist() == [0.75, 1.0]  # the column of token 1 sums to 1.25, but what leaves a node is 1
    assert flow_saturation(attention_flow(TOY, normalize=False), TOY).tolist() == pytest.approx([2 / 3, 1 / 4])  # 3 joined pairs, then 4


@pytest.mark.parametrize("seed", range(5))
def test_rollout_is_the_matrix_product(seed):
    attention = random_attention(seed)
    adjusted = [0.5 * a.numpy().mean(0) + 0.5 * np.eye(5) for a in attention]
    for layer in range(4):
        expected = np.linalg.multi_dot([*adjusted[layer::-1], np.eye(5)])
        assert np.allclose(attention_rollout(attention)[layer], expected, atol=1e-14)
        assert np.allclose(attention_rollout(attention, layer=layer), expected, atol=1e-14)


def test_rollout_adds_up_the_paths_of_the_graph():
    attention = random_attention(layers=3, tokens=3)
    graph = attention_graph(attention)
    for i in range(3):
        for j in range(3):
            paths = nx.all_simple_edge_paths(graph, (3, i), (0, j))
            total = sum(np.prod([graph.edges[edge]["capacity"] for edge in path]) for path in paths)
            assert total == pytest.approx(float(attention_rollout(attention, -1)[i, j]), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("layers", "tokens", "causal"), [(1, 4, False), (2, 6, False), (4, 5, False), (7, 4, False), (4, 5, True)])
def test_flow_is_that_of_networkx(seed, layers, tokens, causal):
    attention = random_attention(seed, layers, tokens=tokens, sharpness=1 + 2 * seed, causal=causal)
    expected = networkx_flows(attention_graph(attention), layers, tokens)
    found = attention_flow(attention, normalize=False)
    assert np.abs(found.numpy() - expected).max() < 1e-9
    assert np.allclose(attention_flow(attention), expected / expected.sum(-1, keepdims=True), atol=1e-9)
    for layer in range(layers):
        assert np.abs(attention_flow(attention, layer, normalize=False).numpy() - expected[layer]).max() < 1e-9


def test_what_the_integers_leave_is_counted_in_smaller_units(monkeypatch):
    attention = random_attention(layers=5, tokens=8)
    expected, coarse = attention_flow(attention, normalize=False), []
    monkeypatch.setattr("attattr.flow.maximum_flow", lambda *given: (coarse.append(1), maximum_flow(*given))[1])
    monkeypatch.setattr("attattr.flow.UNITS", 2**14)  # so that a flow in them is off by a thousandth
    assert (attention_flow(attention, normalize=False) - expected).abs().max() < 1e-6
    once = len(coarse)
    monkeypatch.setattr("attattr.flow.UNITS", 2**30)
    attention_flow(attention, normalize=False)
    assert once >= 2 * (len(coarse) - once)


@pytest.mark.parametrize("edges", [1, 300])
def test_tokens_may_be_asked_about_one_by_one_or_some_at_once(edges, monkeypatch):
    attention = random_attention(layers=4, tokens=7, sharpness=8)
    attention[1] = (attention[1] * (attention[1] > 0.1)) / (attention[1] * (attention[1] > 0.1)).sum(-1, keepdim=True)  # some edges of 0
    monkeypatch.setattr("attattr.flow.EDGES", edges)
    expected = networkx_flows(attention_graph(attention), 4, 7)
    assert np.abs(attention_flow(attention, normalize=False).numpy() - expected).max() < 1e-9


def test_tokens_that_all_weigh_the_same_are_exact_though_every_rounding_goes_the_same_way():
    groups = torch.arange(24) // 12
    attention = torch.where(groups[:, None] == groups, 1.0, 3e-4).double()
    attention = (attention / attention.sum(-1, keepdim=True)).expand(8, 1, 24, 24)
    flow = attention_flow(attention, -1, normalize=False)
    assert float(flow[0, 23]) == pytest.approx(nx.maximum_flow_value(attention_graph(attention), (8, 0), (0, 23)), abs=1e-9)
    assert flow[0, 12:].max() - flow[0, 12:].min() < 1e-12


def test_flow_is_that_of_the_authors_algorithm_and_of_two_layers_in_closed_form():
    attention = random_attention(layers=3, tokens=4)
    expected = networkx_flows(attention_graph(attention), 3, 4, nx.algorithms.flow.edmonds_karp)
    found = attention_flow(attention, normalize=False).numpy()
    assert np.abs(found - expected).max() < 1e-9
    one, two = (0.5 * a.numpy().mean(0) + 0.5 * np.eye(4) for a in attention[:2])
    assert np.allclose(found[0], one)
    assert np.allclose(found[1], np.minimum(two[:, :, None], one[None]).sum(1))  # each token between passes what its two edges let through


def test_the_graph_has_a_node_for_each_token_of_each_level_and_no_edge_of_nothing():
    graph = attention_graph(TOY)
    assert list(graph) == [(2, 0), (2, 1), (1, 0), (1, 1), (0, 0), (0, 1)]
    assert dict(graph.edges) == {
        ((2, 0), (1, 0)): {"capacity": 1.0},
        ((2, 1), (1, 0)): {"capacity": 0.5},
        ((2, 1), (1, 1)): {"capacity": 0.5},
        ((1, 0), (0, 0)): {"capacity": 0.75},
        ((1, 0), (0, 1)): {"capacity": 0.25},
        ((1, 1), (0, 1)): {"capacity": 1.0},
    }


def test_no_flow_exceeds_its_bound_and_in_a_deep_graph_all_are_the_same():
    attention = random_attention(layers=14, tokens=5)
    flow = attention_flow(attention, normalize=False)
    bound = np.minimum(1, attention[0].mean(0).numpy().sum(0) / 2 + 0.5)
    assert np.allclose(flow_bound(attention), bound)
    assert (flow.numpy() <= bound + 1e-12).all()
    expected = (np.abs(flow.numpy() - bound) < 1e-6).mean((1, 2))
    shares = flow_saturation(flow, attention)
    assert np.allclose(shares, expected)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert np.ptp(attention_flow(attention, -1).numpy(), axis=0).max() < 1e-9  # every row the same: nothing about the node is left
    assert float(flow_saturation(flow[4], attention)) == pytest.approx(expected[4])
    graph = attention_graph(attention)  # the top layers are known without looking: they must be right all the same
    assert nx.maximum_flow_value(graph, (13, 2), (0, 3)) == pytest.approx(bound[3], abs=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_no_flow_exceeds_what_leaves_its_own_token(causal):
    attention = random_attention(layers=6, tokens=5, sharpness=2, causal=causal)
    flow, bound = attention_flow(attention, normalize=False), source_bound(attention)
    adjusted = 0.5 * attention.numpy().mean(1) + 0.5 * np.eye(5)
    for layer in range(6):
        for u in range(5):
            sideways = sum(adjusted[m, u].sum() - adjusted[m, u, u] for m in range(1, layer + 1))
            assert np.allclose(bound[layer, u], adjusted[0, u] + sideways, atol=1e-12)
    assert (flow <= bound + 1e-12).all()
    assert torch.allclose(flow[0], bound[0], atol=1e-12)


def test_a_token_that_mostly_reads_itself_passes_on_the_first_layer_and_a_constant():
    attention = random_attention(layers=4, tokens=5, sharpness=1)
    attention[1:, :, 0] = torch.tensor([0.96, 0.01, 0.01, 0.01, 0.01])
    row = attention_flow(attention, -1, normalize=False)[0]
    assert torch.allclose(row[1:], attention[0].mean(0)[0, 1:] / 2 + 3 * 0.02, atol=1e-12)
    assert torch.allclose(row[1:], source_bound(attention)[-1, 0, 1:], atol=1e-12)


def test_saturation_knows_the_flow_of_another_attention():
    attention = random_attention(tokens=6)
    for wrong in (attention_flow(attention), attention_flow(random_attention(1, tokens=6), normalize=False), torch.eye(4).expand(4, 4, 4)):
        with pytest.raises(ValueError, match="not the flow of this attention"):
            flow_saturation(wrong, attention)


def test_heads_may_be_averaged_before():
    attention = random_attention()
    for function in (attention_rollout, attention_flow):
        assert torch.allclose(function(attention), function(attention.mean(1)), atol=1e-14)


@pytest.mark.parametrize("function", [attention_rollout, attention_flow])
def test_results_come_in_the_type_of_the_attention_computed_in_double(function):
    exact = function(random_attention(layers=6).float().double())
    found = function(random_attention(layers=6).float().requires_grad_())
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, exact.float())  # rounded once, at the end
    assert torch.equal(found, function(random_attention(layers=6).float()))
    assert torch.allclose(function(random_attention(dtype=torch.bfloat16)).double(), function(random_attention()), atol=0.01)


@pytest.mark.parametrize("function", [attention_rollout, attention_flow])
def test_one_layer_may_be_named_from_below_or_from_above(function):
    attention = random_attention(layers=3)
    assert torch.allclose(function(attention, layer=2), function(attention)[2], atol=1e-12)
    assert torch.equal(function(attention, layer=-1), function(attention, layer=2))
    for layer in (3, -4):
        with pytest.raises(ValueError, match=f"layer={layer}: expected a number from 0 to 2"):
            function(attention, layer=layer)


@pytest.mark.parametrize("function", [attention_rollout, attention_flow, source_bound])
def test_one_token_sees_itself(function):
    assert function(torch.ones(3, 2, 1, 1)).tolist() == [[[1.0]]] * 3


def test_the_graph_of_one_token_is_a_chain_and_its_flow_is_full():
    one = torch.ones(3, 2, 1, 1)
    assert list(attention_graph(one).edges(data="capacity")) == [((level, 0), (level - 1, 0), 1.0) for level in (3, 2, 1)]
    assert flow_saturation(attention_flow(one, normalize=False), one).tolist() == [1.0] * 3


def test_a_text_of_128_tokens_works_with_a_progress_bar(capsys, monkeypatch):
    monkeypatch.setattr("attattr.flow.PATIENCE", 0)
    attention = random_attention(layers=2, heads=1, tokens=128)
    one, two = (0.5 * a.numpy().mean(0) + 0.5 * np.eye(128) for a in attention)
    assert np.allclose(attention_flow(attention, -1, normalize=False), np.minimum(two[:, :, None], one[None]).sum(1))
    assert "attention flow: 100%" in capsys.readouterr().err


def test_every_node_of_twelve_layers_and_32_tokens_takes_less_than_half_a_minute():
    began = time.process_time()
    attention_flow(random_attention(layers=12, heads=1, tokens=32, sharpness=6))
    assert time.process_time() - began < 30  # 1.4 s on the machine this was written on


@pytest.mark.parametrize("function", [attention_rollout, attention_flow])
def test_even_attention_in_a_decoder_gives_every_visible_token_the_same(function):
    even = torch.ones(3, 1, 4, 4).tril() / torch.arange(1.0, 5)[:, None]
    expected = torch.ones(4, 4).tril() / torch.arange(1.0, 5)[:, None]
    assert torch.allclose(function(even, causal=True), expected.expand(3, 4, 4))
    assert not torch.allclose(function(even)[-1], expected, atol=0.05)  # the first tokens gain, or the last


@pytest.mark.parametrize("function", [attention_rollout, attention_flow])
def test_a_decoder_is_compared_with_even_attention(function):
    attention = random_attention(causal=True)
    even = (torch.ones(5, 5).tril() / torch.arange(1.0, 6)[:, None]).double().expand(4, 1, 5, 5)
    raw = {"normalize": False} if function is attention_flow else {}
    ratio = torch.where(function(even) > 0, function(attention, **raw) / function(even, **raw), 0)
    assert torch.allclose(function(attention, causal=True), ratio / ratio.sum(-1, keepdim=True), atol=1e-12)
    if raw:
        assert torch.allclose(function(attention, causal=True, **raw), ratio, atol=1e-12)
    with pytest.raises(
        ValueError, match=r"causal=True, but Ã\[0, 0, 1\] is 0\.\d+: expected 0 wherever the second token comes after the first"
    ):
        function(random_attention(), causal=True)


def test_scores_become_attention():
    scores = torch.tensor([[[[3.0, 1.0, -9.0], [-1.0, 0.0, -2.0], [0.0, 0.0, 4.0]], [[0.0, -2.0, 1.0], [0.5, 0.0, 0.0], [4.0, 0.0, 0.0]]]])
    # Summed over heads: 3 -1 -8 | -0.5 0 -2 | 4 0 4
    expected = [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]]
    assert scores_as_attention(scores).tolist() == expected
    assert scores_as_attention(scores.sum(1)).tolist() == expected
    by_head = [[[3 / 5, 1 / 5, 1 / 5], [1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]]
    assert torch.allclose(scores_as_attention(scores.clamp(min=0)), torch.tensor(by_head))
    assert attention_flow(scores_as_attention(scores), -1)[1].tolist() == [0.0, 1.0, 0.0]


def changed(at, value):
    attention = random_attention()
    attention[at] = value
    return attention


BAD = {
    "negative": (changed((1, 0, 2, 3), -0.25), r"attention\[1, 0, 2, 3\] is -0.25: .* scores_as_attention"),
    "scores": (torch.randn(2, 2, 4, 4), "none negative; .* scores_as_attention"),
    "sum": (changed((3, 2, 1), 0.5), r"the sum of the row attention\[3, 2, 1\] is 2.5: expected 1"),
    "cut": (random_attention()[..., :4, :4], "not cut"),
    "one head": (torch.cat([random_attention(), random_attention() * 0.98], 1), r"the sum of the row attention\[0, 3, 0\] is 0.98"),
    "nan": (changed((0, 1, 2, 3), torch.nan), r"attention\[0, 1, 2, 3\] is nan: expected numbers that are finite"),
    "infinite": (changed((0, 1, 2, 3), torch.inf), "is inf"),
    "batch": (random_attention()[None], r"shape \[1, 4, 3, 5, 5\]: expected L H N N .* of one text"),
    "one matrix": (torch.eye(3), r"shape \[3, 3\]: expected L H N N"),
    "not square": (random_attention()[..., :4], r"shape \[4, 3, 5, 4\]"),
    "no layer": (random_attention()[:0], r"shape \[0, 3, 5, 5\]"),
    "no token": (torch.ones(2, 2, 0, 0), r"shape \[2, 2, 0, 0\]"),
}


@pytest.mark.parametrize("function", [attention_rollout, attention_flow, attention_graph, flow_bound, source_bound])
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_attention_is_refused_in_words(function, name):
    attention, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        function(attention)


@pytest.mark.parametrize("function", [attention_rollout, attention_flow, attention_graph, flow_bound, source_bound, scores_as_attention])
def test_what_is_no_tensor_of_floats_is_refused(function):
    with pytest.raises(TypeError, match=r"as one tensor of floats, L H N N or L N N, got torch\.int64"):
        function(torch.eye(2, dtype=torch.int64)[None])
    for wrong in ((torch.eye(2), torch.eye(2)), np.eye(2)[None]):
        with pytest.raises(TypeError):  # here by beartype, elsewhere in the same words
            function(wrong)


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"scores\[0, 0, 1\] is nan"):
        scores_as_attention(torch.tensor([[[0.0, torch.nan], [0.0, 1.0]]]))
    with pytest.raises(ValueError, match=r"scores of shape \[2, 2\]"):
        scores_as_attention(torch.eye(2))


def test_a_long_wait_shows_a_bar_and_a_short_one_none(capsys, monkeypatch):
    attention_flow(random_attention())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("attattr.flow.PATIENCE", 0)
    attention_flow(random_attention(), progress=False)
    assert capsys.readouterr().err == ""
    attention_flow(random_attention())
    assert "attention flow: 100%" in capsys.readouterr().err


def test_an_attribution_is_read_as_its_attention_if_it_is_of_one_stack():
    from toys import bert, inputs, tiny

    att = attattr.attribute_inputs(bert(), inputs([5]))
    assert torch.equal(attattr.attention_rollout(att), attattr.attention_rollout(att.attention))
    assert torch.equal(attattr.attention_flow(att, layer=-1), attattr.attention_flow(att.attention, layer=-1))
    given = inputs([6])
    given["input_ids"][0, -1] = 2  # the end of the text, which BART asks for
    both = attattr.attribute_inputs(tiny("bart"), given)
    for one in (attattr.attention_rollout, attattr.attention_flow):
        with pytest.raises(ValueError, match=r"encoder 0.*cross 2: expected all heads of layers of one kind"):
            one(both)
        assert one(both.of_kind("decoder")).shape == (3, 6, 6)
        with pytest.raises(ValueError, match="expected all heads of layers of one kind"):
            one(both.of_kind("cross"))
    with pytest.raises((ValueError, TypeError), match="layer"):
        attattr.attention_rollout(att.attention, layer=1.0)
