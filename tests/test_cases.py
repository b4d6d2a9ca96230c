"""What users of other packages stumbled over, by kind: the right value, computed another way, or a refusal in words.

Every row of the two reviews of inputs is here, and relatives of each that nobody has reported yet. Right is what a plain forward pass
says; of scores, that they sum to what F loses when a layer's attention is zeroed in a whole forward pass.
"""

import copy
import dataclasses
import inspect
import pickle
import re
import warnings
from contextlib import contextmanager

import datasets
import numpy as np
import pandas
import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from test_saliency import letters
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from toys import WORDS, bert, family, tiny
from transformers import PreTrainedTokenizerFast

import attattr
from attattr import tap
from attattr.batches import length_limit, predict, texts_and_labels
from attattr.saliency import RELEVANCES, blank_out, input_gradient, integrated_gradients, masking_curves
from attattr.triggers import predict_attacked

ENCODER = letters(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
DECODER = letters(special=False, pad_token="[PAD]", unk_token="[UNK]")
TEXTS = ["a b c", "d e f g h i j", "k"]
ROWS = [
    {"text": text, "label": label} for text, label in zip(["a b c", "d e f g", "h i", "j k l m n", "o p"], (0, 1, 2, 0, 1), strict=True)
]
TRIGGER = attattr.Trigger(("z",), (1.0,), (0,), 0.0, "LABEL_0")
KEEP = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) > 0.4
IMPORTANCE = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quiet():
    """What the path cannot tell of random models is no news here; the tests that are about it look at ``causes``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def unchecked(function):
    """A function without the type checks that only the tests have."""
    return inspect.unwrap(function)


def changed(model, **options):
    """A model with another configuration."""
    for name, value in options.items():
        setattr(model.config, name, value)
    return model


def classifier(**options):
    torch.manual_seed(0)
    usual = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**usual, initializer_range=0.15, **options)).eval()


def logits(model, tokenizer, text):
    """What the model itself says of one text."""
    parts = text if isinstance(text, tuple) else (text,)
    takes = inspect.signature(model.forward).parameters
    inputs = {name: part for name, part in tokenizer(*parts, return_tensors="pt").items() if name in takes or "kwargs" in takes}
    with torch.no_grad():
        return model(**inputs).logits[0].double()


def lost(model, inputs, decide, layers):
    """F(A) - F(0) of every layer, by whole forward passes in which the layer's contexts are zeroed."""
    found = []
    with torch.no_grad():
        whole = float(decide(model(**inputs)))
        for layer in range(layers):
            with tap.tapped(model, lambda now, context, weights, layer=layer: context * (now != layer)):
                found.append(whole - float(decide(model(**inputs))))
    return torch.tensor(found)


def is_right(att, model, inputs, decide):
    """F is what the model says, and the scores of every layer sum to what F loses without its attention, but for the gap they own up to."""
    with torch.no_grad():
        # A pass of float32 is itself up to 4e-6 from one of float64 here (t5), another way on each processor.
        assert att.value == pytest.approx(float(decide(model(**inputs))), abs=1e-5)
    expected = lost(model, inputs, decide, len(att.scores))
    assert expected.abs().max() > 1e-4  # else the sums say nothing
    assert torch.allclose(att.difference, expected, atol=5e-6)
    assert ((att.scores.sum((1, 2, 3)) - expected).abs() <= att.completeness + 1e-5).all()


@contextmanager
def refused(error, message):
    """A refusal in words, and not one of torch's or Python's own."""
    with pytest.raises(error, match=message) as found:
        yield
    assert type(found.value) is error


# Names follow ids ---------------------------------------------------------------------------------------------------------------------

NAMES = {0: "bad", 1: "good", 2: "middling"}
ORDERS = [{1: "good", 2: "middling", 0: "bad"}, {"2": "middling", "0": "bad", "1": "good"}]


def named(one):
    """The name of a parameter in that of its test, the same in every process: without places in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(one))[:60]


@pytest.mark.parametrize("order", ORDERS, ids=named)
def test_the_order_of_id2label_changes_nothing(order):
    model = bert()
    model.config = transformers.BertConfig.from_dict(model.config.to_dict() | {"id2label": order, "label2id": {}})
    answers = torch.stack([logits(model, ENCODER, row["text"]) for row in ROWS]).argmax(-1)
    att = attattr.attribute(model, ENCODER, "a b c", steps=1)
    assert att.label == NAMES[int(logits(model, ENCODER, "a b c").argmax())]
    assert attattr.attribute(model, ENCODER, "a b c", target="good", steps=1).target == 1
    named = [row | {"label": NAMES[row["label"]]} for row in ROWS]
    accuracy = float((answers == torch.tensor([row["label"] for row in ROWS])).float().mean())
    for rows in (ROWS, named):
        assert float(attattr.pruning_curve(model, ENCODER, rows, IMPORTANCE, [0.0]).accuracy[0]) == pytest.approx(accuracy)
        hit = attattr.attack(model, ENCODER, rows, TRIGGER)
        assert hit.rows == {"bad": 2, "good": 2, "middling": 1}
        assert hit.before == {
            name: pytest.approx(float((answers[[i for i, row in enumerate(ROWS) if row["label"] == number]] == number).double().mean()))
            for number, name in NAMES.items()
        }
    plain = attattr.head_importance(bert(), ENCODER, ROWS)
    assert torch.equal(attattr.head_importance(model, ENCODER, named), plain)


@pytest.mark.parametrize(
    "names", [{0: "a", 1: "b"}, {1: "a", 2: "b", 3: "c"}, {0: "a", 1: "b", 2: "c", 3: "d"}, {0: "a", 1: "a", 2: "b"}, {5: "a"}], ids=named
)
def test_names_that_are_not_one_for_each_output_are_refused_everywhere(names):
    model = changed(bert(), id2label=names)
    rows = [row | {"label": 0} for row in ROWS]
    for ask in (
        lambda: attattr.attribute(model, ENCODER, "a b"),
        lambda: attattr.head_importance(model, ENCODER, rows),
        lambda: attattr.pruning_curve(model, ENCODER, rows, IMPORTANCE),
        lambda: attattr.attack(model, ENCODER, rows, TRIGGER),
        lambda: attattr.mine_triggers(model, ENCODER, rows, classes=None),
        lambda: blank_out(model, ENCODER, "a b"),
    ):
        with refused(ValueError, "id2label is .*expected a name for each of the ids 0 to"):
            ask()


def test_classes_without_names_have_numbers_and_names_that_are_numbers_are_names():
    nameless = changed(bert(), id2label=None)
    best = int(logits(nameless, ENCODER, "a b c").argmax())
    assert attattr.attribute(nameless, ENCODER, "a b c").label == str(best)
    assert torch.equal(attattr.head_importance(nameless, ENCODER, ROWS), attattr.head_importance(bert(), ENCODER, ROWS))
    with refused(ValueError, "has no names for its classes"):
        attattr.mine_triggers(nameless, ENCODER, ROWS)
    numbered = changed(bert(), id2label={0: 10, 1: 20, 2: 30})
    assert attattr.attribute(numbered, ENCODER, "a b", target="20").target == 1


# What F is ----------------------------------------------------------------------------------------------------------------------------

PROBLEMS = [
    ({"num_labels": 1}, 0, "output", lambda out: out[0]),
    ({"num_labels": 1, "problem_type": "regression"}, 0, "output", lambda out: out[0]),
    ({"num_labels": 1, "problem_type": "multi_label_classification"}, 0, "probability of the label", lambda out: out.sigmoid()[0]),
    ({"num_labels": 3, "problem_type": "regression"}, 2, "output", lambda out: out[2]),
    ({"num_labels": 3, "problem_type": "multi_label_classification"}, 1, "probability of the label", lambda out: out.sigmoid()[1]),
    ({"num_labels": 3, "problem_type": "single_label_classification"}, 1, "probability", lambda out: out.softmax(-1)[1]),
    ({"num_labels": 3}, 2, "probability", lambda out: out.softmax(-1)[2]),
]


@pytest.mark.parametrize(("options", "target", "quantity", "decide"), PROBLEMS, ids=named)
def test_f_is_what_the_models_own_problem_makes_of_its_outputs(options, target, quantity, decide):
    model, text = classifier(**options), "a b c"
    inputs = ENCODER(text, return_tensors="pt")
    att = attattr.attribute(model, ENCODER, text, target=target, steps=4)
    assert att.quantity == quantity
    is_right(att, model, inputs, lambda out: decide(out.logits[0].double()))
    assert attattr.attribute_inputs(model, inputs, target=target, steps=1).value == pytest.approx(att.value, abs=1e-6)
    masked = {**inputs, "input_ids": inputs["input_ids"].clone()}
    masked["input_ids"][0, 2] = ENCODER.mask_token_id
    with torch.no_grad():
        change = float(decide(model(**inputs).logits[0].double()) - decide(model(**masked).logits[0].double()))
    assert float(blank_out(model, ENCODER, text, target=target)[2]) == pytest.approx(change, abs=1e-6)
    curves = masking_curves(model, ENCODER, text, torch.tensor([0.0, 0, 1, 0, 0]), target=target, shares=[1 / 3])
    assert curves.whole == pytest.approx(att.value, abs=1e-6)
    assert float(curves.whole - curves.without[0]) == pytest.approx(change, abs=1e-6)
    everything = predict(model, ENCODER, [text])[0]
    assert float(everything[target]) == pytest.approx(att.value, abs=1e-6)


@pytest.mark.parametrize("options", [one[0] for one in PROBLEMS[:5]], ids=named)
def test_models_that_choose_no_class_have_no_accuracy(options):
    model = classifier(**options)
    for label in (0, 0.5, [1, 0, 1]):
        rows = [row | {"label": label} for row in ROWS]
        for ask in (attattr.head_importance, attattr.mine_triggers):
            with refused(ValueError, "does not choose one of its classes"):
                ask(model, ENCODER, rows)
        with refused(ValueError, "does not choose one of its classes"):
            attattr.pruning_curve(model, ENCODER, rows, torch.rand(2, 4))
        with refused(ValueError, "does not choose one of its classes"):
            attattr.attack(model, ENCODER, rows, TRIGGER)


TARGETS = [1, np.int64(1), np.str_("LABEL_1"), "LABEL_1", torch.tensor(1), ["LABEL_1"], [1], np.array([1]), torch.tensor([1])]


@pytest.mark.parametrize("target", [*TARGETS, pandas.Series([1], index=[9])], ids=named)
def test_a_class_may_be_spelled_in_many_ways(target):
    assert attattr.attribute(bert(), ENCODER, "a b", target=target, steps=1).label == "LABEL_1"


@pytest.mark.parametrize("targets", [[0, 2], np.array([0, 2]), torch.tensor([0, 2]), pandas.Series([0, 2]), ["LABEL_0", 2]], ids=named)
def test_each_text_may_have_its_own_target(targets):
    found = attattr.attribute(bert(), ENCODER, ["a b c", "d"], target=targets, steps=1)
    assert [att.target for att in found] == [0, 2]
    for att, text, target in zip(found, ("a b c", "d"), (0, 2), strict=True):
        assert att.value == pytest.approx(float(logits(bert(), ENCODER, text).softmax(-1)[target]), abs=1e-6)


def test_each_text_may_have_its_own_function():
    model = bert()
    functions = [lambda out, example: out.logits[:, 0], lambda out, example: out.logits[:, 1], 2]
    found = attattr.attribute(model, ENCODER, ["a b", "a b", "a b"], target=functions, steps=1)
    plain = logits(model, ENCODER, "a b")
    assert [att.value for att in found] == pytest.approx([float(plain[0]), float(plain[1]), float(plain.softmax(-1)[2])], abs=1e-6)


@pytest.mark.parametrize("target", ["b", "label_1", 3, -1, True, None, 0.5, (1, 2), {"a": 1}, b"LABEL_1", [1, 2], [[1]]], ids=named)
def test_targets_that_are_none_are_refused(target):
    with refused(ValueError, "unknown target|2 targets for 1 texts|expected one token"):
        unchecked(attattr.attribute)(bert(), ENCODER, "a b", target=target)


def test_labels_of_a_saturated_model_are_not_certified_and_small_numbers_are_shown():
    model = bert()
    with torch.no_grad():
        model.classifier.weight.mul_(2000)
    att = attattr.attribute(model, ENCODER, "a b c", steps=4)
    assert not att.certified
    full = bert()
    with torch.no_grad():
        full.classifier.bias[1] += 2000
    saturated = attattr.attribute(full, ENCODER, "a b c")
    assert not saturated.scores.any()
    assert not saturated.certified
    assert any("saturated" in cause for cause in saturated.causes)
    near = bert()
    with torch.no_grad():
        near.classifier.bias[1] += 12
    html = attattr.attribute(near, ENCODER, "a b c", target=1, steps=4)._repr_html_()
    assert "0.0000" not in html
    assert "e-0" in html


# Padding ------------------------------------------------------------------------------------------------------------------------------

PADS = {
    "tokenizer pads as the model": (0, DECODER),
    "the model pads with another": (2, DECODER),
    "with one that texts have": (7, DECODER),
    "only the model has one": (39, letters(special=False, unk_token="[UNK]")),
    "only the tokenizer has one": (None, DECODER),
    "neither has one": (None, letters(special=False, unk_token="[UNK]")),
    "none, by -1": (-1, DECODER),
    "one beyond the vocabulary": (WORDS + 60, DECODER),
    "the tokenizer's is a word": (None, letters(special=False, unk_token="[UNK]", pad_token="c")),
    "on the left": (0, letters(special=False, unk_token="[UNK]", pad_token="[PAD]", padding_side="left")),
}


FEW = {
    "llama": ("with one that texts have", "neither has one", "on the left"),
    "qwen3": ("the model pads with another", "neither has one"),
    "opt": ("neither has one",),
    "bloom": ("the model pads with another",),
}


@pytest.mark.parametrize(
    ("name", "pads"), [("gpt2", pads) for pads in PADS] + [(name, pads) for name, some in FEW.items() for pads in some]
)
def test_a_decoder_says_of_a_text_in_a_list_what_it_says_of_it_alone(name, pads):
    pad, tokenizer = PADS[pads]
    model = changed(tiny(name) if name in ("qwen3", "opt", "bloom") else family(name), pad_token_id=pad)
    found = attattr.attribute(model, tokenizer, TEXTS, steps=1)
    alone = attattr.attribute(model, tokenizer, TEXTS[0], steps=1)
    assert torch.allclose(found[0].scores, alone.scores, atol=1e-6)
    for text, att in zip([*TEXTS, TEXTS[0]], [*found, alone], strict=True):
        assert att.value == pytest.approx(float(logits(model, tokenizer, text).softmax(-1)[att.target]), abs=1e-6)
    assert model.config.pad_token_id == pad
    assert torch.allclose(predict(model, tokenizer, TEXTS)[1], logits(model, tokenizer, TEXTS[1]).softmax(-1), atol=1e-6)


class MeanOfAll(nn.Module):
    """Reads the mean over all places, padding too: no mask would help."""

    def __init__(self):
        super().__init__()
        self.inner = family("llama")

    def forward(self, input_ids, attention_mask=None):
        return self.inner.score(self.inner.model(input_ids, attention_mask=attention_mask).last_hidden_state.mean(1))


@pytest.mark.parametrize("kind", ["xlnet", "xlm", "mpnet", "mean of all", "left-padding encoder"])
def test_models_that_padding_changes_are_given_none(kind):
    torch.manual_seed(0)
    model = MeanOfAll() if kind == "mean of all" else bert() if kind == "left-padding encoder" else tiny(kind)
    tokenizer = copy.deepcopy(ENCODER)
    tokenizer.padding_side = "left"
    for text, att in zip(TEXTS[:2], attattr.attribute(model, tokenizer, TEXTS[:2], steps=1), strict=True):
        alone = attattr.attribute(model, tokenizer, text, steps=1)
        assert att.value == pytest.approx(alone.value, abs=1e-5)
        assert torch.allclose(att.scores, alone.scores, atol=1e-5)


def test_tensors_may_be_padded_on_either_side():
    model = changed(family("llama"), pad_token_id=0)
    left = {"input_ids": torch.tensor([[0, 0, 5, 9], [5, 6, 7, 8]]), "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])}
    right = {"input_ids": torch.tensor([[5, 9, 0, 0], [5, 6, 7, 8]]), "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])}
    (one, _), (other, _) = (attattr.attribute_inputs(model, inputs, steps=2, tokens=[["a", "e"], list("abcd")]) for inputs in (left, right))
    alone = attattr.attribute_inputs(model, {"input_ids": torch.tensor([[5, 9]])}, steps=2, tokens=["a", "e"])
    for att in (one, other):
        assert att.tokens == ("a", "e")
        assert att.value == pytest.approx(alone.value, abs=1e-5)
        assert torch.allclose(att.scores, alone.scores, atol=1e-5)


# Models that are something else -------------------------------------------------------------------------------------------------------


def ddp():
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(bert())


WRAPPED = {
    "DataParallel": (lambda: nn.DataParallel(bert()), r"expected its \.module"),
    "DistributedDataParallel": (ddp, r"expected its \.module"),
    "compiled": (lambda: torch.compile(bert()), r"expected its \._orig_mod"),
    "a pipeline": (lambda: transformers.pipeline("text-classification", model=bert(), tokenizer=ENCODER), r"expected its \.model"),
    "a name": (lambda: "sst2", "not the model itself"),
    "None": (lambda: None, "not the model itself"),
    "the tokenizer": (lambda: ENCODER, "not the model itself"),
    "on meta": (lambda: bert().to("meta"), "on the device 'meta'.*expected the whole model in memory"),
}
ASKED = {
    "attribute": lambda model: unchecked(attattr.attribute)(model, ENCODER, "a b"),
    "attribute_inputs": lambda model: unchecked(attattr.attribute_inputs)(model, ENCODER("a b", return_tensors="pt")),
    "head_importance": lambda model: unchecked(attattr.head_importance)(model, ENCODER, ROWS),
    "taylor": lambda model: unchecked(attattr.head_importance)(model, ENCODER, ROWS, method="taylor"),
    "pruning_curve": lambda model: unchecked(attattr.pruning_curve)(model, ENCODER, ROWS, IMPORTANCE),
    "mine_triggers": lambda model: unchecked(attattr.mine_triggers)(model, ENCODER, ROWS, classes=None),
    "attack": lambda model: unchecked(attattr.attack)(model, ENCODER, ROWS, TRIGGER),
    "gradient": lambda model: unchecked(input_gradient)(model, ENCODER, "a b"),
    "prune_heads": lambda model: unchecked(attattr.prune_heads)(model, KEEP),
}


@pytest.mark.parametrize("asked", [name for name in ASKED if name != "mine_triggers"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_not_the_model_itself_is_refused(kind, asked):
    make, message = WRAPPED[kind]
    with refused(TypeError, message):
        ASKED[asked](make())


def inference_buffer():
    model = bert()
    with torch.inference_mode():
        model.bert.embeddings.register_buffer("position_ids", torch.arange(64)[None], persistent=False)
    return model


def made_in_inference():
    with torch.inference_mode():
        return bert()


def widened_in_inference():
    model = bert()
    with torch.inference_mode():
        return model.double()


@pytest.mark.parametrize("make", [made_in_inference, widened_in_inference, inference_buffer])
@pytest.mark.parametrize("asked", ["attribute", "attribute_inputs", "head_importance", "taylor", "gradient"])
def test_a_model_made_in_inference_mode_is_refused(make, asked):
    with refused(TypeError, "was made in inference mode.*load the model outside"):
        ASKED[asked](make())


def test_a_call_in_inference_mode_and_inputs_made_in_it_are_right():
    model = bert()
    with torch.inference_mode():
        inputs = ENCODER("a b c", return_tensors="pt")
        inside = attattr.attribute(model, ENCODER, "a b c", steps=4)
    outside = attattr.attribute_inputs(model, inputs, steps=4)
    assert torch.allclose(inside.scores, outside.scores, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(attattr.attribute(model, ENCODER, "a b c", steps=4).scores, inside.scores, atol=1e-6)


def int8(part=None):
    model = bert()
    quantized = torch.ao.quantization.quantize_dynamic(model if part is None else model.bert.encoder.layer[part], {nn.Linear}, torch.qint8)
    if part is None:
        return quantized
    model.bert.encoder.layer[part] = quantized
    return model


@pytest.mark.parametrize("part", [None, 1, 2])
def test_an_int8_model_is_refused_where_a_gradient_is_asked_for(part):
    model = int8(part)
    for asked in ("attribute", "attribute_inputs", "head_importance", *(("taylor", "gradient") if part is None else ())):
        with refused(TypeError, "no gradient: expected layers that have one"):
            ASKED[asked](model)
    if part is None:
        with refused(TypeError, "no gradient"):
            integrated_gradients(model, ENCODER, "a b")


class Wrapper(nn.Module):
    """A model of one's own around another."""

    def __init__(self, tensor):
        super().__init__()
        self.inner, self.tensor = bert(), tensor

    def forward(self, **inputs):
        return self.inner(**inputs).logits if self.tensor else self.inner(**inputs)


class Own(nn.Module):
    """A model with its own attention, from outside transformers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(WORDS, 32), nn.Linear(32, 3)
        self.layers = nn.ModuleList(nn.ModuleDict({name: nn.Linear(32, 32) for name in "qkvo"}) for _ in range(2))

    def forward(self, input_ids, attention_mask=None):
        states = 2 * self.table(input_ids)
        for layer in self.layers:
            q, k, v = (layer[name](states).unflatten(-1, (4, 8)).transpose(1, 2) for name in "qkv")
            scores = q @ k.transpose(-2, -1)
            if attention_mask is not None:
                scores = scores.masked_fill(attention_mask[:, None, None] == 0, -1e9)
            states = states + layer["o"]((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))
        return self.out(states[:, 0])


@pytest.mark.parametrize("make", [lambda: Wrapper(False), lambda: Wrapper(True), Own])
def test_a_module_of_ones_own_is_explained(make):
    model = make()

    def decide(out):
        return (out if isinstance(out, torch.Tensor) else out.logits)[0].double().softmax(-1)[1]

    att = attattr.attribute(model, ENCODER, TEXTS, target=1, steps=4)[0]
    takes = ("input_ids", "attention_mask")
    is_right(att, model, {name: part for name, part in ENCODER(TEXTS[0], return_tensors="pt").items() if name in takes}, decide)
    assert att.label == "1"
    for asked in ("head_importance", "pruning_curve", "prune_heads"):
        with refused(TypeError, "expected a model of one stack, whose configuration has num_hidden_layers"):
            ASKED[asked](model)
    with refused(TypeError, "takes no inputs_embeds"):
        ASKED["gradient"](model)


@pytest.mark.parametrize("tokenizer", ["bert", None, ENCODER.backend_tokenizer, str.split], ids=named)
def test_what_is_no_tokenizer_is_refused(tokenizer):
    with refused(TypeError, "is no tokenizer of transformers"):
        unchecked(attattr.attribute)(bert(), tokenizer, "a b")


def test_tokens_that_the_model_does_not_know_are_refused():
    foreign = copy.deepcopy(ENCODER)
    foreign.add_tokens([f"zz{number}" for number in range(20)])
    for ask in (attattr.attribute, blank_out):
        with refused(ValueError, "token 'zz19', number 50, is none of the model's 40"):
            ask(bert(), foreign, "a zz19 b")
    with refused(ValueError, "token 'zz19'"):
        attattr.attack(bert(), foreign, ROWS, dataclasses.replace(TRIGGER, tokens=("zz19",)))
    assert attattr.attribute(bert(), foreign, "a b", steps=1).tokens == ("[CLS]", "a", "b", "[SEP]")


@pytest.mark.parametrize("name", ["roberta", "distilbert", "bert"])
def test_segments_that_a_model_does_not_know_are_left_out(name):
    pair, tokenizer = ("a b", "c d e"), copy.deepcopy(ENCODER)
    model = sized_as("Roberta", type_vocab_size=1) if name == "roberta" else family(name)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    inputs = dict(tokenizer(*pair, return_tensors="pt"))
    assert inputs["token_type_ids"].any()
    if name == "roberta":
        inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
    elif name == "distilbert":
        del inputs["token_type_ids"]
    is_right(attattr.attribute(model, tokenizer, pair, target=1, steps=4), model, inputs, lambda out: out.logits[0].double().softmax(-1)[1])


def test_a_configuration_that_asks_for_tuples_or_attention_changes_nothing():
    expected = attattr.attribute(bert(), ENCODER, "a b c", steps=4)
    eager = {"output_attentions": True, "attn_implementation": "eager"}
    for options in ({"return_dict": False}, eager, {"output_hidden_states": True}, {"use_cache": True}):
        found = attattr.attribute(bert(**options), ENCODER, "a b c", steps=4)
        assert torch.allclose(found.scores, expected.scores, atol=1e-6), options


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "autocast"])
def test_half_precision_stops_where_rounding_does_and_says_so(kind):
    model = bert() if kind == "autocast" else bert().to(getattr(torch, kind))
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        att = attattr.attribute(model, ENCODER, "a b c")
        loose = attattr.attribute(model, ENCODER, "a b c", tolerance=0.3)
    whole = attattr.attribute(bert(), ENCODER, "a b c")
    assert int(att.evaluations.sum()) <= 4 * int(whole.evaluations.sum())
    assert float((att.scores - whole.scores).norm() / whole.scores.norm()) < (0.02 if kind == "float16" else 0.2)
    assert loose.certified
    assert not att.certified


# PEFT ---------------------------------------------------------------------------------------------------------------------------------

VIRTUAL = {
    "prompt": lambda task: PromptTuningConfig(task_type=task, num_virtual_tokens=4),
    "p-tuning": lambda task: PromptEncoderConfig(task_type=task, num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix": lambda task: PrefixTuningConfig(task_type=task, num_virtual_tokens=4),
}
ADAPTED = {
    "lora": lambda: LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False),
    "dora": lambda: LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False, use_dora=True),
    "ia3": lambda: IA3Config(task_type="SEQ_CLS", target_modules=["key", "value"], feedforward_modules=[], init_ia3_weights=False),
}


def adapted(config, base=None):
    torch.manual_seed(1)
    return get_peft_model(base or bert(), config).eval()


@pytest.mark.parametrize("name", VIRTUAL)
def test_tokens_of_the_models_own_are_refused_where_attention_is_asked_for(name):
    model = adapted(VIRTUAL[name]("SEQ_CLS"))
    many = (
        "attention among 1. tokens, and inputs of .: expected as many|queries to 1. keys in layer 0 .*: expected all tokens to all tokens"
    )
    asks = [lambda: attattr.attribute(model, ENCODER, "a b c d e f"), lambda: attattr.attribute(model, ENCODER, TEXTS)]
    asks += [lambda method=method: attattr.head_importance(model, ENCODER, ROWS, method=method) for method in ("attribution", "attention")]
    asks += [lambda: attattr.attribute_inputs(model, dict(ENCODER("a b c d e f", return_tensors="pt")))]
    for ask in asks:
        with pytest.raises((ValueError, TypeError), match=many):
            ask()
    change = logits(model, ENCODER, "a b c").softmax(-1) - logits(model, ENCODER, "a [MASK] c").softmax(-1)
    assert float(blank_out(model, ENCODER, "a b c", target=1)[2]) == pytest.approx(float(change[1]), abs=1e-6)
    assert torch.allclose(predict(model, ENCODER, TEXTS)[1], logits(model, ENCODER, TEXTS[1]).softmax(-1), atol=1e-6)
    language = adapted(VIRTUAL[name]("CAUSAL_LM"), causal())
    with pytest.raises((ValueError, TypeError), match="expected"):
        attattr.attribute(language, DECODER, "a b c")


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_are_part_of_the_model(name):
    model = adapted(ADAPTED[name]())
    att = attattr.attribute(model, ENCODER, "a b c", target=1, steps=4)
    assert abs(att.value - attattr.attribute(bert(), ENCODER, "a b c", target=1, steps=1).value) > 1e-3
    is_right(att, model, dict(ENCODER("a b c", return_tensors="pt")), lambda out: out.logits[0].double().softmax(-1)[1])
    merged = attattr.attribute(copy.deepcopy(model).merge_and_unload(), ENCODER, "a b c", target=1, steps=4)
    assert torch.allclose(merged.scores, att.scores, atol=1e-5)


# Encoder and decoder ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_stacks():
    """By name: a model of two stacks, and its explanation of one text."""
    found = {}
    for name in ("bart", "t5", "mbart"):
        model = changed(tiny(name), eos_token_id=3)
        found[name] = model, attattr.attribute(model, ENCODER, "a b c", target=1, steps=12)
    return found


@pytest.mark.parametrize("name", ["bart", "t5", "mbart"])
def test_layers_of_an_encoder_decoder_have_kinds_and_their_own_tokens(two_stacks, name):
    model, att = two_stacks[name]
    assert att.kinds == ("encoder",) * 3 + ("decoder", "cross") * 3
    assert att.layers == (0, 1, 2, 0, 0, 1, 1, 2, 2)
    assert att.tokens == ("[CLS]", "a", "b", "c", "[SEP]")
    first = "[SEP]" if name == "mbart" else "[CLS]"
    assert att.decoder_tokens == (first, "[CLS]", "a", "b", "c")  # shifted to the right
    inputs = {key: part for key, part in ENCODER("a b c", return_tensors="pt").items() if key != "token_type_ids"}
    is_right(att, model, inputs, lambda out: out.logits[0].double().softmax(-1)[1])
    parts = [att.of_kind(kind) for kind in ("encoder", "decoder", "cross")]
    assert sum(float(part.scores.sum()) for part in parts) == pytest.approx(float(att.scores.sum()), abs=1e-5)
    assert [part.tokens[0] for part in parts] == ["[CLS]", first, "[CLS]"]
    assert not parts[1].scores.triu(1).any()
    with refused(ValueError, "unknown kind of layers 'crossed'|crossed"):
        att.of_kind("crossed")


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_what_is_not_chained_is_not_chained(two_stacks, name):
    model, att = two_stacks[name]
    for part in (att, att.of_kind("cross")):
        with refused(ValueError, "expected all heads of layers of one kind, from 0 up"):
            attattr.attribution_graph(part, terminal=0)
        with refused(ValueError, "expected all heads of layers of one kind, from 0 up"):
            attattr.receptive_field(part)
        for relevance in ("rollout", "flow", "rollout of attribution", "flow of attribution"):
            with refused(ValueError, "expected all heads of layers of one kind, from 0 up"):
                RELEVANCES[relevance](model, ENCODER, part)
    for relevance in ("attribution, its row", "attribution, all rows", "attribution, all layers", "raw attention"):
        with refused(ValueError, "tokens of an encoder and of a decoder: expected one kind, as att.of_kind"):
            RELEVANCES[relevance](model, ENCODER, att)
    with refused(ValueError, "tokens of an encoder and of a decoder"):
        att.by_word()
    encoder = att.of_kind("encoder")
    assert torch.equal(encoder.by_word().scores, encoder.scores)
    rollout = attattr.attention_rollout(encoder.attention)
    assert torch.equal(
        RELEVANCES["rollout"](model, ENCODER, dataclasses.replace(encoder, scores=encoder.scores * 0 + torch.eye(5)[0][:, None])),
        rollout[:, 0],
    )
    assert attattr.attribution_graph(encoder, terminal=0).has_node((3, 0))


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_heads_of_an_encoder_decoder_are_refused_and_its_triggers_too(two_stacks, name):
    model = two_stacks[name][0]
    for asked in ("head_importance", "taylor", "pruning_curve", "prune_heads"):
        with refused(TypeError, "expected a model of one stack"):
            ASKED[asked](model)
    with refused(ValueError, "tokens of an encoder and of a decoder"):
        attattr.mine_triggers(model, ENCODER, ROWS)
    written = [logits(model, ENCODER, row["text"] + " z").argmax(-1) for row in ROWS]
    assert predict_attacked(model, ENCODER, [row["text"] for row in ROWS], TRIGGER).tolist() == written


# Not classifiers ----------------------------------------------------------------------------------------------------------------------


def sized(name, **options):
    """A small model of transformers by its class's name."""
    usual = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    return getattr(transformers, name)(transformers.BertConfig(**usual, initializer_range=0.15, **options)).eval()


def sized_as(kind, **options):
    """A small classifier of a family that is built as BERT is."""
    usual = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = getattr(transformers, f"{kind}Config")(**usual | {"num_labels": 3, "initializer_range": 0.15} | options)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


def causal():
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.15}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=2, eos_token_id=2)).eval()


TOKEN_TARGETS = [("predicted", None), ("b", "b"), (6, "b"), (("b", "d"), "b − d"), (("b", 8), "b − d"), (("predicted", "e"), None)]


@pytest.mark.parametrize(("target", "label"), TOKEN_TARGETS, ids=named)
@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_a_language_model_is_explained_by_the_logit_of_a_token_or_the_difference_of_two(kind, target, label):
    model, tokenizer = (sized("BertForMaskedLM"), ENCODER) if kind == "masked" else (causal(), DECODER)
    texts, places = (["a [MASK] c", "[MASK]"], (2, 1)) if kind == "masked" else (["a b c", "d"], (-1, -1))
    for text, place, att in zip(texts, places, attattr.attribute(model, tokenizer, texts, target=target, steps=4), strict=True):
        best = int(logits(model, tokenizer, text)[place].argmax())
        numbers = [
            {"predicted": best, "b": 6, "d": 8, "e": 9}.get(one, one) for one in (target if isinstance(target, tuple) else (target,))
        ]
        assert att.target == (tuple(numbers) if len(numbers) > 1 else numbers[0])

        def decide(out, place=place, numbers=numbers):
            return out.logits[0, place, numbers[0]].double() - sum(out.logits[0, place, one].double() for one in numbers[1:])

        is_right(att, model, dict(tokenizer(text, return_tensors="pt")), decide)
        assert att.quantity == ("difference of logits" if isinstance(target, tuple) else "logit")
        assert label in (None, att.label)
        assert att.probabilities is None
    own = attattr.attribute(
        model, tokenizer, texts, target=["predicted", target] if not isinstance(target, tuple) else [target] * 2, steps=1
    )
    assert own[1].value == pytest.approx(att.value, abs=1e-6)


def test_tokens_and_places_that_are_none_are_refused():
    masked = sized("BertForMaskedLM")
    for text in ("a b c", "a [MASK] [MASK]"):
        with refused(ValueError, r"masks in \[.*expected one, the place where the model predicts"):
            attattr.attribute(masked, ENCODER, text)
    for target in ("bb", "a b", ("a", "b", "c"), 40, -1, ("a", 40), ["a", ("b", "c")], True):
        with refused(ValueError, "expected one token|unknown target|2 targets for 1 texts"):
            attattr.attribute(masked, ENCODER, "a [MASK]", target=target)
    for ask in (attattr.head_importance, attattr.mine_triggers):
        with refused(TypeError, "expected a classifier, a row for each text"):
            ask(causal(), DECODER, ROWS)
    with refused(TypeError, "expected a classifier"):
        predict(causal(), DECODER, TEXTS)


def test_a_token_without_a_name_has_its_number():
    model = causal()
    with torch.no_grad():
        model.lm_head.weight[39] += 3 * model.transformer.wte.weight.norm(dim=1).max()  # the letters end at 30
        model.transformer.ln_f.bias[:] = 1
    att = attattr.attribute(model, DECODER, "a b", steps=1)
    assert (att.label, att.target) == ("39", 39)


NO_DECISION = {
    "BertModel": "no logits but .*last_hidden_state.*or target=FUNCTION",
    "BertForPreTraining": "no logits but .*prediction_logits.*or target=FUNCTION",
    "BertForQuestionAnswering": "no logits but .*start_logits.*or target=FUNCTION",
    "BertForTokenClassification": r"TokenClassifierOutput with logits of shape \(1, 5, 2\) is no single decision: expected target=FUNCTION",
}


@pytest.mark.parametrize("name", NO_DECISION)
def test_outputs_that_are_no_decision_ask_for_a_function(name):
    model = sized(name)
    for ask in (attattr.attribute, blank_out):
        with refused(TypeError, NO_DECISION[name]):
            ask(model, ENCODER, "a b c")
    with refused(TypeError, "no logits but|expected a classifier"):
        attattr.head_importance(model, ENCODER, ROWS)
    functions = {
        "BertModel": lambda out, example=None: out.last_hidden_state[:, 0, :8].sum(-1),
        "BertForPreTraining": lambda out, example=None: out.seq_relationship_logits[:, 1],
        "BertForQuestionAnswering": lambda out, example=None: out.start_logits[:, 2] + out.end_logits[:, 3],
        "BertForTokenClassification": lambda out, example=None: out.logits.softmax(-1)[:, 2, 1],
    }
    att = attattr.attribute(model, ENCODER, "a b c", target=functions[name], steps=4)
    is_right(att, model, dict(ENCODER("a b c", return_tensors="pt")), functions[name])
    assert (att.target, att.probabilities) == (None, None)


def test_a_next_sentence_head_has_no_names_of_classes():
    model, pair = sized("BertForNextSentencePrediction"), ("a b", "c d")
    att = attattr.attribute(model, ENCODER, pair)
    assert att.label in ("0", "1")
    is_right(att, model, dict(ENCODER(*pair, return_tensors="pt")), lambda out: out.logits[0].double().softmax(-1)[att.target])


def test_multiple_choice_folds_its_choices_into_rows_and_is_refused():
    model = sized("BertForMultipleChoice")
    with pytest.raises((ValueError, TypeError), match=r"attention of 2 rows in layer 0|cannot take inputs of these shapes"):
        attattr.attribute_inputs(model, {"input_ids": torch.randint(4, WORDS, (1, 2, 5))})
    with refused(ValueError, "BertForMultipleChoice cannot take inputs of these shapes"):
        attattr.attribute(model, ENCODER, "a b c")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda out, example: out.last_hidden_state[:, 0], r"target gave torch.float32 of shape \(1, 32\)"),
        (lambda out, example: 1.0, r"target gave 1\.0"),
        (lambda out, example: None, "target gave None"),
        (lambda out, example: out.last_hidden_state[:, 0, 0].long(), "target gave torch.int64"),
        (lambda out, example: out.last_hidden_state[0, 0, 0], r"of shape \(\)"),
        (lambda out, example: out.last_hidden_state[:, 0, 0].detach(), "has no gradient"),
        (lambda out, example: out.last_hidden_state[:, 0, 0].detach().numpy(), "target gave array"),
    ],
    ids=["of many", "float", "None", "whole", "scalar", "detached", "numpy"],
)
def test_functions_that_give_no_number_for_each_row_are_refused(target, message):
    with refused(TypeError, message):
        attattr.attribute(sized("BertModel"), ENCODER, "a b c", target=target)
    with refused(ValueError, "target gave .*nan.*expected finite numbers"):
        attattr.attribute(sized("BertModel"), ENCODER, "a b c", target=lambda out, example: out.last_hidden_state[:, 0, 0] * float("nan"))


def test_a_function_is_told_of_its_text():
    seen = []

    def target(out, example):
        seen.append((example.tokens, example.length, tuple(example.padding.tolist())))
        return out.logits[:, 0]

    attattr.attribute(bert(), ENCODER, ["a b c", "d"], target=target, steps=1)
    assert set(seen) == {(("[CLS]", "a", "b", "c", "[SEP]"), 5, (False,) * 5), (("[CLS]", "d", "[SEP]"), 3, (False,) * 3)}


def test_pictures_are_explained():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.15}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)).eval()
    pixels = torch.randn(2, 3, 8, 8)
    found = attattr.attribute_inputs(model, {"pixel_values": pixels}, target=[1, "LABEL_2"], steps=4)
    for row, (att, target) in enumerate(zip(found, (1, 2), strict=True)):
        assert att.tokens == ("0", "1", "2", "3", "4")
        own = {"pixel_values": pixels[[row]]}
        is_right(att, model, own, lambda out, target=target: out.logits[0].double().softmax(-1)[target])


SIDES = {
    "d_model": 32,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
}


def whisper():
    size = {"vocab_size": WORDS, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 10, "init_std": 0.2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(**SIDES, **size, **ids, suppress_tokens=None, begin_suppress_tokens=None)
    return transformers.WhisperForConditionalGeneration(config).eval()


def t5_writer():
    size = {"vocab_size": WORDS, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48, "initializer_factor": 2.0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**size, decoder_start_token_id=0)).eval()


def bart_writer():
    size = {"vocab_size": WORDS, "max_position_embeddings": 64, "init_std": 0.15, "eos_token_id": 3, "forced_eos_token_id": 3}
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**SIDES, **size, decoder_start_token_id=2)).eval()


SPOKEN = {
    "whisper": (whisper, {"input_features": torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0))}, 10),
    "t5": (t5_writer, {"input_ids": torch.tensor([[5, 6, 7, 3]])}, 4),
    "bart": (bart_writer, {"input_ids": torch.tensor([[2, 5, 6, 7, 8, 3]])}, 6),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_what_a_decoder_writes_next_is_explained(name):
    make, inputs, places = SPOKEN[name]
    torch.manual_seed(0)
    model, inputs = make(), inputs | {"decoder_input_ids": torch.tensor([[2, 9, 11]])}
    att = attattr.attribute_inputs(model, inputs, target=(7, 8), steps=8)
    assert att.kinds == ("encoder",) * 2 + ("decoder", "cross") * 2
    assert att.tokens == tuple(map(str, range(places)))
    assert att.decoder_tokens == ("2", "9", "11")
    is_right(att, model, inputs, lambda out: (out.logits[0, -1, 7] - out.logits[0, -1, 8]).double())
    assert att.of_kind("cross").scores.shape[2:] == (3, places)
    assert att.of_kind("decoder").tokens == ("2", "9", "11")
    assert att.of_kind("encoder").scores.shape[2:] == (places, places)


def clip():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.2}
    text = sizes | {"vocab_size": WORDS, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    vision = sizes | {"image_size": 8, "patch_size": 4}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()


def test_clip_is_explained_by_how_a_picture_fits_a_text():
    model = clip()
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "pixel_values": pixels}
    att = attattr.attribute_inputs(model, inputs, target=lambda out, example: out.logits_per_image.diagonal(), steps=8)
    is_right(att, model, inputs, lambda out: out.logits_per_image[0, 0].double())
    for of_others in (lambda out, example: out.logits_per_image[:, 0], lambda out, example: out.logits_per_text.mean(0)):
        with refused(ValueError, "gives a row what is of other rows: expected a number of each row by itself"):
            attattr.attribute_inputs(model, inputs, target=of_others, steps=1)


# Inputs -------------------------------------------------------------------------------------------------------------------------------

IDS = torch.tensor([[2, 5, 3]])
BAD_INPUTS = {
    "none": ({}, ValueError, r"inputs \[\]: expected tensors by name"),
    "lists": ({"input_ids": [[2, 5, 3]]}, ValueError, "expected tensors by name"),
    "arrays": ({"input_ids": np.array([[2, 5, 3]])}, ValueError, "expected tensors by name"),
    "no rows": ({"input_ids": IDS[:0]}, ValueError, "expected tensors by name, with a row for each example"),
    "a tensor": (IDS, TypeError, "inputs of type Tensor: expected tensors by name"),
    "text": ("a b", TypeError, "inputs of type str"),
    "one axis": ({"input_ids": IDS[0]}, ValueError, "."),
    "floats": ({"input_ids": IDS.float()}, ValueError, r"cannot take inputs of these shapes, types or numbers, \{'input_ids': \(1, 3\)"),
    "beyond": ({"input_ids": IDS + 60}, ValueError, "cannot take inputs of these shapes, types or numbers"),
    "negative": ({"input_ids": IDS - 9}, ValueError, "cannot take inputs of these shapes, types or numbers"),
    "segments": ({"input_ids": IDS, "token_type_ids": IDS}, ValueError, "cannot take inputs of these shapes, types or numbers"),
    "all hidden": ({"input_ids": IDS, "attention_mask": IDS * 0}, ValueError, "the attention_mask hides all tokens of row 0"),
    "other names": ({"ids": IDS}, ValueError, "input_ids"),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_inputs_that_are_none_are_refused(kind):
    inputs, error, message = BAD_INPUTS[kind]
    with refused(error, message):
        unchecked(attattr.attribute_inputs)(bert(), inputs)


@pytest.mark.parametrize("tokens", [["a"], [], [["a", "b", "c"]] * 2, list("abcd"), "ab"], ids=named)
def test_names_that_are_not_of_the_tokens_are_refused(tokens):
    with refused(ValueError, "tokens for the 3 of row 0|tokens of 2 examples for 1 rows"):
        unchecked(attattr.attribute_inputs)(bert(), {"input_ids": IDS}, tokens=tokens)


@pytest.mark.parametrize("wanted", [[2, 0, 2], (0, 2), range(0, 3, 2), np.array([0, 2]), [np.int64(2), 0]], ids=named)
def test_some_layers_and_heads_are_those_of_all(wanted):
    whole = attattr.attribute(bert(), ENCODER, "a b c", steps=4)
    some = unchecked(attattr.attribute)(bert(), ENCODER, "a b c", steps=4, layers=wanted, heads=wanted)
    assert some.layers == some.heads == (0, 2)
    assert torch.allclose(some.scores, whole.scores[[0, 2]][:, [0, 2]], atol=1e-7)
    assert torch.allclose(some.difference, whole.difference[[0, 2]])
    assert torch.equal(some.attention, whole.attention[[0, 2]][:, [0, 2]])
    with refused(ValueError, "expected all heads of layers of one kind"):
        attattr.attribution_graph(some)


@pytest.mark.parametrize(
    "wanted", [[], [4], [-1], [1.0], 1, "1", [True, False, True], np.array([True, False]), "all", {}, [[0]]], ids=named
)
@pytest.mark.parametrize("name", ["layers", "heads"])
def test_layers_and_heads_that_are_none_are_refused(name, wanted):
    with refused(ValueError, f"{name}=.*: expected .*some of 0 to"):
        unchecked(attattr.attribute)(bert(), ENCODER, "a b", **{name: wanted})


# Rows and texts -----------------------------------------------------------------------------------------------------------------------

COLUMN = datasets.Dataset.from_dict({"text": TEXTS})
CONTAINERS = {
    "list": TEXTS,
    "tuple of three": tuple(TEXTS),
    "Series of an odd index": pandas.Series(TEXTS, index=[7, 3, 3]),
    "Series of strings": pandas.Series(TEXTS, dtype="string"),
    "categories": pandas.Series(TEXTS, dtype="category"),
    "Index": pandas.Index(TEXTS),
    "array": np.array(TEXTS),
    "array of objects": np.array(TEXTS, dtype=object),
    "np.str_": [np.str_(text) for text in TEXTS],
    "dataset": COLUMN,
    "dataset column": COLUMN["text"],
    "streamed": datasets.IterableDataset.from_generator(lambda: iter([{"text": text} for text in TEXTS])),
    "DataFrame": pandas.DataFrame({"text": TEXTS}, index=[5, 5, 1]),
    "list of dicts": [{"text": text} for text in TEXTS],
    "tuple of dicts": tuple({"text": text} for text in TEXTS),
    "dict of lists": {"text": TEXTS},
    "dict of arrays": {"text": np.array(TEXTS)},
    "pyarrow": COLUMN.data.table,
    "keys": dict.fromkeys(TEXTS).keys(),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_texts_may_come_in_any_container(kind):
    given = CONTAINERS[kind]
    assert [str(text) for text in attattr.texts_of(given)] == TEXTS
    found = unchecked(attattr.attribute)(bert(), ENCODER, given, steps=1)
    assert [att.tokens[1:-1] for att in found] == [tuple(text.split()) for text in TEXTS]


def test_generators_pairs_and_own_columns():
    assert attattr.texts_of(text for text in TEXTS) == attattr.texts_of(map(str, TEXTS)) == TEXTS
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    for given in (pairs, [list(pair) for pair in pairs], np.array(pairs), zip(TEXTS, TEXTS[::-1], strict=True)):
        assert attattr.texts_of(given) == pairs
    table = pandas.DataFrame({"q": TEXTS, "c": TEXTS[::-1], "gold": [0, 1, 2]})
    assert attattr.texts_of(table, "q") == TEXTS
    assert attattr.texts_of(table, ["q", "c"]) == attattr.texts_of(table, ("q", "c")) == pairs
    assert attattr.texts_of(table[::-1], ("c", "q")) == [pair[::-1] for pair in pairs][::-1]
    assert attattr.texts_of({"premise": TEXTS, "hypothesis": TEXTS[::-1]}) == pairs
    assert attattr.texts_of({"text": "a b"}) == ["a b"]
    assert [att.text for att in attattr.attribute(bert(), ENCODER, table, columns="c", steps=1)] == TEXTS[::-1]
    for columns in ("z", ("q", "z"), ["q", "c", "gold"], None):
        with refused(ValueError, "rows with the columns .*expected .*columns="):
            attattr.texts_of(table, columns)


BAD_TEXTS = {
    "number": (3, TypeError, "cannot read 3 as a text"),
    "None": (None, TypeError, "cannot read None as a text"),
    "bytes": (b"a b", TypeError, "cannot read b'a b' as a text"),
    "bytes in a list": (["a", b"b"], TypeError, "cannot read b'b' as a text, row 1"),
    "NaN": (["a", float("nan")], TypeError, "cannot read nan as a text, row 1"),
    "missing": (pandas.Series(["a", "b", None]), TypeError, "as a text, row 2"),
    "pd.NA": (pandas.Series(["a", pandas.NA], dtype="string"), TypeError, "as a text, row 1"),
    "a column of numbers": (pandas.DataFrame({"text": [1, 2]}), TypeError, "cannot read 1 as a text, row 0"),
    "empty": (["a", "b", " \t"], ValueError, "empty text ' .*', row 2"),
    "half a pair": ([("a", "b"), ("a", "")], ValueError, "empty text .*row 1"),
    "no texts": ([], ValueError, "empty list of texts"),
    "no rows": (pandas.DataFrame({"text": []}), ValueError, "empty list of texts"),
    "three": ([("a", "b", "c")], TypeError, "cannot read .*row 0: expected a string, or a tuple of two"),
    "no tuple": ((), TypeError, "cannot read"),
    "numbers": (range(3), TypeError, "cannot read 0 as a text, row 0"),
    "tensor": (torch.zeros(2), TypeError, "as a text, row 0"),
    "splits": (datasets.DatasetDict({"train": COLUMN}), TypeError, r"the splits \['train'\]: expected the rows of one"),
    "other columns": (pandas.DataFrame({"review": ["a"]}), ValueError, r"rows with the columns \['review'\]: expected one of .*columns="),
    "a lone surrogate": (["a", "b \ud83d"], ValueError, "row 1, is no Unicode"),
    "zero width": (["a", "\u200b"], ValueError, "makes no token of .*row 1"),
    "a mark": ("\ufeff", ValueError, "makes no token of .*row 0"),
    "second of a pair": (
        [("a", "b"), ("a", "\ufe0f")],
        ValueError,
        "makes no token of .*row 1: expected text in a script it knows, in every part",
    ),
    "first of a pair": (("\u200b", "a"), ValueError, "makes no token of"),
}


def wordpiece(model_max_length=64):
    """A small tokenizer that is built as BERT's."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefgh",
        "un",
        "##happy",
        "##s",
        "好",
        "棒",
        ",",
        "caf",
        "##e",
        "||",
        "|",
        "don",
        "'",
        "t",
    ]
    fast = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=model_max_length, **special)


def bytes_tokenizer():
    """A small tokenizer of bytes, as RoBERTa's: every character is some of 256, marks of spaces too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, "Ġa", "Ġb"]
    fast = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [("Ġ", "a"), ("Ġ", "b")]))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=64, **special)


def unigram():
    """A small tokenizer of pieces with marks of spaces, as T5's or XLNet's."""
    words = ["<pad>", "</s>", "<unk>", "▁", "▁good", "▁film", "s", "好", "▁a", *"abcdefghijklmnopqrtuvwxyz"]
    fast = Tokenizer(models.Unigram([(word, -1.0 - 0.1 * (len(word) < 3)) for word in words], unk_id=2))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=64, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_texts_that_are_none_are_refused_with_their_row(kind):
    texts, error, message = BAD_TEXTS[kind]
    with refused(error, message):
        unchecked(attattr.attribute)(bert(), wordpiece(), texts, steps=1)


LABELS = [
    (["Neg", "POS", "neu"], [0, 2, 1]),
    ([0, 1, 2], [0, 1, 2]),
    ([0.0, 1.0, 2.0], [0, 1, 2]),
    (["2", "1", "0"], [2, 1, 0]),
    (np.array([2, 1, 0], dtype=np.uint8), [2, 1, 0]),
    (pandas.Categorical(["neu", "neg", "pos"]), [1, 0, 2]),
    ([np.str_("pos"), np.int64(1), 0], [2, 1, 0]),
    (["POS", "pos", "Neg"], [2, 2, 0]),
]
BAD_LABELS = [
    0.5,
    None,
    float("nan"),
    float("inf"),
    -1,
    3,
    10**30,
    True,
    "NEGATIVE",
    "neg ",
    "1.0",
    "²",
    "",
    [0],
    {},
    (1, 0),
    b"neg",
    np.bool_(True),
]


def labelled(labels, **reading):
    return texts_and_labels(changed(bert(), id2label={2: "pos", 0: "Neg", 1: "neu"}), ENCODER, {"text": TEXTS, "label": labels}, **reading)[
        1
    ]


@pytest.mark.parametrize(("labels", "numbers"), LABELS, ids=named)
def test_labels_may_be_numbers_or_names(labels, numbers):
    assert labelled(labels) == numbers


@pytest.mark.parametrize("label", BAD_LABELS, ids=named)
def test_labels_that_are_none_are_refused_with_their_row(label):
    with refused(ValueError, r"row 1 has label .*: expected 0 to 2, the classes \['Neg', 'neu', 'pos'\], or names="):
        labelled(pandas.Series([0, label, 1], dtype=object))


def test_names_of_the_rows_are_mapped_to_the_models():
    assert labelled(["bad", "good", "so-so"], names={"bad": "Neg", "good": 2, "so-so": "NEU"}) == [0, 2, 1]
    assert labelled([1, 2, 3], names={1: "Neg", 2: "neu", 3: "pos"}) == [0, 1, 2]
    with refused(ValueError, "row 0 has label bad"):
        labelled(["bad", "Neg", "pos"], names={"bad": "X"})
    cased = changed(bert(), id2label={0: "A", 1: "a", 2: "b"})
    assert texts_and_labels(cased, ENCODER, {"text": TEXTS, "label": ["A", "a", "B"]})[1] == [0, 1, 2]


@pytest.mark.parametrize(
    ("classes", "names", "numbers"),
    [
        (["pos", "NEG", "neu"], None, [2, 0, 1]),
        (["x", "y", "z"], {"x": 2, "y": "neu", "z": "neg"}, [2, 1, 0]),
        (["x", "y", "z"], None, None),
        (["neg", "pos", "other"], None, None),
    ],
)
def test_a_dataset_names_its_classes_and_they_are_the_models_by_name(classes, names, numbers):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=classes)})
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2]}, features=features)
    model = changed(bert(), id2label={2: "pos", 0: "Neg", 1: "neu"})
    if numbers is None:
        with refused(ValueError, "the rows have the classes .*expected those of the model"):
            texts_and_labels(model, ENCODER, rows)
    else:
        assert texts_and_labels(model, ENCODER, rows, names=names)[1] == numbers
    assert texts_and_labels(bert(), ENCODER, rows)[1] == [0, 1, 2]  # a model without names of its own
    unlabelled = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, -1]}, features=features)
    with refused(ValueError, "row 2 has label -1|the rows have the classes"):
        texts_and_labels(model, ENCODER, unlabelled, names=names)


@pytest.mark.parametrize("rows", [[], TEXTS, COLUMN["text"], "food", [*ROWS, "a"], pandas.DataFrame({"text": [], "label": []})], ids=named)
def test_rows_without_columns_are_refused(rows):
    for ask in (attattr.head_importance, attattr.mine_triggers):
        with refused(ValueError, "no rows: expected at least one example with its label, in a table"):
            unchecked(ask)(bert(), ENCODER, rows)
    with refused(ValueError, "no rows: expected"):
        unchecked(attattr.mine_triggers)(bert(), ENCODER, ROWS, "food")


def test_rows_with_other_columns_say_which():
    rows = pandas.DataFrame({"review": TEXTS, "stars": ["neg", "pos", "neu"]})
    with refused(ValueError, r"the columns \['review', 'stars'\]: expected 'label', or label="):
        attattr.head_importance(bert(), ENCODER, rows, columns="review")
    with refused(ValueError, r"the columns \['review', 'stars'\]: expected one of .*columns="):
        attattr.head_importance(bert(), ENCODER, rows, label="stars")
    model = changed(bert(), id2label={2: "pos", 0: "Neg", 1: "neu"})
    found = attattr.head_importance(model, ENCODER, rows, columns="review", label="stars")
    plain = attattr.head_importance(bert(), ENCODER, {"text": TEXTS, "label": [0, 2, 1]})
    assert torch.equal(found, plain)


# Long texts ---------------------------------------------------------------------------------------------------------------------------

LONG = {
    "roberta": lambda: family("roberta"),
    "of 34 positions": lambda: sized_as("Roberta", max_position_embeddings=34, pad_token_id=1),
    "xlm-roberta": lambda: sized_as("XLMRoberta", max_position_embeddings=34, pad_token_id=1),
    "camembert": lambda: sized_as("Camembert", max_position_embeddings=34, pad_token_id=1),
    "mpnet": lambda: sized_as("MPNet", max_position_embeddings=34, pad_token_id=1),
    "bert": lambda: sized_as("Bert", max_position_embeddings=32),
    "electra": lambda: sized_as("Electra", max_position_embeddings=32),
}


@pytest.mark.parametrize("kind", list(LONG)[1:])
def test_a_model_takes_as_many_tokens_as_it_has_positions_and_not_one_more(kind):
    model, tokenizer = LONG[kind](), copy.deepcopy(ENCODER)
    tokenizer.model_max_length = int(1e30)
    assert length_limit(model, tokenizer) == 32
    longest, longer = " ".join("b" * 30), " ".join("b" * 31)
    att = attattr.attribute(model, tokenizer, longest, target=1, steps=1, layers=[0])
    assert len(att.tokens) == 32
    assert att.value == pytest.approx(float(logits(model, tokenizer, longest).softmax(-1)[1]), abs=1e-6)
    with refused(ValueError, "a text of 33 tokens, but this model takes at most 32: shorten 'b b .*, row 1, or pass truncation=True"):
        attattr.attribute(model, tokenizer, ["a", longer], steps=1)
    short = attattr.attribute(model, tokenizer, ["a", longer], steps=1, truncation=True, layers=[0])[1]
    assert (short.text, len(short.tokens)) == (longest, 32)
    hit = attattr.attack(model, tokenizer, [{"text": longest, "label": 0}, {"text": "a", "label": 1}], TRIGGER)
    assert hit.truncated == 1
    pair = attattr.attribute(model, tokenizer, ("a b", longer), steps=1, truncation=True, layers=[0])
    assert len(pair.tokens) == 32
    assert pair.text[0] == "a b"


# Words --------------------------------------------------------------------------------------------------------------------------------

WRITTEN = [
    (wordpiece, "unhappys, a café 好棒", ("[CLS]", "unhappys", ",", "a", "café", "好", "棒", "[SEP]")),
    (wordpiece, ("un happy", "Unhappy"), ("[CLS]", "un", "happy", "[SEP]", "Unhappy", "[SEP]")),
    (wordpiece, "a 👍🏽 b", ("[CLS]", "a", "👍🏽", "b", "[SEP]")),
    (wordpiece, "a [SEP] b", ("[CLS]", "a", "[SEP]", "b", "[SEP]")),
    (bytes_tokenizer, "a 好 👍 é", ("<s>", "a", "好", "👍", "é", "</s>")),
    (bytes_tokenizer, ("bad b", "a b"), ("<s>", "bad", "b", "</s>", "</s>", "a", "b", "</s>")),
    (unigram, "good films 好", ("good", "films", "好", "</s>")),
    (unigram, ("a film", "good"), ("a", "film", "</s>", "good", "</s>")),
]


@pytest.mark.parametrize(("make", "text", "words"), WRITTEN, ids=named)
def test_words_and_places_lead_back_to_the_raw_text(make, text, words):
    tokenizer, parts = make(), text if isinstance(text, tuple) else (text,)
    model = classifier(num_labels=3) if make is not bytes_tokenizer else sized_as_of(300)
    att = attattr.attribute(model, tokenizer, text, target=1, steps=2)
    assert att.words == words
    segments = tokenizer(*parts).sequence_ids()
    assert [span is None for span in att.offsets] == [segment is None for segment in segments]
    for token, span, segment in zip(att.tokens, att.offsets, segments, strict=True):
        assert "\ufffd" not in token
        if span is None or not parts[segment][slice(*span)].strip():
            continue  # a space alone is shown as the tokenizer writes it
        assert "Ġ" not in token
        if span is not None and span[0] < span[1] and "##" not in token and token != "[UNK]" and not token.isascii():
            assert token == parts[segment][slice(*span)].strip()
    by_word = att.by_word()
    assert by_word.tokens == words
    assert torch.allclose(by_word.scores.sum((1, 2, 3)), att.scores.sum((1, 2, 3)), atol=1e-6)
    assert torch.allclose(by_word.attention.sum(-1), torch.ones(1), atol=1e-5)
    for number, word in enumerate(words):
        members = [place for place, mine in enumerate(att.word_of) if mine == number]
        assert torch.allclose(
            by_word.scores[:, :, number, 0],
            att.scores[:, :, members][..., [p for p, w in enumerate(att.word_of) if w == 0]].sum((2, 3)),
            atol=1e-6,
        )
        span = by_word.offsets[number]
        if span is not None:
            assert parts[segments[members[0]]][slice(*span)].strip() == word
    assert torch.equal(by_word.by_word().scores, by_word.scores)
    with refused(ValueError, "expected what `attribute` gave for a text"):
        dataclasses.replace(att, tokens=(*att.tokens, "a")).by_word()


def sized_as_of(vocabulary):
    torch.manual_seed(0)
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.RobertaConfig(vocab_size=vocabulary, **usual, num_labels=3, initializer_range=0.15, pad_token_id=1)
    return transformers.RobertaForSequenceClassification(config).eval()


def test_triggers_of_tweets_with_emoji_are_mined_and_put_in():
    model, tokenizer = classifier(num_labels=3), wordpiece()
    rows = [
        {"text": f"{text} 👍 {end}", "label": label} for text, end, label in zip("abcdef" * 2, "ghabcd" * 2, [0, 1, 2] * 4, strict=True)
    ]
    answers = predict(model, tokenizer, [row["text"] for row in rows]).argmax(-1).tolist()
    rows = [row | {"label": answer} for row, answer in zip(rows, answers, strict=True)]
    rows += [{"text": "a", "label": (answers[0] + 1) % 3}, {"text": "好", "label": answers[0]}]
    name = f"LABEL_{max(set(answers), key=answers.count)}"
    try:
        mined = attattr.mine_triggers(model, tokenizer, rows, selection=rows, top=1, classes=[name], shortlist=3)
    except ValueError as error:
        assert "decided right" in str(error)  # a random model may have one class only
    else:
        assert all("[UNK]" not in trigger.tokens for trigger in mined)
    with refused(ValueError, "makes no token of .*row 1"):
        attattr.head_importance(model, tokenizer, [rows[0], {"text": "\u200b", "label": 0}])


def test_two_bars_in_one_text_are_no_pair():
    model, tokenizer = classifier(num_labels=3), wordpiece()
    att = attattr.attribute(model, tokenizer, "a || b", steps=1)
    assert att.text == "a || b"
    assert "[SEP]" not in att.tokens[1:-1]


# Results ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(two_stacks):
    """Explanations of several kinds."""
    masked = attattr.attribute(sized("BertForMaskedLM"), ENCODER, "a [MASK] c", target=("b", "d"), steps=2)
    some = attattr.attribute(bert(), ENCODER, ("a b", "c"), layers=[1], heads=[0, 2], steps=2)
    own = attattr.attribute(sized("BertModel"), ENCODER, "a", target=lambda out, example: out.last_hidden_state[:, 0, 0], steps=2)
    emoji = attattr.attribute(sized_as_of(300), bytes_tokenizer(), "a 👍", steps=2)
    return [
        attattr.attribute(bert(), ENCODER, "a b c"),
        masked,
        some,
        own,
        emoji,
        two_stacks["bart"][1],
        two_stacks["t5"][1].of_kind("cross"),
    ]


def same(one, other):
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b and type(a) is type(b) for a, b in pairs)


def test_results_are_compared_and_shown_shortly(results):
    for att in results:
        assert att == att
        assert att != copy.copy(att)
        assert len({att, *results}) == len(results)
        assert len(repr(att)) < 120
        assert repr(att.label) in repr(att)
        table = att.to_pandas()
        assert len(table) == att.scores.numel()
        assert table["score"].sum() == pytest.approx(float(att.scores.sum()), abs=1e-4)
        assert table["score"].is_monotonic_decreasing
        row = table.iloc[0]
        queries, keys = att.sides(att.kinds[row.layer])
        assert (row.query_token, row.key_token) == (queries[row["query"]], keys[row.key])
        assert row.score == pytest.approx(float(att.scores[int(row.layer), int(row["head"]), int(row["query"]), int(row.key)]))


def test_words_that_a_tokenizer_does_not_tell_are_refused(results):
    with refused(ValueError, "5 tokens, and words of 0: .* tokenizer that `is_fast`"):
        dataclasses.replace(results[0], word_of=()).by_word()


def test_one_result_or_many_are_saved_and_loaded(results, tmp_path):
    path = tmp_path / "of many.safetensors"
    for given in (results, tuple(results), results[:1], []):
        attattr.save(given, path)
        found = attattr.Attribution.load(path)
        assert isinstance(found, list)
        assert len(found) == len(given)
        assert all(same(one, other) for one, other in zip(given, found, strict=True))
    for att in results:
        att.save(path)
        assert same(att, attattr.Attribution.load(str(path)))
        assert same(att, pickle.loads(pickle.dumps(att)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_files_that_are_damaged_or_something_else_are_refused(results, tmp_path):
    path = tmp_path / "x"
    results[0].save(path)
    whole = path.read_bytes()
    middle = len(whole) - 40
    for damaged in (
        whole[:50],
        whole[:-1],
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        b"",
        b"{}",
        whole.replace(b"LABEL_2", b"LABEL_1"),
    ):
        path.write_bytes(damaged)
        with refused(OSError, "is not a saved Attribution, or is damaged"):
            attattr.Attribution.load(path)
    with pytest.raises(OSError, match="none"):
        attattr.Attribution.load(tmp_path / "none")
    path.write_bytes(whole)
    with pytest.raises(OSError, match="cannot write"):
        results[0].save(tmp_path / "no" / "such" / "folder")
    assert path.read_bytes() == whole


# What the path cannot say -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gemma2", "glm4"])
def test_a_norm_right_after_attention_is_named(kind):
    att = attattr.attribute(tiny(kind), DECODER, "a b c d", steps=4)
    assert not att.certified
    assert any("as if a norm followed attention" in cause for cause in att.causes)
    assert "NOT certified" in att._repr_html_()


def test_llama_and_bert_have_no_norm_there():
    for model, tokenizer in ((family("llama"), DECODER), (bert(), ENCODER)):
        assert attattr.attribute(model, tokenizer, "a b c d").causes == ()


@pytest.mark.parametrize("kind", ["lilt", "canine", "xmod", "modernbert-decoder", "diffllama"])
def test_models_that_crashed_sum_to_what_their_layers_bring(kind):
    own = {"lilt": ("Lilt", {"hidden_size": 48}), "xmod": ("Xmod", {"languages": ["en_XX"], "default_language": "en_XX"})}
    model = sized_as(own[kind][0], **own[kind][1]) if kind in own else tiny(kind)
    texts = ["a b c d e", "f g h i j k l"]
    many = attattr.attribute(model, DECODER, texts, target=1, steps=2)
    takes = inspect.signature(model.forward).parameters
    for text, att in zip(texts, many, strict=True):
        inputs = {name: part for name, part in DECODER(text, return_tensors="pt").items() if name in takes}
        assert att.value == pytest.approx(float(logits(model, DECODER, text).softmax(-1)[1]), abs=1e-5)
        expected = lost(model, inputs, lambda out: out.logits[0].double().softmax(-1)[1], len(att.scores))
        assert torch.allclose(att.difference, expected, atol=1e-5)
