"""Eq. 4: against captum, against finite differences, against itself padded and batched; and what it refuses."""

import dataclasses
import inspect
import math
import re
import warnings

import pytest
import torch
from captum.attr import IntegratedGradients
from toys import FAMILIES, bert, family, inputs, tiny
from transformers import PreTrainedTokenizerFast

import attattr
from attattr import tap
from attattr.path import AttentionPath, integrate
from attattr.quadrature import rule

TEXTS = ["a warm and funny film .", "the plot is thin , and the jokes , such as they are , arrive late .", "dull ."]


@pytest.fixture(scope="module")
def sst2():
    return attattr.load("sst2")


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=64
    )


def captum_scores(model, batch, target, method, steps):
    """captum's integrated gradients of F with respect to each layer's attention matrix, from the zero matrix."""
    recording = tap.record(model, batch)
    found = []
    for layer, attention in enumerate(recording.attention):

        def probability(scaled, layer=layer):
            def put(now, context, weights):
                return (scaled @ weights()[1]).transpose(1, 2) if now == layer else context

            repeated = {name: tensor.expand(len(scaled), -1) for name, tensor in batch.items()}
            with tap.tapped(model, put):
                return model(**repeated).logits.softmax(-1)[:, target]

        found.append(IntegratedGradients(probability).attribute(attention, method=method, n_steps=steps)[0])
    return torch.stack(found)


@pytest.mark.parametrize(
    ("method", "steps", "theirs"),
    [("riemann", 20, "riemann_right"), ("riemann-left", 64, "riemann_left"), ("gauss-legendre", 8, "gausslegendre")],
)
def test_equals_captum_on_the_attention_matrix(sst2, method, steps, theirs):
    model, tokenizer = sst2
    text = "a film of few words and many long silences ."
    ours = attattr.attribute(model, tokenizer, text, method=method, steps=steps)
    expected = captum_scores(model, tokenizer(text, return_tensors="pt"), ours.target, theirs, steps)
    gap = (ours.scores - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert gap.max() <= 1e-5, gap


@pytest.mark.parametrize("name", ["bert", "gpt2"])  # Llama's softmax is float32 also in a float64 model: too coarse for differences
def test_equals_central_differences_of_single_attention_weights(name):
    model = family(name).double()
    batch = inputs([5])
    recording = tap.record(model, batch)
    targets = recording.logits.argmax(-1)
    current = rule("gauss-legendre", 3)
    scores = integrate(AttentionPath(model, recording, targets), [current], 1e-2)["scores"][0]
    step = 1e-6
    for layer, head, i, j in [(0, 0, 4, 1), (0, 3, 2, 0), (1, 1, 4, 4), (1, 2, 3, 2), (2, 0, 0, 0), (2, 3, 4, 2)]:
        total = 0.0
        for alpha, weight in zip(current.nodes, current.weights[0], strict=True):
            sides = []
            for sign in (1, -1):
                matrix = alpha * recording.attention[layer]
                matrix[0, head, i, j] += sign * step

                def put(now, context, weights, layer=layer, matrix=matrix):
                    return (matrix @ weights()[1]).transpose(1, 2) if now == layer else context

                with torch.no_grad(), tap.tapped(model, put):
                    sides.append(model(**batch).logits.softmax(-1)[0, targets[0]])
            total += weight * (sides[0] - sides[1]) / (2 * step)
        expected = float(recording.attention[layer][0, head, i, j] * total)
        assert float(scores[layer, head, i, j]) == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_sum_to_what_the_layer_contributes(name):
    model = family(name)
    recording = tap.record(model, inputs([6, 4]))
    outcome = integrate(AttentionPath(model, recording, recording.logits.argmax(-1)), [rule("gauss-legendre", n) for n in (20, 40)], 1e-3)
    kink = name == "distilbert"  # its classifier has a ReLU, and where the path meets one every rule converges slowly
    assert torch.allclose(outcome["scores"].sum((2, 3, 4)), outcome["difference"], atol=2e-3 if kink else 1e-4)
    assert outcome["scores"][1, :, :, 4:].abs().max() == 0  # padded queries and keys carry nothing
    assert outcome["scores"][1, :, :, :, 4:].abs().max() == 0


def test_only_the_row_that_the_classifier_reads_has_scores_in_the_last_layer(sst2):
    scores = attattr.attribute(*sst2, TEXTS[0], steps=4).scores
    assert scores[-1, :, 1:].abs().max() == 0
    assert scores[-2, :, 1:].abs().max() > 0
    gpt2 = family("gpt2")  # reads its last token
    recording = tap.record(gpt2, inputs([6]))
    last = integrate(AttentionPath(gpt2, recording, recording.logits.argmax(-1)), [rule("gauss-legendre", 3)], 1e-2)["scores"][0, -1]
    assert last[:, :-1].abs().max() == 0
    assert last[:, -1].abs().max() > 0


def test_a_gated_head_has_no_scores_and_permuted_heads_permute_them():
    model = bert()
    batch = inputs([6])
    recording = tap.record(model, batch)
    targets = recording.logits.argmax(-1)
    scores = integrate(AttentionPath(model, recording, targets), [rule("gauss-legendre", 4)], 1e-2)["scores"]
    order = [2, 0, 3, 1]
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            columns = torch.cat([torch.arange(8) + 8 * head for head in order])
            for part in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                part.weight.copy_(part.weight[columns].clone())
                part.bias.copy_(part.bias[columns].clone())
            layer.attention.output.dense.weight.copy_(layer.attention.output.dense.weight[:, columns].clone())
        model.bert.encoder.layer[1].attention.output.dense.weight[:, 8:16] = 0
    silenced = integrate(AttentionPath(model, tap.record(model, batch), targets), [rule("gauss-legendre", 4)], 1e-2)["scores"]
    assert silenced[0, 1, 1].abs().max() == 0
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.output.dense.weight[:, 8:16] = (
            bert().bert.encoder.layer[1].attention.output.dense.weight[:, :8]
        )
    permuted = integrate(AttentionPath(model, tap.record(model, batch), targets), [rule("gauss-legendre", 4)], 1e-2)["scores"]
    assert torch.allclose(permuted, scores[:, :, order], atol=1e-6)


@pytest.mark.parametrize(("method", "alpha"), [("riemann", 1.0), ("riemann-left", 0.0), ("gauss-legendre", 0.5)])
def test_one_step_is_the_gradient_there_times_attention(method, alpha):
    model, batch = bert(), inputs([5])
    att = attattr.attribute_inputs(model, batch, target=1, method=method, steps=1)
    attention = tap.record(model, batch).attention[1]
    scaled = (alpha * attention).requires_grad_()

    def put(layer, context, weights):
        return (scaled @ weights()[1]).transpose(1, 2) if layer == 1 else context

    with tap.tapped(model, put):
        probability = model(**batch).logits.softmax(-1)[0, 1]
    expected = attention * torch.autograd.grad(probability, scaled)[0]
    assert torch.allclose(att.scores[1], expected[0], atol=1e-7) and att.error.isinf().all()
    assert att.evaluations.tolist() == [int(0 < alpha < 1)] * 3


def relative(one, other):
    return float(((one - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("method", ["gauss-legendre", "riemann"])
def test_a_list_gives_the_same_as_one_by_one(sst2, method):
    together = attattr.attribute(*sst2, TEXTS, method=method, steps=6)
    for text, att in zip(TEXTS, together, strict=True):
        alone = attattr.attribute(*sst2, text, method=method, steps=6)
        assert att.text == text
        assert att.tokens == alone.tokens
        assert relative(att.scores, alone.scores) <= 1e-5
        assert torch.allclose(att.probabilities, alone.probabilities, atol=1e-6)


def test_the_same_call_twice_gives_the_same_bits(sst2):
    first, second = (attattr.attribute(*sst2, TEXTS[:2]) for _ in range(2))
    assert all(torch.equal(a.scores, b.scores) and torch.equal(a.error, b.error) for a, b in zip(first, second, strict=True))


def test_pairs_and_targets(tokenizer):
    model = bert()
    model.config.id2label = {0: "yes", 1: "perhaps", 2: "no"}
    predicted = attattr.attribute(model, tokenizer, ("a b c", "d e"), steps=4)
    assert predicted.tokens == ("[CLS]", "a", "b", "c", "[SEP]", "d", "e", "[SEP]")
    assert predicted.target == int(predicted.probabilities.argmax())
    by_id = attattr.attribute(model, tokenizer, ("a b c", "d e"), target=1, steps=4)
    by_name = attattr.attribute(model, tokenizer, ("a b c", "d e"), target="perhaps", steps=4)
    assert by_id.target == by_name.target == 1
    assert by_id.label == "perhaps"
    assert torch.equal(by_id.scores, by_name.scores)
    total = sum(attattr.attribute(model, tokenizer, "a b", target=c, steps=8).scores for c in range(3))
    assert total.abs().max() < 1e-6  # the probabilities of all classes always sum to one


def test_auto_certifies_itself_against_a_much_finer_rule(sst2):
    texts = sorted(attattr.examples("sst2")["sentence"], key=len)[10:60:5]
    found = attattr.attribute(*sst2, texts)
    reference = attattr.attribute(*sst2, texts, steps=96)
    errors = torch.stack(
        [(a.scores - b.scores).flatten(1).norm(dim=1) / b.scores.flatten(1).norm(dim=1) for a, b in zip(found, reference, strict=True)]
    )
    reported = torch.stack([a.error for a in found])
    assert (errors <= reported).float().mean() >= 0.95
    assert errors.median() <= 1e-3
    assert errors.max() <= 2e-2
    assert torch.stack([a.evaluations for a in found]).float().median() <= 6
    assert all(a.certified for a in found)


def test_an_impossible_tolerance_is_reported(sst2):
    with pytest.warns(UserWarning, match=r"did not meet tolerance=1e-09"):
        att = attattr.attribute(*sst2, TEXTS[2], tolerance=1e-9)
    assert not att.certified
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attattr.attribute(*sst2, TEXTS[2], tolerance=0.5).certified


def test_save_and_load(sst2, tmp_path):
    for text in (TEXTS[0], ("one side .", "the other “side” .")):
        att = attattr.attribute(*sst2, text, steps=2)
        att.save(tmp_path / "x.safetensors")
        again = attattr.Attribution.load(tmp_path / "x.safetensors")
        for field in dataclasses.fields(att):
            one, other = getattr(att, field.name), getattr(again, field.name)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    for name, value in {"label": 3, "tokens": att.tokens[:-1], "error": att.error[:-1]}.items():
        forged = dataclasses.replace(att)
        object.__setattr__(forged, name, value)
        forged.save(tmp_path / "x.safetensors")  # its checksum is right
        with pytest.raises(OSError, match="is not a saved Attribution"):
            attattr.Attribution.load(tmp_path / "x.safetensors")
    att.save(tmp_path / "half.safetensors", half=True)
    again = attattr.Attribution.load(tmp_path / "half.safetensors")
    assert again.scores.dtype == torch.float32 and torch.allclose(again.scores, att.scores, rtol=2**-11, atol=2**-25)
    assert not torch.equal(again.scores, att.scores) and torch.equal(again.error, att.error)
    with pytest.raises(TypeError, match="'a' is no Attribution"):
        inspect.unwrap(attattr.save)("abc", tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(OSError, match=r"x\.safetensors is not a saved Attribution"):
        attattr.Attribution.load(tmp_path / "x.safetensors")
    with pytest.raises(OSError, match="missing"):
        attattr.Attribution.load(tmp_path / "missing")


def test_other_shapes_can_be_put_in_place(sst2):
    att = attattr.attribute(*sst2, TEXTS[2], steps=2)
    other = dataclasses.replace(att, scores=torch.rand(2, 3, 4, 4), attention=torch.rand(2, 3, 4, 4), tokens=("a", "b", "c", "d"))
    assert re.search(r">[abcd] → [abcd]<", other._repr_html_())


def test_the_notebook_display_shows_text_decision_connections_and_certificate(sst2):
    html = attattr.attribute(*sst2, "a <b>bold</b> and funny film .")._repr_html_()
    assert "&lt;b&gt;bold" in html
    assert "positive" in html
    assert "[CLS] → " in html
    assert "Certified" in html
    assert "gradient evaluations" in html


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": ""}, ValueError, "empty text ''"),
        ({"text": ("a", "  ")}, ValueError, "empty text"),
        ({"text": []}, ValueError, "empty list"),
        ({"text": 42}, TypeError, "cannot read 42 as a text"),
        ({"text": ("a", 3)}, TypeError, "cannot read 3 as a text, row 1.*tuple of two strings"),
        ({"text": ["fine", None]}, TypeError, "cannot read None as a text"),
        ({"text": "word " * 600}, ValueError, r"602 tokens, but this model takes at most 512"),
        ({"target": "neutral"}, ValueError, r"unknown target 'neutral'.*\['negative', 'positive'\]"),
        ({"target": 2}, ValueError, "unknown target 2.*0 to 1"),
        ({"target": -1}, ValueError, "unknown target -1"),
        ({"steps": 0}, ValueError, "steps=0: expected a whole number of at least 1"),
        ({"steps": "many"}, ValueError, "steps='many'.*'auto'"),
        ({"method": "simpson", "steps": 3}, ValueError, "unknown method 'simpson'"),
        ({"method": "riemann"}, ValueError, "expected method=None, or a number of steps for 'riemann'"),
        ({"memory": 0}, ValueError, "memory=0: expected a number of GiB above 0"),
        ({"memory": 1e-6}, ValueError, r"memory=1e-06 GiB: expected at least 0.0\d+ for a text of"),
        ({"tolerance": 0.0}, ValueError, "tolerance=0.0"),
        ({"tolerance": math.nan}, ValueError, "tolerance=nan"),
    ],
)
def test_bad_input_is_refused_in_words(sst2, arguments, error, message):
    unchecked = inspect.unwrap(attattr.attribute)  # without the type checks of the tests
    with pytest.raises(error, match=message):
        unchecked(*sst2, **{"text": TEXTS[0]} | arguments)


def test_nan_weights_are_refused_and_inference_mode_is_no_obstacle(sst2):
    model, tokenizer = sst2
    with torch.inference_mode():
        assert attattr.attribute(model, tokenizer, TEXTS[2], steps=2).scores.abs().max() > 0
    broken = attattr.load("sst2")[0]
    with torch.no_grad():
        broken.bert.encoder.layer[2].output.dense.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        attattr.attribute(broken, tokenizer, TEXTS[2])


@pytest.mark.parametrize("kind", ["gemma2", "glm4", "olmo2"])
def test_a_norm_right_after_attention_is_no_path_and_the_warning_says_so(kind):
    """Such a norm takes α out again: all is decided at once, whatever the rule makes of it."""
    with pytest.warns(UserWarning, match=r"with α = 0.05 F is where it is with α = 1, and stays there"):
        att = attattr.attribute_inputs(tiny(kind), inputs([7]))
    assert not att.certified and "norm" in att.causes[0]
    assert attattr.attribute_inputs(tiny("llama"), inputs([7])).certified  # the same with its norms before attention


def test_a_layer_that_is_there_by_chance_is_no_norm():
    """Layer 1 passes at α = 0.05 where it will be in the end; MiniLM has its norms after the residual connection."""
    att = attattr.attribute(*attattr.load("mnli"), ("a man sleeps .", "a man is awake ."))
    assert att.certified and not att.causes


def test_jumps_of_a_router_are_named():
    with pytest.warns(UserWarning, match="experts are chosen by a router"):
        assert not attattr.attribute_inputs(tiny("mixtral"), inputs([7])).certified


def test_a_decision_that_no_attention_changes_is_not_certified():
    model = bert()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([2000.0, 0.0, 0.0]))
    with pytest.warns(UserWarning, match="F is the same without any of the attention"):
        att = attattr.attribute_inputs(model, inputs([6]), target=0)
    assert not att.certified and float(att.scores.abs().max()) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_in_half_precision_do_not_ask_for_what_rounding_takes(dtype):
    """The rule's error is told apart from what rounding makes, and both together hold against the same weights in float32."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        att = attattr.attribute_inputs(bert().to(dtype), inputs([6]), target=0)
    assert int(att.evaluations.max()) <= 15 and att.rounding == 8 * torch.finfo(dtype).eps
    wide = attattr.attribute_inputs(bert().to(dtype).float(), inputs([6]), target=0, steps=24)
    errors = (att.scores - wide.scores).flatten(1).norm(dim=1) / wide.scores.flatten(1).norm(dim=1)
    assert (errors <= att.error).all() and errors.max() > 2 * torch.finfo(torch.float32).eps
    if dtype == torch.bfloat16:
        assert not att.certified and "rounding of the model's numbers alone may make an error of 0.062" in str(warned[0].message)


def test_a_text_takes_no_more_memory_than_it_may(sst2):
    """Passes are cut into smaller ones; the numbers are the same."""
    text = "a warm and funny film . " * 8
    whole, *_ = (attattr.attribute(*sst2, text, memory=memory) for memory in (None,))
    passes = []
    small = attattr.attribute(*sst2, text, memory=0.08)
    assert relative(small.scores, whole.scores) <= 1e-5 and small.certified
    recording = tap.record(sst2[0], dict(sst2[1](text, return_tensors="pt")), gradients=True)
    assert recording.saved[0] > 1e5 and list(recording.saved) == sorted(recording.saved, reverse=True)
    for memory in (0.08, 0.5):
        path = AttentionPath(sst2[0], recording, recording.logits.detach().argmax(-1), memory=memory)
        passes.append([len(chunk) for chunk in path.chunks(torch.arange(6).repeat_interleave(20))])
    assert len(passes[0]) > len(passes[1]) and sum(passes[0]) == sum(passes[1]) == 120
    least = 2 * max(recording.saved) / 2**30
    with pytest.raises(ValueError, match=rf"memory={least / 2!r} GiB: expected at least {least:.2g}"):
        attattr.attribute(*sst2, text, memory=least / 2)


def test_layers_and_heads_of_choice_are_those_of_all():
    model, given = bert(), inputs([6])
    whole = attattr.attribute_inputs(model, given)
    some = attattr.attribute_inputs(model, given, layers=[2, 0], heads=[1, 3])
    assert some.layers == (0, 2) and some.heads == (1, 3)
    assert torch.allclose(some.scores, whole.scores[[0, 2]][:, [1, 3]], atol=1e-6)
    assert torch.allclose(some.difference, whole.difference[[0, 2]]) and some.certified
    with pytest.raises(ValueError, match="expected all heads of layers of one kind"):
        attattr.attribution_graph(some, terminal=0)
    for wrong in ([3], [-1], [], ["0"], 1, [True, 0.5]):
        with pytest.raises(ValueError, match="expected a list of some of 0 to"):
            attattr.attribute_inputs(model, given, layers=wrong)
    for wrong in ([4], [-1], [], ["0"]):
        with pytest.raises(ValueError, match=r"heads=.*expected a list of some of 0 to 3"):
            attattr.attribute_inputs(model, given, heads=wrong)
