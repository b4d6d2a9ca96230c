"""Speed, by hand: pytest tests/benchmarks/bench_speed.py (pytest-benchmark; not part of `make test`, which takes files called test_*)

One text of 20 tokens: ours, the paper's rule done plainly, and captum's integrated gradients of the attention matrix of one layer, with
as many steps; and every flow of a small graph, ours and networkx's. pytest-benchmark compares runs: ``--benchmark-autosave``.
"""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from cost import encoded, plain

import attattr
from attattr.flow import attention_graph

TEXT = "a film that is warm and moving , and in the end a little too long ."


@pytest.fixture(scope="module")
def sst2():
    torch.set_num_threads(2)
    return attattr.load("sst2")


@pytest.mark.benchmark(group="attribution")
@pytest.mark.parametrize("options", [{}, {"steps": 4}, {"method": "riemann", "steps": 20}], ids=["auto", "4 nodes", "20 right"])
def test_attribute(benchmark, sst2, options):
    benchmark(lambda: attattr.attribute(*sst2, TEXT, **options))


@pytest.mark.benchmark(group="attribution")
def test_plain(benchmark, sst2):
    model, tokenizer = sst2
    benchmark.pedantic(lambda: plain(model, encoded(tokenizer, TEXT)), rounds=3)


@pytest.mark.benchmark(group="attribution")
def test_captum_for_every_layer(benchmark, sst2):
    from test_attribution import captum_scores

    model, tokenizer = sst2
    inputs = encoded(tokenizer, TEXT)
    benchmark.pedantic(lambda: captum_scores(model, inputs, 1, "riemann_right", 20), rounds=3)


@pytest.mark.benchmark(group="flow")
@pytest.mark.parametrize("by", ["ours", "networkx"])
def test_all_flows_of_three_layers_and_eight_tokens(benchmark, by):
    attention = (4 * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))).softmax(-1)
    graph = attention_graph(attention)
    pairs = [((layer + 1, i), (0, j)) for layer in range(3) for i in range(8) for j in range(8)]
    if by == "ours":
        benchmark(lambda: attattr.attention_flow(attention, normalize=False, progress=False))
    else:
        benchmark.pedantic(lambda: [nx.maximum_flow_value(graph, *pair) for pair in pairs], rounds=3)
