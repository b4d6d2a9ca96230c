"""Heads are removed in the order of their values, for all texts or for each; removing none or all is what it should be."""

import pytest
import torch

import attattr
from attattr.effectiveness import keep_but, largest_attention, largest_attribution, right_without
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
    with pytest.raises(ValueError, match="not all finite"):
        keep_but(torch.tensor([[float("nan"), 1.0]]), 1, largest=True)


def test_each_text_may_have_its_own_heads(loaded):
    model, tokenizer = loaded
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(len(TEXTS), 6, 12, generator=generator) > 0.5
    predicted = []
    for text, gates in zip(TEXTS, keep, strict=True):
        with torch.no_grad(), gated(model, gates.float()):
            predicted.append(int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()))
    assert right_without(model, tokenizer, TEXTS, predicted, keep).all()
    assert not right_without(model, tokenizer, TEXTS, [1 - label for label in predicted], keep).any()


def test_one_choice_serves_all_texts(loaded):
    model, tokenizer = loaded
    labels = [1, 0, 1, 0]
    everything = right_without(model, tokenizer, TEXTS, labels, torch.ones(6, 12, dtype=torch.bool))
    assert everything.tolist() == [True] * 4
    nothing = right_without(model, tokenizer, TEXTS, labels, torch.zeros(6, 12, dtype=torch.bool))
    assert nothing.sum() == 2  # without attention the model says the same of every text


def test_heads_are_valued_by_their_largest_entry(loaded):
    att = attattr.attribute(*loaded, TEXTS[0], steps=4)
    assert torch.equal(largest_attribution(att)[2], torch.stack([head.max() for head in att.scores[2]]))
    assert torch.equal(largest_attention(att)[5], torch.stack([head.max() for head in att.attention[5]]))
    mean = att.attention.mean((-2, -1))
    assert torch.allclose(mean, torch.full_like(mean, 1 / len(att.tokens)))  # why the mean cannot order heads
