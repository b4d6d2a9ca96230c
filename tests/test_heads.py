"""Importance of heads against definitions computed another way; pruned heads say nothing; refusals."""

import copy

import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from toys import bert, inputs

import attattr
from attattr import tap
from attattr.heads import METHODS_OF_IMPORTANCE, correlation, least_important
from attattr.model import check_heads

SENTENCES = ["a warm and moving film .", "dull .", "never boring , never long , and very funny .", "an empty , tired mess of a film"]
LABELS = [1, 0, 1, 0]


@pytest.fixture(scope="module")
def loaded():
    return attattr.load("sst2")


@pytest.fixture(scope="module")
def rows():
    return Dataset.from_dict({"sentence": SENTENCES, "label": LABELS})


def loss_with(model, tokenizer, text, label, gates):
    with torch.no_grad(), tap.gated(model, gates):
        logits = model(**tokenizer(text, return_tensors="pt")).logits
    return float(torch.nn.functional.cross_entropy(logits.double(), torch.tensor([label])))


def test_attribution_is_the_largest_score_for_the_gold_label(loaded, rows):
    model, tokenizer = loaded
    importance, per_example = attattr.head_importance(model, tokenizer, rows, steps=8, return_per_example=True)
    for text, label, found in zip(SENTENCES, LABELS, per_example, strict=True):
        att = attattr.attribute(model, tokenizer, text, target=label, steps=8)
        assert torch.allclose(found, att.scores.amax((-2, -1)), atol=1e-5)
    assert torch.allclose(importance, per_example.mean(0))


def test_three_nodes_are_enough_for_the_order_of_the_heads(loaded):
    some = attattr.examples("sst2").shuffle(seed=0).select(range(6))
    three = attattr.head_importance(*loaded, some)
    exact = attattr.head_importance(*loaded, some, steps=8)
    assert float((three - exact).norm() / exact.norm()) <= 0.05
    assert spearmanr(three.flatten(), exact.flatten()).statistic >= 0.998


@pytest.mark.parametrize(
    "options", [{"rule": "riemann", "steps": 5}, {"steps": 1}, {"rule": "clenshaw-curtis", "steps": 3}, {"steps": "auto"}]
)
def test_attribution_by_any_rule_is_that_of_attribute(loaded, rows, options):
    found = attattr.head_importance(*loaded, rows, **options, return_per_example=True)[1]
    given = {"method" if name == "rule" else name: value for name, value in options.items()}
    for text, label, values in zip(SENTENCES, LABELS, found, strict=True):
        att = attattr.attribute(*loaded, text, target=label, **given)
        assert torch.allclose(values, att.scores.amax((-2, -1)), atol=1e-5)


def test_one_step_of_the_right_sum_is_attention_times_its_gradient_which_one_backward_pass_gives_for_all_layers(loaded, rows):
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    found = attattr.head_importance(*loaded, rows, rule="riemann", steps=1, return_per_example=True)[1]
    taylor = attattr.head_importance(*loaded, rows, method="taylor", return_per_example=True)[1]
    model.set_attn_implementation("eager")
    model.requires_grad_()
    for text, label, largest, sizes in zip(SENTENCES, LABELS, found, taylor, strict=True):
        out = model(**tokenizer(text, return_tensors="pt"), output_attentions=True)
        of_value = torch.autograd.grad(out.logits.softmax(-1)[0, label], out.attentions, retain_graph=True)
        of_loss = torch.autograd.grad(torch.nn.functional.cross_entropy(out.logits, torch.tensor([label])), out.attentions)
        products = [torch.stack([(a * g)[0] for a, g in zip(out.attentions, grads, strict=True)]) for grads in (of_value, of_loss)]
        assert torch.allclose(largest, products[0].amax((2, 3)), atol=1e-5)
        assert torch.allclose(sizes, products[1].sum((2, 3)).abs(), atol=1e-5)


def test_taylor_is_the_slope_of_the_loss_in_each_gate(loaded, rows):
    """A central difference in one head's gate, another way to Σ_ij A_ij ∂loss/∂A_ij; for all texts padded into one batch."""
    model, tokenizer = loaded
    found = attattr.head_importance(model, tokenizer, rows, method="taylor", return_per_example=True)[1]
    step = 1e-2
    for layer, head in ((0, 0), (2, 7), (5, 11)):
        for text, label, values in zip(SENTENCES, LABELS, found, strict=True):
            up, down = torch.ones(6, 12), torch.ones(6, 12)
            up[layer, head], down[layer, head] = 1 + step, 1 - step
            slope = (loss_with(model, tokenizer, text, label, up) - loss_with(model, tokenizer, text, label, down)) / (2 * step)
            assert float(values[layer, head]) == pytest.approx(abs(slope), abs=2e-4, rel=2e-2)


def test_taylor_is_equation_6_with_gradients_of_the_attention_itself():
    """|Σ_ij A_ij ∂loss/∂A_ij| with A as a leaf: context = A V, differentiated by autograd in A."""
    model, batch, gold = bert(), inputs([5]), torch.tensor([2])
    contexts = tap.context_gradients(model, batch, lambda logits: torch.nn.functional.cross_entropy(logits, gold))
    recording = tap.record(model, batch)
    for layer, (context, gradient) in enumerate(contexts):
        attention = recording.attention[layer].clone().requires_grad_()
        through = torch.einsum("bhnk,bhkd->bnhd", attention, recording.value[layer])
        with tap.replaced(model, {layer: through}):
            loss = torch.nn.functional.cross_entropy(model(**batch).logits, gold)
        (of_attention,) = torch.autograd.grad(loss, [attention])
        assert torch.allclose((context * gradient).sum((1, 3)), (attention * of_attention).sum((2, 3)), atol=1e-6)


def test_the_released_taylor_sums_sizes_over_tokens_and_does_not_know_the_label(loaded, rows):
    model, tokenizer = loaded
    found = attattr.head_importance(model, tokenizer, rows, method="taylor-logits", return_per_example=True)[1]
    flipped = Dataset.from_dict({"sentence": SENTENCES, "label": [1 - label for label in LABELS]})
    assert torch.equal(found, attattr.head_importance(model, tokenizer, flipped, method="taylor-logits", return_per_example=True)[1])
    taylor = attattr.head_importance(model, tokenizer, rows, method="taylor")
    assert not torch.allclose(taylor, attattr.head_importance(model, tokenizer, flipped, method="taylor"), rtol=0.1)
    signed = tap.context_gradients(model, tokenizer(SENTENCES[0], return_tensors="pt"), lambda logits: logits.sum())
    by_hand = torch.stack([(c * g).sum(3).abs().sum(1)[0] for c, g in signed])
    assert torch.allclose(found[0], by_hand, atol=1e-5)


def test_accuracy_is_what_is_lost_without_the_head(loaded):
    """On sentences of which some hang on a single head, so that all three values occur; every head, gated one by one."""
    model, tokenizer = loaded
    sure = "i was captivated from the opening shot , and the film only grew richer as it went on ."
    unsure = "the three brothers are charming ; the women they pine after are such dolts that the whole enterprise collapses ."
    texts, labels = [sure, unsure], [1, 0]
    some = Dataset.from_dict({"sentence": texts, "label": labels})
    found = attattr.head_importance(model, tokenizer, some, method="accuracy", return_per_example=True)[1]
    expected = torch.zeros(2, 6, 12)
    for b, (text, label) in enumerate(zip(texts, labels, strict=True)):
        batch = tokenizer([text] * 72, return_tensors="pt")
        with torch.no_grad():
            whole = int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == label
            with attattr.prune_heads(model, ~torch.eye(72, dtype=torch.bool).reshape(72, 6, 12)):
                without = model(**batch).logits.argmax(-1) == label
        expected[b] = (float(whole) - without.float()).reshape(6, 12)
    assert torch.equal(found, expected)
    assert found.unique().tolist() == [-1, 0, 1]


def test_attention_is_the_largest_weight(loaded, rows):
    found = attattr.head_importance(*loaded, rows, method="attention", return_per_example=True)[1]
    for text, values in zip(SENTENCES, found, strict=True):
        att = attattr.attribute(*loaded, text, steps=2)
        assert torch.allclose(values, att.attention.amax((-2, -1)), atol=1e-5)


@pytest.mark.parametrize("method", [method for method in METHODS_OF_IMPORTANCE if method != "accuracy"])  # which is counted by hand above
def test_every_method_is_the_same_in_batches_and_alone_and_twice(loaded, rows, method):
    together = attattr.head_importance(*loaded, rows, method=method, return_per_example=True)[1]
    for i in (0, 2):  # padded by different amounts in the batch
        assert torch.allclose(together[i], attattr.head_importance(*loaded, rows.select([i]), method=method), atol=1e-5)
    assert torch.equal(together, attattr.head_importance(*loaded, rows, method=method, return_per_example=True)[1])


def test_normalized_layers_have_length_one(loaded, rows):
    plain = attattr.head_importance(*loaded, rows, method="taylor")
    normalized = attattr.head_importance(*loaded, rows, method="taylor", normalize=True)
    assert torch.allclose(normalized.norm(dim=1), torch.ones(6))
    assert torch.allclose(normalized * plain.norm(dim=1, keepdim=True), plain, atol=1e-6)


def test_pairs_have_an_importance_too():
    pairs = attattr.examples("mnli").select(range(2))
    model, tokenizer = attattr.load("mnli")
    found = attattr.head_importance(model, tokenizer, pairs, steps=6, return_per_example=True)[1]
    for text, label, values in zip(attattr.texts_of(pairs), pairs["label"], found, strict=True):
        assert torch.allclose(values, attattr.attribute(model, tokenizer, text, target=label, steps=6).scores.amax((2, 3)), atol=1e-5)


def test_pruned_heads_say_nothing_and_the_model_is_left_as_it_was(loaded):
    model, tokenizer = loaded
    batch = tokenizer(SENTENCES[0], return_tensors="pt")
    with torch.no_grad():
        clean = model(**batch).logits
        with attattr.prune_heads(model, torch.zeros(6, 12, dtype=torch.bool)):
            nothing = model(**batch).logits
        silent = {layer: torch.zeros(1, batch["input_ids"].shape[1], 12, 32) for layer in range(6)}
        with tap.replaced(model, silent):  # F with every attention zeroed
            assert torch.allclose(model(**batch).logits, nothing, atol=1e-6)
        with pytest.raises(RuntimeError, match="stop"), attattr.prune_heads(model, torch.zeros(6, 12, dtype=torch.bool)):
            raise RuntimeError("stop")
        assert torch.equal(model(**batch).logits, clean)


def test_each_row_of_a_batch_may_lose_its_own_heads(loaded):
    model, tokenizer = loaded
    keep = torch.ones(2, 6, 12, dtype=torch.bool)
    keep[1, 3, 4] = False
    with torch.no_grad():
        with attattr.prune_heads(model, keep):
            two = model(**tokenizer([SENTENCES[0]] * 2, return_tensors="pt")).logits
        alone = tokenizer(SENTENCES[0], return_tensors="pt")
        with attattr.prune_heads(model, keep[1]):
            pruned = model(**alone).logits[0]
        clean = model(**alone).logits[0]
    assert torch.allclose(two, torch.stack([clean, pruned]), atol=1e-5)
    assert not torch.allclose(clean, pruned, atol=1e-5)


def test_the_least_important_heads_of_the_whole_model_go_first():
    importance = torch.tensor([[0.5, 0.1], [0.1, 0.9]])
    assert least_important(importance, 0).all()
    assert least_important(importance, 1).tolist() == [[True, False], [True, True]]
    assert least_important(importance, 3).tolist() == [[False, False], [False, True]]
    assert not least_important(importance, 4).any()


def test_the_curve_has_the_counts_of_the_authors_code_and_accuracies_counted_by_hand(loaded, rows):
    model, tokenizer = loaded
    importance = attattr.head_importance(model, tokenizer, rows)
    curve = attattr.pruning_curve(model, tokenizer, rows, importance)
    assert curve.pruned == (0, 7, 14, 21, 28, 36, 43, 50, 57, 64, 72)
    for rate, count in ((0.0, 0), (0.5, 36), (1.0, 72)):
        keep = torch.ones(72, dtype=torch.bool)
        keep[importance.flatten().sort(stable=True).indices[:count]] = False
        right = 0
        for text, label in zip(SENTENCES, LABELS, strict=True):
            with torch.no_grad(), attattr.prune_heads(model, keep.reshape(6, 12)):
                right += int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == label
        assert float(curve.accuracy[curve.rates.index(rate)]) == right / 4
    half = attattr.pruning_curve(model, tokenizer, rows, importance, rates=[0.5])
    assert half.accuracy.tolist() == [curve.accuracy[5].item()]


def test_bad_input_is_refused_in_words(loaded, rows):
    model, tokenizer = loaded
    importance = torch.rand(6, 12)
    with pytest.raises(ValueError, match="unknown method 'magic': expected one of 'attribution'"):
        attattr.head_importance(model, tokenizer, rows, method="magic")
    with pytest.raises(ValueError, match="unknown method 'magic': expected one of 'clenshaw-curtis'"):
        attattr.head_importance(model, tokenizer, rows, rule="magic")
    with pytest.raises(ValueError, match="steps='auto' chooses its rule by itself"):
        attattr.head_importance(model, tokenizer, rows, rule="riemann", steps="auto")
    with pytest.raises(ValueError, match="no rows: expected at least one"):
        attattr.head_importance(model, tokenizer, rows.select([]))
    with pytest.raises(ValueError, match="no rows: expected at least one"):
        attattr.pruning_curve(model, tokenizer, rows.select([]), importance)
    three = Dataset.from_dict({"sentence": SENTENCES[:2], "label": [0, 2]})
    with pytest.raises(ValueError, match=r"row 1 has label 2: expected 0 to 1, the classes \['negative', 'positive'\]"):
        attattr.head_importance(model, tokenizer, three)
    with pytest.raises(ValueError, match=r"importance has shape \(12, 6\): expected \(6, 12\)"):
        attattr.pruning_curve(model, tokenizer, rows, importance.T)
    importance[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"importance\[2, 3\] is nan: expected numbers that are finite, for each layer and head"):
        attattr.pruning_curve(model, tokenizer, rows, importance)
    with pytest.raises(ValueError, match=r"rates=\[0.5, 1.5\]: expected numbers from 0 to 1"):
        attattr.pruning_curve(model, tokenizer, rows, torch.rand(6, 12), rates=[0.5, 1.5])
    with pytest.raises(TypeError, match=r"keep is torch.float32: expected a boolean tensor"):
        check_heads(model, torch.ones(6, 12))
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    for use in (attattr.head_importance, lambda *a: attattr.pruning_curve(*a, torch.rand(6, 12))):
        with pytest.raises(ValueError, match="logits that are not finite"):
            use(broken, tokenizer, rows)
    halves = Dataset.from_dict({"sentence": SENTENCES[:2], "label": [0.0, 0.9]})
    with pytest.raises(ValueError, match=r"row 1 has label 0.9"):
        attattr.head_importance(model, tokenizer, halves)


@pytest.mark.parametrize("shape", [(12, 6), (2, 12, 6)])
def test_a_choice_of_heads_of_another_shape_is_refused_before_the_block(loaded, shape):
    with (
        pytest.raises(ValueError, match=r"expected \(6, 12\), layers and heads"),
        attattr.prune_heads(loaded[0], torch.ones(shape, dtype=torch.bool)),
    ):
        pytest.fail("the block was entered")


def test_labels_are_matched_by_name_with_a_model_of_another_order(loaded):
    """A model that calls its classes in the other order, weights and names, decides as before."""
    model, tokenizer = loaded
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.classifier.weight.copy_(model.classifier.weight.flip(0))
        other.classifier.bias.copy_(model.classifier.bias.flip(0))
    other.config.id2label, other.config.label2id = {0: "positive", 1: "negative"}, {"positive": 0, "negative": 1}
    some = attattr.examples("sst2").select(range(12))
    for method in ("attribution", "taylor"):
        expected = attattr.head_importance(model, tokenizer, some, method=method)
        assert torch.allclose(attattr.head_importance(other, tokenizer, some, method=method), expected, atol=1e-5)
    one = attattr.pruning_curve(model, tokenizer, some, torch.rand(6, 12), rates=[0.0])
    two = attattr.pruning_curve(other, tokenizer, some, torch.rand(6, 12), rates=[0.0])
    assert one.accuracy.tolist() == two.accuracy.tolist()
    other.config.id2label = {0: "happy", 1: "sad"}
    with pytest.raises(ValueError, match=r"the rows have the classes \['negative', 'positive'\]: expected those of the model"):
        attattr.head_importance(other, tokenizer, some)


@pytest.mark.parametrize("method", ["attribution", "taylor", "attention"])
def test_the_mode_the_caller_is_in_does_not_matter(loaded, rows, method):
    model, tokenizer = loaded
    expected = attattr.head_importance(model, tokenizer, rows, method=method)
    model.train()
    try:
        with torch.inference_mode():
            found = attattr.head_importance(model, tokenizer, rows, method=method)
        assert model.training
    finally:
        model.eval()
    assert torch.equal(found, expected)


def test_accuracies_do_not_depend_on_the_mode_either(loaded, rows):
    model, tokenizer = loaded
    importance = torch.rand(6, 12, generator=torch.Generator().manual_seed(0))
    expected = attattr.pruning_curve(model, tokenizer, rows, importance).accuracy
    model.train()
    try:
        found = [attattr.pruning_curve(model, tokenizer, rows, importance).accuracy.tolist() for _ in range(2)]
    finally:
        model.eval()
    assert found == [expected.tolist()] * 2


def test_small_gradients_do_not_vanish_in_half_precision(loaded, rows):
    model, tokenizer = loaded
    sure = copy.deepcopy(model)
    with torch.no_grad():
        sure.classifier.weight.mul_(4)
        sure.classifier.bias.mul_(4)
    expected = attattr.head_importance(sure, tokenizer, rows, method="taylor")
    found = attattr.head_importance(sure.half(), tokenizer, rows, method="taylor")
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_a_model_without_attention_is_not_pruned_in_silence():
    from transformers import FNetConfig, FNetForSequenceClassification

    model = FNetForSequenceClassification(FNetConfig(vocab_size=40, hidden_size=32, num_hidden_layers=3, intermediate_size=48)).eval()
    model.config.num_attention_heads = 4
    with (
        pytest.raises(TypeError, match="no attention was seen in FNetForSequenceClassification"),
        attattr.prune_heads(model, torch.zeros(3, 4, dtype=torch.bool)),
        torch.no_grad(),
    ):
        model(input_ids=inputs([5])["input_ids"])


def test_blocks_inside_one_another_are_both_heard_and_scores_are_of_the_whole_model_only(loaded):
    model, tokenizer = loaded
    batch = tokenizer(SENTENCES[0], return_tensors="pt")
    one, two = torch.rand(2, 6, 12, generator=torch.Generator().manual_seed(0)) > 0.3
    with torch.no_grad(), attattr.prune_heads(model, one & two):
        expected = model(**batch).logits
    with torch.no_grad(), attattr.prune_heads(model, one):
        alone = model(**batch).logits
        with attattr.prune_heads(model, two):
            assert torch.allclose(model(**batch).logits, expected, atol=1e-6)
        assert not torch.allclose(alone, expected, atol=1e-3)
        with pytest.raises(ValueError, match="leave the `with` block"):
            attattr.attribute(model, tokenizer, SENTENCES[0])
        assert torch.equal(model(**batch).logits, alone)  # the outer block is as it was


def test_correlation_is_pearsons_with_fishers_interval():
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.rand(6, 12, generator=generator), torch.rand(6, 12, generator=generator)
    r, low, high = correlation(first, first + noise)
    expected = float(torch.corrcoef(torch.stack([first.flatten(), (first + noise).flatten()]))[0, 1])
    assert r == pytest.approx(expected, abs=1e-6)
    z, width = torch.atanh(torch.tensor(expected)), 1.959964 / (72 - 3) ** 0.5
    assert low == pytest.approx(float(torch.tanh(z - width)), abs=1e-5)
    assert high == pytest.approx(float(torch.tanh(z + width)), abs=1e-5)
    with pytest.raises(ValueError, match="expected one for each of the same heads"):
        correlation(first, first[:5])
    with pytest.raises(ValueError, match="every head has the same number, 1"):
        correlation(first, torch.ones(6, 12))
