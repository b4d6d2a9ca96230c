"""The formulas of the page *Where this stands*: how scores are related to other methods' numbers, on a small random BERT."""

import pytest
import torch
import toys

import attattr
from attattr.tap import gated

LENGTH, TARGET = 7, 1


@pytest.fixture(scope="module")
def model():
    found = toys.bert().double()
    found.set_attn_implementation("eager")  # which returns its attention, with gradients
    return found


@pytest.fixture(scope="module")
def inputs():
    return {"input_ids": toys.inputs([LENGTH])["input_ids"]}


@pytest.fixture(scope="module")
def first_order(model, inputs):
    """A ⊙ gradient at the full attention, for every connection."""
    return attattr.attribute_inputs(model, inputs, TARGET, method="riemann", steps=1).scores.double()


def probability(model, inputs):
    return model(**inputs).logits.softmax(-1)[0, TARGET]


def gradients_of_attention(model, inputs):
    """Attention, and the gradient of F by it, as torch itself computes them: "L H N N"."""
    outputs = model(**inputs, output_attentions=True)
    gradients = torch.autograd.grad(outputs.logits.softmax(-1)[0, TARGET], outputs.attentions)
    return torch.cat(outputs.attentions).detach(), torch.cat(gradients)


def test_attention_times_gradient_is_the_slope_of_taking_a_connection_away(model, inputs, first_order):
    """Attribution patching to zero: the change of F, to first order, as the connection goes (here in all heads of its layer)."""
    step, layers = 1e-4, len(first_order)
    for layer, i, j in [(0, 2, 5), (1, 0, 3), (2, 0, 6), (2, 3, 1)]:
        values = []
        for left in (1 + step, 1 - step):
            keep = torch.ones(1, layers, LENGTH, LENGTH, dtype=torch.float64)
            keep[0, layer, i, j] = left
            with torch.no_grad(), gated(model, keep):
                values.append(probability(model, inputs))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(first_order[layer, :, i, j].sum()), abs=1e-7)


def test_its_columns_are_value_times_gradient(model, inputs, first_order):
    """What gradient × input gives at the values, with the attention held fixed, as LRP for Transformers holds it."""
    found = []
    hooks = [layer.attention.self.value.register_forward_hook(lambda *call: found.append(call[-1])) for layer in model.bert.encoder.layer]
    value = probability(model, inputs)
    gradients = torch.autograd.grad(value, found)
    for hook in hooks:
        hook.remove()
    heads = first_order.shape[1]
    of_value = torch.stack([(v * g).detach()[0].unflatten(-1, (heads, -1)).sum(-1).T for v, g in zip(found, gradients, strict=True)])
    torch.testing.assert_close(first_order.sum(2), of_value, atol=1e-7, rtol=1e-4)


def test_relevance_of_chefer_is_a_rollout_of_attention_times_gradient(model, inputs, first_order):
    attention, gradients = gradients_of_attention(model, inputs)
    relevance = torch.eye(LENGTH, dtype=torch.float64)
    for of_layer, slopes in zip(attention, gradients, strict=True):  # Chefer et al. (2021b), Eqs. 5 and 6
        relevance = relevance + (of_layer * slopes).clamp(min=0).mean(0) @ relevance
    product = torch.eye(LENGTH, dtype=torch.float64)
    for of_layer in first_order.clamp(min=0).mean(1):
        product = (torch.eye(LENGTH, dtype=torch.float64) + of_layer) @ product
    torch.testing.assert_close(product, relevance, atol=1e-6, rtol=1e-4)


def test_attention_that_reads_the_same_has_other_scores_with_the_same_sums_of_rows():
    """With more tokens than the size of a head, other weights give the same context (Brunner et al., 2020)."""
    torch.manual_seed(0)
    tokens, size = 9, 4
    value, gradient = torch.randn(tokens, size).double(), torch.randn(tokens, size).double()
    attention = torch.rand(tokens, tokens).double().softmax(-1)
    both = torch.cat([value, torch.ones(tokens, 1).double()], 1)  # a change that nobody notices, and rows that still sum to 1
    unseen = torch.linalg.svd(both.T).Vh[size + 1 :]
    other = attention + 0.01 * unseen[0]
    assert (other > 0).all()
    torch.testing.assert_close(other @ value, attention @ value)
    torch.testing.assert_close(other.sum(-1), attention.sum(-1))
    one, two = (weights * (gradient @ value.T) for weights in (attention, other))
    torch.testing.assert_close(one.sum(-1), two.sum(-1))
    assert (one - two).abs().max() > 0.01 * one.abs().max()
