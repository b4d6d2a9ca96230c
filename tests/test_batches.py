"""Heads are removed in the order of their values, for all texts or for each; removing none or all is what it should be."""

import networkx as nx
import pytest
import torch

import attattr
from attattr.batches import predict
from attattr.book.reproduce.evidence import keep_but, same_size
from attattr.graph import graph_connections
from attattr.tap import gated

TEXTS = ["a warm and moving film .", "dull .", "never boring , never long , and very funny .", "an empty , tired mess of a film"]


@pytest.fixture(scope="module")
def loaded():
    return attattr.load("sst2")


def test_the_largest_or_the_smallest_heads_go_first():
    values = torch.tensor([[0.1, 0.4, 0.3], [0.2, 0.2, -1.0]])
    assert keep_but(values, 1, largest=True).tolist() == [[True, False, True], [False, True, True]]
    assert keep_but(values, 2, largest=False).tolist() == [[False, True, False], [False, True, False]]
    assert keep_but(values, 0, largest=True).all()
    assert not keep_but(values, 3, largest=True).any()
    both = keep_but(torch.stack([values, -values]), 1, largest=True)
    assert both[0].tolist() == keep_but(values, 1, largest=True).tolist()
    assert both[1].tolist() == keep_but(-values, 1, largest=True).tolist()


@pytest.mark.parametrize("count", [-1, 4])
def test_more_heads_than_there_are_cannot_go(count):
    with pytest.raises(ValueError, match=f"cannot remove {count} heads from each layer: expected 0 to 3"):
        keep_but(torch.zeros(2, 3), count, largest=True)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite values to order them by"):
        keep_but(torch.tensor([[float("nan"), 1.0]]), 1, largest=True)


def test_each_text_may_have_its_own_heads(loaded):
    model, tokenizer = loaded
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(len(TEXTS), 6, 12, generator=generator) > 0.5
    found = predict(model, tokenizer, TEXTS, keep)
    for text, gates, probabilities in zip(TEXTS, keep, found, strict=True):
        with torch.no_grad(), gated(model, gates.float()):
            alone = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        assert torch.allclose(probabilities, alone.double(), atol=1e-6)
    assert found.std(0).min() > 1e-2


def test_choices_of_heads_that_are_not_one_for_each_text_are_refused(loaded):
    with pytest.raises(ValueError, match="4 texts and 2 choices of heads or connections: expected one for every text"):
        predict(*loaded, TEXTS, torch.ones(2, 6, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"keep has shape \(5, 12\): expected \(6, 12\)"):
        predict(*loaded, TEXTS, torch.ones(5, 12, dtype=torch.bool))


def test_one_choice_serves_all_texts_and_the_order_is_the_callers(loaded):
    everything = predict(*loaded, TEXTS, torch.ones(6, 12, dtype=torch.bool))
    assert everything.argmax(-1).tolist() == [1, 0, 1, 0]
    assert torch.allclose(everything, predict(*loaded, TEXTS), atol=1e-6)
    assert torch.allclose(predict(*loaded, TEXTS[::-1]).flip(0), everything, atol=1e-6)
    nothing = predict(*loaded, TEXTS, torch.zeros(6, 12, dtype=torch.bool))
    assert len(nothing.argmax(-1).unique()) == 1  # without attention the model says the same of every text


def test_the_edges_of_a_graph_are_its_attention_not_its_residual_connections():
    graph = nx.DiGraph()
    graph.add_edge((2, 0), (1, 1), kind="attention", layer=1)
    graph.add_edge((1, 1), (0, 2), kind="attention", layer=0)
    graph.add_edge((1, 1), (0, 1), kind="residual")
    edges = graph_connections(graph, 2, 3)
    assert edges.nonzero().tolist() == [[0, 1, 2], [1, 0, 1]]
    for layers, tokens in ((1, 3), (2, 2)):
        with pytest.raises(ValueError, match=f"expected {layers} layers and {tokens} tokens"):
            graph_connections(graph, layers, tokens)


def test_as_many_other_connections_are_chosen_in_each_row_or_in_each_layer():
    edges = torch.tensor([[[1, 1, 0], [0, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    values = torch.tensor([[[1.0, 5.0, 3.0], [9.0, 8.0, 7.0], [2.0, 2.0, 2.0]], [[1.0] * 3] * 3])
    assert same_size(edges, values)[0].tolist() == [[False, True, True], [False] * 3, [True, False, False]]
    assert same_size(edges, values, by_row=False)[0].tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert not same_size(edges, values)[1].any()
    assert not same_size(edges, values, by_row=False)[1].any()


def test_all_connections_are_the_model_itself_and_none_are_every_head_removed(loaded):
    model, tokenizer = loaded
    att = attattr.attribute(model, tokenizer, TEXTS[0], steps=4)
    layers, _, tokens, _ = att.scores.shape
    keep = torch.stack([torch.ones(layers, tokens, tokens), torch.zeros(layers, tokens, tokens), torch.ones(layers, tokens, tokens)]).bool()
    keep[2, 2] = False
    full, none, without_one = predict(model, tokenizer, [TEXTS[0]] * 3, keep)[:, att.target].tolist()
    assert full == pytest.approx(float(att.probabilities[att.target]), abs=1e-6)
    with torch.no_grad(), gated(model, torch.zeros(6, 12)):
        without = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits.softmax(-1)[0, att.target]
    assert none == pytest.approx(float(without), abs=1e-6)
    # What one layer brings at all is what its attribution adds up to.
    assert full - without_one == pytest.approx(float(att.difference[2]), abs=1e-5)


def test_many_choices_for_a_text_do_not_disturb_each_other(loaded):
    model, tokenizer = loaded
    tokens = len(tokenizer(TEXTS[2])["input_ids"])
    keep = torch.rand(90, 6, tokens, tokens, generator=torch.Generator().manual_seed(0)) > 0.3  # more than fit in one pass
    together = predict(model, tokenizer, [TEXTS[2]] * 90, keep)
    alone = torch.cat([predict(model, tokenizer, [TEXTS[2]], keep[[k]]) for k in (0, 44, 89)])
    assert torch.allclose(together[[0, 44, 89]], alone, atol=1e-6)
    assert together[:, 1].std() > 1e-3


def test_the_edges_of_another_text_are_refused(loaded):
    with pytest.raises(ValueError, match="gates of shape"):
        predict(*loaded, ["dull ."], torch.ones(1, 6, 9, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 texts and 2 choices of heads or connections"):
        predict(*loaded, ["dull ."], torch.ones(2, 6, 4, 4, dtype=torch.bool))
