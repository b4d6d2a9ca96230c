"""Relevance of tokens: against captum, finite differences and whole forward passes; ranks against scipy's; masks by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from scipy import stats
from toys import FAMILIES, bert, family
from transformers import PreTrainedTokenizerFast

import attattr
from attattr.saliency import (
    RELEVANCES,
    SIGNED,
    Words,
    blank_out,
    classifier_row,
    gradient_times_input,
    input_gradient,
    integrated_gradients,
    masking_curves,
    mean_interval,
    ordinary_tokens,
    rank_correlation,
    read_row,
)

TEXT = "a warm and funny film , too long ."
LETTERS = "g h i j k l"


def letters(special=True, **tokens):
    """A tokenizer of single letters for the toys, with or without [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        fast.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=64, **tokens)


def encoder_tokenizer():
    return letters(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


def decoder_tokenizer():
    return letters(special=False, pad_token="[PAD]", unk_token="[UNK]")


def probability_of(model, tokenizer, text, target, replaced=()):
    """F by token ids, one text at a time, with the ids at some places replaced."""
    inputs = tokenizer(*(text if isinstance(text, tuple) else (text,)), return_tensors="pt")
    for place, new in replaced:
        inputs["input_ids"][0, place] = new
    with torch.no_grad():
        return float(model(**inputs).logits.double().softmax(-1)[0, target])


@pytest.fixture(scope="module")
def sst2():
    return attattr.load("sst2")


@pytest.fixture(scope="module")
def att(sst2):
    return attattr.attribute(*sst2, TEXT)


def test_the_classifier_reads_cls_or_a_decoders_last_token(att):
    assert classifier_row(att) == 0
    decided = attattr.attribute(family("gpt2"), decoder_tokenizer(), LETTERS, steps=2)
    assert classifier_row(decided) == 5
    even = dataclasses.replace(att, scores=torch.ones_like(att.scores))
    with pytest.raises(ValueError, match=r"last layer 11 of 11 tokens have scores as queries, expected one: pass row="):
        classifier_row(even)
    with pytest.raises(ValueError, match="pass row="):
        read_row(even, even.attention.mean(1))


def test_a_row_is_that_of_the_classifier_or_another_or_the_largest_of_each_column(att):
    matrices = att.attention.mean(1)
    assert torch.equal(read_row(att, matrices), matrices[:, 0])
    assert torch.equal(read_row(att, matrices, 3), matrices[:, 3])
    assert torch.equal(read_row(att, matrices, -1), matrices[:, -1])
    assert read_row(att, matrices, "max")[2].tolist() == [float(matrices[2, :, j].max()) for j in range(len(att.tokens))]
    for row in (len(att.tokens), -len(att.tokens) - 1, "last"):
        with pytest.raises(ValueError, match=r"row=.*: expected a token from 0 to 10"):
            read_row(att, matrices, row)


def test_every_method_gives_each_token_a_number(sst2, att):
    found = {name: method(*sst2, att) for name, method in RELEVANCES.items()}
    for name, relevance in found.items():
        assert relevance.shape in [(6, len(att.tokens)), (len(att.tokens),)]
        assert relevance.isfinite().all()
        assert relevance.dtype == torch.float32
        assert bool((relevance < 0).any()) == (name in SIGNED), name
    assert torch.equal(found["rollout"], attattr.attention_rollout(att.attention)[:, 0])
    assert torch.equal(found["flow"], attattr.attention_flow(att.attention)[:, 0])
    shares = attattr.scores_as_attention(att.scores)
    assert torch.equal(found["rollout of attribution"], attattr.attention_rollout(shares)[:, 0])
    assert torch.equal(found["flow of attribution"], attattr.attention_flow(shares)[:, 0])
    assert torch.allclose(found["attribution, all rows"].sum(-1), att.difference, atol=float(att.completeness.max()) + 1e-6)
    assert torch.allclose(found["attribution, its row"][-1], found["attribution, all rows"][-1], atol=1e-7)
    assert torch.allclose(found["attribution, all layers"], found["attribution, all rows"].sum(0), atol=1e-6)
    assert torch.equal(found["blank-out"], blank_out(*sst2, TEXT, target=att.target))


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2"])
def test_gradients_are_central_differences_of_the_embedding_table(name):
    model, tokenizer = family(name).double(), decoder_tokenizer() if name == "gpt2" else encoder_tokenizer()
    place = 2  # its letter occurs once, so its row of the table is that token alone
    token = tokenizer(LETTERS)["input_ids"][place]
    weight = model.get_input_embeddings().weight.data
    slopes = []
    for d in range(weight.shape[1]):
        sides = []
        for step in (1e-5, -1e-5):
            weight[token, d] += step
            sides.append(probability_of(model, tokenizer, LETTERS, 1))
            weight[token, d] -= step
        slopes.append((sides[0] - sides[1]) / 2e-5)
    expected = torch.tensor(slopes, dtype=torch.float64)
    assert float(input_gradient(model, tokenizer, LETTERS, 1)[place]) == pytest.approx(float(expected.norm()), rel=1e-5)
    assert float(gradient_times_input(model, tokenizer, LETTERS, 1)[place]) == pytest.approx(float(expected @ weight[token]), rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_sum_of_a_gradient_says_nothing_where_layer_norms_read_the_embeddings(name):
    model = family(name).double()
    words = Words(model, decoder_tokenizer(), LETTERS, 1)
    gradient = words.decisions(words.embeddings, gradient=True)[0]
    ratio = gradient.sum(-1).abs() / gradient.norm(dim=-1)
    if name == "llama":  # its norms do not take the mean away
        assert ratio.max() > 0.1
    else:
        assert ratio.max() < 1e-8


def test_integrated_gradients_are_captums(sst2):
    model, tokenizer = sst2
    inputs = tokenizer(TEXT, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]

    def forward(ids):
        return model(input_ids=ids, attention_mask=mask.expand(len(ids), -1)).logits.softmax(-1)[:, 1]

    blanks = torch.where(ordinary_tokens(tokenizer, TEXT), tokenizer.mask_token_id, ids)
    theirs = LayerIntegratedGradients(forward, model.get_input_embeddings())
    expected = theirs.attribute(ids, blanks, n_steps=20, method="gausslegendre")[0].sum(-1)
    found = integrated_gradients(model, tokenizer, TEXT, 1, steps=20)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("blank", [None, "[PAD]", "film"])
def test_integrated_gradients_sum_to_what_the_words_bring(sst2, blank):
    model, tokenizer = sst2
    found = integrated_gradients(model, tokenizer, TEXT, "positive", blank=blank)
    ordinary = ordinary_tokens(tokenizer, TEXT)
    token = tokenizer.convert_tokens_to_ids(blank or "[MASK]")
    empty = probability_of(model, tokenizer, TEXT, 1, [(place, token) for place in ordinary.nonzero()[:, 0].tolist()])
    difference = probability_of(model, tokenizer, TEXT, 1) - empty
    assert float(found.sum()) == pytest.approx(difference, abs=1e-2 * max(abs(difference), 1e-2))
    assert found[~ordinary].abs().max() == 0
    if blank == "film":
        assert float(found[5]) == 0  # nothing to change


def test_integrated_gradients_say_when_they_are_not_good_enough(monkeypatch):
    monkeypatch.setattr("attattr.saliency.EMBEDDING_STEPS", (2, 3))
    with pytest.warns(UserWarning, match=r"did not meet tolerance=1e-06: error .* from the sum"):
        integrated_gradients(bert(), encoder_tokenizer(), LETTERS, tolerance=1e-6)
    for options in ({"steps": 0}, {"tolerance": 0.0}):
        with pytest.raises(ValueError, match="expected a"):
            integrated_gradients(bert(), encoder_tokenizer(), LETTERS, **options)


@pytest.mark.parametrize(
    ("name", "text"),
    [("bert", LETTERS), ("bert", ("a b c", "d e")), ("albert", ("a b c", "d e")), ("roberta", LETTERS), ("distilbert", LETTERS)],
)
def test_blank_out_is_a_whole_forward_pass_with_another_token(name, text):
    model, tokenizer = family(name), encoder_tokenizer()
    found = blank_out(model, tokenizer, text, 2)
    whole = probability_of(model, tokenizer, text, 2)
    expected = [whole - probability_of(model, tokenizer, text, 2, [(place, 4)]) for place in range(len(found))]
    assert found.tolist() == pytest.approx(expected, abs=2e-6)
    assert found.abs().max() > 1e-3


def test_a_decoder_reads_its_last_token_also_when_that_is_padding():
    model, tokenizer = family("gpt2"), decoder_tokenizer()
    found = blank_out(model, tokenizer, LETTERS, 1)
    ids = torch.tensor([tokenizer(LETTERS)["input_ids"]] * 7)
    for place in range(6):
        ids[place, place] = 0  # a padding token, which the classifier would skip at the end of a row of token ids
    with torch.no_grad():
        expected = model.score(model.transformer(ids).last_hidden_state[:, -1]).softmax(-1)[:, 1]
    assert torch.allclose(found, expected[6] - expected[:6], atol=1e-6)
    other = blank_out(model, tokenizer, LETTERS, 1, blank="[UNK]")
    assert not torch.allclose(found, other, atol=1e-3)


def test_only_what_the_tokenizer_adds_is_special():
    tokenizer = encoder_tokenizer()
    assert ordinary_tokens(tokenizer, "a ? b").tolist() == [False, True, True, True, False]  # an unknown word is a word
    assert ordinary_tokens(tokenizer, ("a b", "c")).tolist() == [False, True, True, False, True, False]
    assert ordinary_tokens(decoder_tokenizer(), "a b").all()


def test_spearman_shares_ranks_among_ties():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        one, other = torch.randint(0, 4, (2, 12), generator=generator).float()
        expected = np.corrcoef(stats.rankdata(one.numpy()), stats.rankdata(other.numpy()))[0, 1]
        assert rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)
    # By hand: ranks 2 2 2 4 5.5 5.5 against 6 5 4 3 2 1; from their means, products sum to -15, squares to 15 and 17.5.
    tied = torch.tensor([1.0, 1, 1, 2, 3, 3])
    assert rank_correlation(tied, torch.tensor([6.0, 5, 4, 3, 2, 1])) == pytest.approx(-15 / (15 * 17.5) ** 0.5)  # the authors' code: -0.6
    assert rank_correlation(torch.tensor([1.0, 2, 4]), torch.tensor([10.0, 200, 3000])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"shapes \[2\] and \[3\]"),
        ([1.0], [1.0], "at least two"),
        ([1.0, torch.nan], [1.0, 2.0], "finite"),
        ([1.0, 2.0], [torch.inf, 2.0], "finite"),
        ([1.0, 2.0], [3.0, 3.0], "every token has the same number, 3"),
    ],
)
def test_what_ranks_nothing_has_no_correlation(one, other, words):
    with pytest.raises(ValueError, match=words):
        rank_correlation(torch.tensor(one), torch.tensor(other))


def test_the_interval_of_a_mean_is_students():
    values = [0.1, 0.5, -0.2, 0.4]
    low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert mean_interval(values, 0.9) == pytest.approx((0.2, low, high))
    for wrong in ([0.5], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="expected at least two finite numbers"):
            mean_interval(wrong)


def test_masking_curves_are_whole_forward_passes(sst2):
    model, tokenizer = sst2
    text = "a warm film , but long"  # tokens 1 to 6
    relevance = torch.tensor([99.0, 0.1, 3.0, 2.0, -1.0, 2.0, -5.0, 99.0])  # special tokens never count, however much they have
    curves = masking_curves(model, tokenizer, text, relevance, "positive", shares=(0.0, 0.1, 1 / 3, 0.5, 1.0))
    order = [2, 3, 5, 1, 4, 6]  # of equals, the first
    for k, count in enumerate((0, 1, 2, 3, 6)):
        masked, kept = order[:count], order[count:]
        without = probability_of(model, tokenizer, text, 1, [(place, 103) for place in masked])
        only = probability_of(model, tokenizer, text, 1, [(place, 103) for place in kept])
        assert float(curves.without[k]) == pytest.approx(without, abs=2e-6)
        assert float(curves.only[k]) == pytest.approx(only, abs=2e-6)
    assert curves.whole == pytest.approx(probability_of(model, tokenizer, text, 1), abs=2e-6)
    assert curves.whole == float(curves.without[0]) == float(curves.only[-1])
    assert float(curves.only[0]) == float(curves.without[-1])
    assert curves.target == 1
    assert curves.comprehensiveness == pytest.approx(float(np.mean([curves.whole - p for p in curves.without.tolist()])), abs=1e-6)
    assert curves.sufficiency == pytest.approx(float(np.mean([curves.whole - p for p in curves.only.tolist()])), abs=1e-6)


def test_what_was_needed_is_found_by_masking(sst2):
    model, tokenizer = sst2
    lost = blank_out(model, tokenizer, TEXT)
    right, wrong = (masking_curves(model, tokenizer, TEXT, relevance) for relevance in (lost, -lost))
    assert right.comprehensiveness > wrong.comprehensiveness + 0.1
    assert right.sufficiency < wrong.sufficiency - 0.1


@pytest.mark.parametrize(
    ("text", "relevance", "options", "words"),
    [
        (LETTERS, torch.zeros(7), {}, r"shape \[7\], 7 of it finite: expected a finite number for each of the 8 tokens"),
        (LETTERS, torch.full((8,), torch.nan), {}, "0 of it finite"),
        ("g", torch.zeros(3), {}, "has 1 token besides the special ones: expected at least two"),
        (LETTERS, torch.zeros(8), {"shares": (0.5, 1.5)}, r"shares=\(0.5, 1.5\): expected at least one, each from 0 to 1"),
        (LETTERS, torch.zeros(8), {"shares": ()}, "expected at least one"),
        (LETTERS, torch.zeros(8), {"target": 3}, "unknown target 3"),
        (LETTERS, torch.zeros(8), {"blank": "nowhere"}, "blank='nowhere': expected one of the tokenizer's tokens"),
    ],
)
def test_what_cannot_be_masked_is_refused(text, relevance, options, words):
    with pytest.raises(ValueError, match=words):
        masking_curves(bert(), encoder_tokenizer(), text, relevance, **options)


@pytest.mark.parametrize("method", [input_gradient, gradient_times_input, integrated_gradients, blank_out])
def test_what_is_no_text_or_class_is_refused(method):
    model, tokenizer = bert(), encoder_tokenizer()
    with pytest.raises(ValueError, match="unknown target 'nice'"):
        method(model, tokenizer, LETTERS, "nice")
    with pytest.raises(ValueError, match="empty text"):
        method(model, tokenizer, " ")
    with pytest.raises(ValueError, match="takes at most 64"):
        method(model, tokenizer, "a " * 70)
    with pytest.raises(ValueError, match="not finite"):
        method(bert(layer_norm_eps=float("nan")), tokenizer, LETTERS)


def test_without_any_token_for_a_blank_one_must_be_given():
    model, tokenizer = bert(), letters()
    with pytest.raises(
        ValueError, match="blank=None: expected one of the tokenizer's tokens, or None if it has a mask, padding or unknown"
    ):
        blank_out(model, tokenizer, LETTERS)
    assert torch.equal(blank_out(model, tokenizer, LETTERS, blank="[MASK]"), blank_out(model, encoder_tokenizer(), LETTERS))
    assert input_gradient(model, tokenizer, LETTERS).isfinite().all()  # which needs none


def test_a_model_that_cannot_start_from_embeddings_is_refused(monkeypatch):
    model = bert()
    monkeypatch.setattr(model, "forward", lambda input_ids, attention_mask: None)
    with pytest.raises(TypeError, match="takes no inputs_embeds"):
        input_gradient(model, encoder_tokenizer(), LETTERS)


@pytest.mark.parametrize("method", [input_gradient, integrated_gradients, blank_out])
def test_the_model_is_left_as_it_was_and_says_the_same_in_any_mode(method):
    model, tokenizer = bert(), encoder_tokenizer()
    expected = method(model, tokenizer, LETTERS)
    model.train()
    model.bert.pooler.eval()
    model.bert.pooler.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert torch.equal(method(model, tokenizer, LETTERS), expected)
    with torch.inference_mode():
        assert torch.equal(method(model, tokenizer, LETTERS), expected)
    with torch.no_grad():
        assert torch.equal(method(model, tokenizer, LETTERS), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    ]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_half_precision_is_summed_in_full():
    exact = input_gradient(bert(), encoder_tokenizer(), LETTERS, 1)
    found = input_gradient(bert().half(), encoder_tokenizer(), LETTERS, 1)
    assert torch.allclose(found, exact, rtol=0.05)
