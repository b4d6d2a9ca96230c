"""What must hold of every text, model and number, not of chosen ones: hypothesis looks for the smallest that breaks it.

``ATTATTR_HYPOTHESIS=thorough pytest tests/test_properties.py`` tries 500 examples of each property, by hand; see ``conftest.py``.
"""

import copy
import dataclasses
import functools
import gc
import linecache
import random
import sys
import tempfile
import warnings
from fractions import Fraction
from pathlib import Path

import jaxtyping
import networkx as nx
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import assume, example, given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from test_flow import networkx_flows
from test_graph import attention_edges, made
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from toys import tiny
from transformers import PreTrainedTokenizerFast

import attattr
from attattr.flow import attention_graph, flow_bound, source_bound
from attattr.graph import graph_connections, retained
from attattr.quadrature import METHODS, rule

# Smooth in what the path changes: where a ReLU or a norm right after attention bends it, no rule is exact with few nodes.
ENCODERS = ("bert", "roberta", "albert", "electra", "mpnet", "deberta-v2", "distilbert", "modernbert", "bart")
DECODERS = ("gpt2", "gptj", "bloom", "llama", "qwen2")
SINGLE = ("llama", "qwen2", "gptj", "bloom")  # compute their softmax in float32 whatever the model is in
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TOKENS = 64  # the longest text that a model here takes


@pytest.fixture(scope="module", autouse=True)
def without_type_checks():
    """What a user meets: beartype, which is in the tests only, would be first to refuse, and draws from Python's random numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# The models and their tokenizers


def word_pieces():
    """A tokenizer like BERT's for the 40 words of a toy: a few letters, the same as pieces, and nothing else."""
    letters = "abcdefghijklmnopqr"
    words = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    fast = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=TOKENS, **names)


def single_bytes():
    """A tokenizer like GPT-2's without a merge: each byte is a token, and none is added."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    fast = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", model_max_length=TOKENS)


TOKENIZERS = dict.fromkeys(ENCODERS, word_pieces()) | dict.fromkeys(DECODERS, single_bytes())


@functools.cache
def random_model(kind, seed=0, dtype=torch.float64):
    """A toy with other random weights for each seed; the next caller gets the same object."""
    model, generator = tiny(kind), torch.Generator().manual_seed(seed)
    model.resize_token_embeddings(len(TOKENIZERS[kind]), mean_resizing=False)
    with torch.no_grad():
        for module in model.modules():
            spread = 0.5 if isinstance(module, torch.nn.Embedding) else 0.15
            for parameter in module.parameters(recurse=False):
                if parameter.ndim > 1:
                    parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()


def explained(kind, text, seed=0, dtype=torch.float64, **options):
    """`attattr.attribute` of a toy; a tolerance that is not met is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return attattr.attribute(random_model(kind, seed, dtype), TOKENIZERS[kind], text, **options)


def predicted(model, tokenizer, texts):
    """The probabilities of each text, each by itself, by transformers alone."""
    parts = [text if isinstance(text, tuple) else (text,) for text in texts]
    with torch.no_grad():
        return torch.cat([model(**tokenizer(*part, return_tensors="pt")).logits.softmax(-1) for part in parts])


def projections(model):
    """Of every layer, the projections to queries, keys and values, and the one of the output."""
    found = []
    for layer in [module for module in model.modules() if hasattr(module, "attention")]:
        attention = layer.attention
        if hasattr(attention, "q_lin"):
            found.append(([attention.q_lin, attention.k_lin, attention.v_lin], attention.out_lin))
        elif hasattr(attention, "self"):
            found.append(([attention.self.query, attention.self.key, attention.self.value], attention.output.dense))
    return found


def silenced(model, keep):
    """A copy of the model in which the output projection reads zeros for every head that is not kept."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for (_, output), kept in zip(projections(model), keep, strict=True):
            output.weight[:, (~kept).repeat_interleave(output.in_features // len(kept))] = 0
    return model


def relative(one, other):
    """The distance of two results, as a share of the larger one."""
    return float((one.double() - other.double()).norm() / torch.stack([one.double().norm(), other.double().norm()]).max().clamp_min(1e-12))


# What is drawn

MANY = settings(max_examples=max(30, settings().max_examples))  # where no model is run

HARD = (
    "\x00",
    "\x07\x1b[31m",
    "\u200b",
    "\ufeff",
    "\u00ad",
    "\u202eabc\u202c",
    "مرحبا بالعالم",
    "שלום ab",
    "a\u200db",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "e\u0301a\u0308",
    "a" + "\u0327" * 9,
    "ﷺ",
    "中文 字",
    "\U0010ffff",
    "\ud800",
    "a\udc00",
    "\ud83d\ude00",
    "a" * 50,
    "a" * 101,
    "ab " * 90,
    "||",
    "<b>",
    "$x$",
    "%{x}",
    "{{1}}",
    "[PAD]",
    "[CLS]",
    "a [SEP] b",
    "[UNK]",
    "\u2028",
    "a\r\nb\tc",
    "İıſß",
)
PLAIN = st.text("abc defghij", min_size=1, max_size=14).filter(str.strip)
CONTROLS = st.text(st.characters(categories=["Cc", "Cf", "Co", "Cn", "Cs", "Mn", "Me", "Zl", "Zs", "So"]), max_size=12)
ANYTHING = st.text(max_size=12) | st.text(st.characters(), max_size=12) | CONTROLS | st.sampled_from(HARD) | PLAIN
UNICODE = st.text(max_size=12) | st.sampled_from([hard for hard in HARD if hard.isprintable() or hard.isascii()]) | PLAIN
TEXT = PLAIN | st.tuples(PLAIN, PLAIN)
SEEDS = st.integers(0, 1)
MATRICES = array_shapes(min_dims=2, max_dims=2, max_side=4).flatmap(
    lambda layers_heads: st.integers(1, 6).map(lambda tokens: (*layers_heads, tokens, tokens))
)
FLOATS, WHOLE = st.floats(-1e6, 1e6, width=32), st.integers(-8, 8)  # whole ones are often equal, or right at a threshold
SCORES = MATRICES.flatmap(
    lambda shape: arrays(np.float64, shape, elements=FLOATS) | arrays(np.float64, shape, elements=WHOLE, fill=st.nothing())
)
TAUS = st.floats(0, 1) | st.integers(0, 8).map(lambda eighths: eighths / 8)


@st.composite
def attentions(draw, causal=False):
    """Softmax probabilities of one text, L H N N, some of them exactly 0 or 1."""
    layers, heads, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    raw = draw(arrays(np.float64, (layers, heads, tokens, tokens), elements=st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0, 8)))
    raw = np.tril(raw) if causal else raw
    raw = np.where(raw.sum(-1, keepdims=True) > 1e-3, raw, np.eye(tokens))
    return torch.from_numpy(raw / raw.sum(-1, keepdims=True))


def chosen_heads(shape=(3, 4)):
    return arrays(bool, shape).map(torch.from_numpy)


# Completeness, in every sense


@given(kind=st.sampled_from((*ENCODERS, *DECODERS)), text=TEXT, seed=SEEDS, target=st.integers(0, 2))
def test_scores_sum_to_what_the_decision_loses_without_the_layer(kind, text, seed, target):
    assume(kind != "distilbert")  # its classifier has a ReLU
    att = explained(kind, text, seed, target=target, steps=32)
    totals, near = att.scores.sum((1, 2, 3)), 1e-6 if kind in SINGLE else 1e-8
    assert (totals - att.difference).abs().max() < near
    assert torch.allclose(att.completeness, (totals - att.difference).abs(), atol=1e-12)
    if kind == "bart":
        return  # heads of a model with a decoder are not pruned by layers of its configuration
    model, tokenizer = random_model(kind, seed), TOKENIZERS[kind]
    whole = predicted(model, tokenizer, [text])[0, target]
    for layer, total in enumerate(totals):
        keep = torch.ones(3, 4, dtype=torch.bool)
        keep[layer] = False
        with attattr.prune_heads(model, keep):
            without = predicted(model, tokenizer, [text])[0, target]
        assert float(whole - without) == pytest.approx(float(total), abs=near)


def check_whole(att, text):
    """Refuse an attribution with something missing, or not a number, or not of this text."""
    layers, heads, tokens, _ = att.scores.shape
    assert att.text == text
    assert att.scores.shape == att.attention.shape == (layers, heads, tokens, len(att.tokens))
    assert tokens and all(isinstance(token, str) for token in att.tokens)
    for measure in (att.difference, att.completeness, att.error, att.evaluations):
        assert measure.shape == (layers,)
    parts = (att.scores, att.attention, att.probabilities, att.difference, att.completeness)
    assert all(part.isfinite().all() for part in parts)
    assert torch.allclose(att.attention.sum(-1), torch.ones(()), atol=2e-3)
    assert float(att.probabilities.sum()) == pytest.approx(1, abs=1e-4)
    assert att.target == int(att.probabilities.argmax())
    assert isinstance(att.label, str)
    assert torch.allclose(att.scores.double().sum((1, 2, 3)), att.difference.double(), atol=1e-6 + float(att.completeness.max()))
    assert att._repr_html_()


def refused_in_words(error):
    """Whether an error was raised by a line of this package that says so, not by something that it had called."""
    *_, last = iter_frames(error.__traceback__)
    line = linecache.getline(last.tb_frame.f_code.co_filename, last.tb_lineno).strip()
    return "attattr" in Path(last.tb_frame.f_code.co_filename).parts and line.startswith("raise ")


def iter_frames(traceback):
    while traceback:
        yield traceback
        traceback = traceback.tb_next


def whole_or_refused(kind, text, **options):
    """The attributions of a text, or of a list, all of them whole; none if the call was refused in words."""
    model = random_model(kind, dtype=torch.float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = attattr.attribute(model, TOKENIZERS[kind], text, **options)
    except (TypeError, ValueError) as error:
        assert refused_in_words(error), f"{type(error).__name__} that is not ours: {error}"
        assert len(str(error)) > 20
        return []
    return found if isinstance(text, list) else [found]


@given(kind=st.sampled_from(("bert", "roberta", "gpt2", "llama")), text=ANYTHING | st.tuples(ANYTHING, ANYTHING))
@example(kind="bert", text="a" * 5000)
@example(kind="gpt2", text=("a", "\x00"))
def test_any_text_gives_a_whole_attribution_or_is_refused_in_words(kind, text):
    for att in whole_or_refused(kind, text, steps=3):
        check_whole(att, text)


@given(texts=st.lists(ANYTHING | st.tuples(ANYTHING, ANYTHING), max_size=4))
def test_any_list_gives_as_many_whole_attributions_or_is_refused_in_words(texts):
    found = whole_or_refused("bert", texts, steps=2)
    assert len(found) in (0, len(texts))
    for att, text in zip(found, texts, strict=bool(found)):
        check_whole(att, text)


@given(text=st.text(st.sampled_from("\x00\x01\x7f\u200b\u200d\ufeff\u00ad\u202e\ufffd"), min_size=1, max_size=6))
def test_a_text_of_which_only_special_tokens_are_made_is_refused(text):
    assert whole_or_refused("bert", text, steps=2) == []
    assert whole_or_refused("bert", ("a", text), steps=2) == []


@given(
    text=st.text(st.sampled_from("ab\ud800\udfff"), max_size=5),
    surrogate=st.sampled_from("\ud800\udc00\udfff"),
    kind=st.sampled_from(["bert", "gpt2"]),
)
def test_a_lone_surrogate_is_refused(text, surrogate, kind):
    assert whole_or_refused(kind, text + surrogate, steps=2) == []


NO_TEXT = st.none() | st.integers() | st.binary(max_size=3) | st.booleans() | st.dictionaries(st.text(max_size=2), PLAIN, max_size=1)


@given(text=NO_TEXT | st.lists(NO_TEXT, min_size=1, max_size=2) | st.tuples(PLAIN, NO_TEXT) | st.just(()))
def test_what_is_no_text_is_refused_in_words(text):
    assert whole_or_refused("bert", text, steps=2) == []


ODD = st.none() | st.booleans() | st.text(max_size=3) | st.floats() | st.integers(-(2**70), 2**70) | st.just((0, 1))


@given(
    option=st.sampled_from(["target", "method", "tolerance", "steps", "memory"]), value=ODD | st.integers(-3, 9) | st.sampled_from(METHODS)
)
@example(option="tolerance", value="x")
@example(option="steps", value=True)
def test_any_option_works_or_is_refused_in_words(option, value):
    assume(not (option == "steps" and isinstance(value, int) and value > 200))  # asks for more than there is time
    assume(not callable(value))
    for att in whole_or_refused("bert", "a b", **{"steps": 3 if option != "tolerance" else "auto"} | {option: value}):
        assert att.scores.isfinite().all()


# A text is the same in any company


@given(
    kind=st.sampled_from((*ENCODERS, *DECODERS)), texts=st.lists(TEXT, min_size=2, max_size=4), seed=SEEDS, method=st.sampled_from(METHODS)
)
def test_a_text_in_a_batch_with_others_is_what_it_is_alone(kind, texts, seed, method):
    near = 1e-4 if kind in SINGLE else 1e-8
    together = explained(kind, texts, seed, method=method, steps=3)
    for text, att in zip(texts, together, strict=True):
        alone = explained(kind, text, seed, method=method, steps=3)
        assert (att.text, att.tokens, att.target, att.label) == (alone.text, alone.tokens, alone.target, alone.label)
        assert relative(att.scores, alone.scores) < near
        assert relative(att.attention, alone.attention) < near
        assert torch.allclose(att.difference, alone.difference, atol=near)


@given(texts=st.lists(PLAIN, min_size=2, max_size=5), order=st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_matter(texts, order):
    places = list(range(len(texts)))
    order.shuffle(places)
    straight, shuffled = explained("bert", texts, steps=2), explained("bert", [texts[place] for place in places], steps=2)
    for place, att in zip(places, shuffled, strict=True):
        assert att.text == texts[place]
        assert relative(att.scores, straight[place].scores) < 1e-8


@given(kind=st.sampled_from(DECODERS), text=TEXT, dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_nothing_is_attributed_to_the_future(kind, text, dtype):
    att = explained(kind, text, dtype=dtype, steps=2)
    assert not att.attention.triu(1).any()
    assert not att.scores.triu(1).any()
    assert not att.scores[-1, :, :-1].any()  # the classifier reads the last token


@given(kind=st.sampled_from(("bert", "gpt2", "deberta-v2", "bart")), texts=st.lists(PLAIN, min_size=1, max_size=2), steps=st.integers(1, 4))
def test_the_same_call_twice_gives_the_same_bits_in_any_mode(kind, texts, steps):
    first = explained(kind, texts, steps=steps)
    with torch.inference_mode():
        second = explained(kind, texts, steps=steps)
    model = random_model(kind).train()
    try:
        with torch.no_grad():
            third = explained(kind, texts, steps=steps)
    finally:
        model.eval()
    for one, *others in zip(first, second, third, strict=True):
        for name in ("scores", "attention", "probabilities", "difference", "completeness", "error"):
            assert all(torch.equal(getattr(one, name), getattr(other, name)) for other in others), name


@given(
    kind=st.sampled_from((*ENCODERS, *DECODERS)),
    text=PLAIN,
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    seed=SEEDS,
)
def test_half_precision_is_near_the_same_weights_in_full(kind, text, dtype, seed):
    half = explained(kind, text, seed, dtype, target=0, steps=4)
    full = copy.deepcopy(random_model(kind, seed, dtype)).double()
    exact = attattr.attribute(full, TOKENIZERS[kind], text, target=0, steps=4)
    assert half.scores.dtype == torch.float32
    assert relative(half.scores, exact.scores) < (1e-4 if dtype == torch.float32 else 0.2)
    assert torch.allclose(half.probabilities.double(), exact.probabilities.double(), atol=1e-4 if dtype == torch.float32 else 0.05)


# Heads


PERMUTED = ("bert", "roberta", "electra", "distilbert")


@given(kind=st.sampled_from(PERMUTED), text=TEXT, seed=SEEDS, orders=st.lists(st.permutations(range(4)), min_size=3, max_size=3))
def test_permuted_heads_permute_the_matrices(kind, text, seed, orders):
    model, before = copy.deepcopy(random_model(kind, seed)), explained(kind, text, seed, steps=3)
    with torch.no_grad():
        for (inputs, output), order in zip(projections(model), orders, strict=True):
            rows = torch.cat([torch.arange(8) + 8 * head for head in order])
            for linear in inputs:
                linear.weight.copy_(linear.weight[rows].clone())
                linear.bias.copy_(linear.bias[rows].clone())
            output.weight.copy_(output.weight[:, rows].clone())
    after = attattr.attribute(model, TOKENIZERS[kind], text, steps=3)
    for layer, order in enumerate(orders):
        assert torch.allclose(after.attention[layer], before.attention[layer, order], atol=1e-6)
        assert torch.allclose(after.scores[layer], before.scores[layer, order], atol=1e-10)


@given(kind=st.sampled_from(PERMUTED), text=TEXT, seed=SEEDS, keep=chosen_heads())
def test_silenced_heads_score_nothing_and_attend_as_before(kind, text, seed, keep):
    before = explained(kind, text, seed, steps=2)
    after = attattr.attribute(silenced(random_model(kind, seed), keep), TOKENIZERS[kind], text, steps=2)
    assert not after.scores[~keep].any()
    lowest = int((~keep).any(1).nonzero()[0]) if not keep.all() else 2
    assert torch.equal(after.attention[: lowest + 1], before.attention[: lowest + 1])  # above, it is another text that they read


@given(kind=st.sampled_from(PERMUTED), text=TEXT, seed=SEEDS, keep=chosen_heads())
def test_inside_prune_heads_pruned_heads_score_nothing_or_the_call_is_refused(kind, text, seed, keep):
    model, tokenizer = random_model(kind, seed), TOKENIZERS[kind]
    expected = attattr.attribute(silenced(model, keep), tokenizer, text, steps=2)
    with attattr.prune_heads(model, keep):
        try:
            found = attattr.attribute(model, tokenizer, text, steps=2)
        except ValueError as error:
            assert refused_in_words(error)
            return
    assert not found.scores[~keep].any()
    assert relative(found.scores, expected.scores) < 1e-8
    assert torch.allclose(found.attention, expected.attention, atol=1e-6)


@given(kind=st.sampled_from(PERMUTED), texts=st.lists(TEXT, min_size=1, max_size=3), seed=SEEDS, keep=chosen_heads())
def test_pruned_silenced_and_removed_heads_are_the_same(kind, texts, seed, keep):
    model, tokenizer = random_model(kind, seed), TOKENIZERS[kind]
    zeroed, smaller = silenced(model, keep), attattr.remove_heads(model, keep)
    expected = predicted(zeroed, tokenizer, texts)
    with attattr.prune_heads(model, keep):
        pruned = predicted(model, tokenizer, texts)
    assert torch.allclose(pruned, expected, atol=1e-10)
    assert torch.allclose(predicted(smaller, tokenizer, texts), expected, atol=1e-10)
    assert smaller.num_parameters() <= model.num_parameters()
    if len(set(keep.sum(1).tolist())) == 1 and keep.any():  # as many heads in each layer: then it can be explained, too
        scores = attattr.attribute(zeroed, tokenizer, texts[0], steps=2).scores
        kept = torch.stack([of_layer[mine] for of_layer, mine in zip(scores, keep, strict=True)])
        assert relative(attattr.attribute(smaller, tokenizer, texts[0], steps=2).scores, kept) < 1e-8


def rows_of(texts, labels):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["LABEL_0", "LABEL_1", "LABEL_2"])})
    return Dataset.from_dict({"sentence": texts, "label": [labels[i % len(labels)] for i in range(len(texts))]}, features=features)


MEASURES = ("attribution", "taylor", "taylor-logits", "accuracy", "attention")


@given(
    kind=st.sampled_from(("bert", "gpt2")),
    method=st.sampled_from(MEASURES),
    texts=st.lists(PLAIN, min_size=1, max_size=3),
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=3),
    seed=SEEDS,
)
def test_the_importance_of_a_head_is_the_mean_of_its_importances_to_single_texts(kind, method, texts, labels, seed):
    model, tokenizer, rows = random_model(kind, seed), TOKENIZERS[kind], rows_of(texts, labels)
    mean, each = attattr.head_importance(model, tokenizer, rows, method=method, return_per_example=True)
    assert mean.isfinite().all()
    assert torch.allclose(mean, each.mean(0))
    for number in range(len(texts)):
        alone = attattr.head_importance(model, tokenizer, rows.select([number]), method=method)
        assert torch.allclose(alone, each[number], atol=1e-6)
    if method == "attention":
        assert ((mean > 0) & (mean <= 1 + 1e-6)).all()


# The model is left as it was


def bits(tensor):
    return tensor.detach().clone().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def everything(model):
    """Whatever a call could have changed: of the model, of torch, of the interpreter."""
    modules = list(model.modules())
    return {
        "weights": {name: bits(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]},
        "parts": [sorted(vars(module)) for module in modules],
        "hooks": [{name: list(part.items()) for name, part in vars(module).items() if "hook" in name and part} for module in modules],
        "forward": [module.forward for module in modules],
        "mode": [module.training for module in modules],
        "gradients": [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        "config": repr(model.config.to_dict()),
        "class": type(model.config),
        "random": (bits(torch.get_rng_state()), random.getstate(), repr(np.random.get_state())),
        "torch": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch._C._len_torch_function_stack(),
        ),
    }


class Interrupt(BaseException):
    """What KeyboardInterrupt is to a notebook."""


ROWS = rows_of(["a b", "c d e", "b", "d a"], [0, 1, 2])
HALF = torch.arange(12).reshape(3, 4) % 2 == 0


def pruned(model, tokenizer):
    with torch.random.fork_rng(), attattr.prune_heads(model, HALF):
        predicted(model, tokenizer, ["a b c"])


CALLS = {
    "attribute": lambda model, tokenizer: attattr.attribute(model, tokenizer, ["a b", "c d e"]),
    "riemann": lambda model, tokenizer: attattr.attribute(model, tokenizer, ("a", "b c"), method="riemann", steps=3),
    "prune": pruned,
    "curve": lambda model, tokenizer: attattr.pruning_curve(model, tokenizer, ROWS, torch.arange(12.0).reshape(3, 4), (0.0, 0.5)),
    "triggers": lambda model, tokenizer: attattr.mine_triggers(model, tokenizer, ROWS, ROWS, top=1, shortlist=1),
    "attack": lambda model, tokenizer: attattr.attack(model, tokenizer, ROWS, attattr.Trigger(("a",), (0.5,), (0,), 0.0, "LABEL_0")),
    **{method: functools.partial(attattr.head_importance, rows=ROWS, method=method) for method in MEASURES},
}
OF_BERT = {"remove": lambda model, tokenizer: attattr.remove_heads(model, HALF)}
BAD = {
    "no text": {"text": 3},
    "empty": {"text": " "},
    "empty list": {"text": []},
    "long": {"text": "a " * 99},
    "target": {"target": "?"},
    "method": {"method": "?"},
    "steps": {"steps": 0},
    "tolerance": {"tolerance": 2.0},
    "surrogate": {"text": "\ud800"},
}


def in_some_mode(kind, frozen, training):
    """A copy of a toy with some frozen weights and some modules in training mode; GPT-2 as it comes, without a token for padding."""
    model = copy.deepcopy(random_model(kind, dtype=torch.float32))
    if kind == "gpt2":
        model.config.pad_token_id = None
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad = number % 3 not in frozen
    for number, module in enumerate(model.modules()):
        module.training = number % 5 in training
    return model


SOME = st.frozensets(st.integers(0, 4))
LEFT = st.sampled_from(("bert", "deberta-v2", "gpt2", "llama"))


@given(kind=LEFT, call=st.sampled_from(sorted(CALLS | OF_BERT)), frozen=SOME, training=SOME)
def test_a_call_leaves_the_model_as_it_was(kind, call, frozen, training):
    assume(call not in OF_BERT or kind == "bert")
    model = in_some_mode(kind, frozen, training)
    before = everything(model)
    try:
        (CALLS | OF_BERT)[call](model, TOKENIZERS[kind])
    except ValueError as error:
        assert refused_in_words(error)
    assert everything(model) == before


@given(kind=LEFT, bad=st.sampled_from(sorted(BAD)), frozen=SOME, training=SOME)
def test_a_refusal_leaves_the_model_as_it_was(kind, bad, frozen, training):
    model = in_some_mode(kind, frozen, training)
    before = everything(model)
    with pytest.raises((TypeError, ValueError)):
        attattr.attribute(model, TOKENIZERS[kind], **{"text": "a b", "steps": 2} | BAD[bad])
    assert everything(model) == before


@given(kind=LEFT, place=st.integers(0, 10**6), training=SOME, value=st.sampled_from([np.nan, np.inf, -np.inf]))
@example(kind="bert", place=267, training=frozenset(), value=np.nan)  # of the keys of layer 2
def test_weights_that_are_no_numbers_are_refused_or_have_no_say(kind, place, training, value):
    model = in_some_mode(kind, (), training)
    with torch.no_grad():
        weights = list(model.parameters())
        weight = weights[place % len(weights)].reshape(-1)
        weight[place % len(weight)] = value
    before = everything(model)
    try:
        att = attattr.attribute(model, TOKENIZERS[kind], "a b", steps=2)
    except ValueError as error:
        assert refused_in_words(error)
    else:
        assert att.scores.isfinite().all()
    assert everything(model) == before


@given(
    kind=LEFT,
    call=st.sampled_from(sorted(CALLS)),
    place=st.integers(0, 10**6),
    count=st.integers(1, 12),
    training=SOME,
    error=st.sampled_from([Interrupt, RuntimeError, ValueError, TypeError, MemoryError]),
)
def test_an_error_in_the_middle_of_a_forward_pass_leaves_the_model_as_it_was(kind, call, place, count, training, error):
    model, left = in_some_mode(kind, (), training), [count]

    def interrupt(*_):
        left[0] -= 1
        if not left[0]:
            raise error("in the middle of a forward pass")

    modules = list(model.modules())
    modules[place % len(modules)].register_forward_hook(interrupt)
    before = everything(model)
    raised = None
    try:
        CALLS[call](model, TOKENIZERS[kind])
    except (Interrupt, RuntimeError, ValueError, TypeError, MemoryError) as caught:
        raised = type(caught)
    if left[0] <= 0 and error in (Interrupt, MemoryError):  # the others may be taken for a model that cannot be replayed: it is run whole
        assert raised is error
    assert everything(model) == before


LEAVING = ("__exit__", "remove", "close", "__del__")  # what an interrupt stops from undoing is not undone: no code is safe from that
HANDING = ("__enter__", "enter_context", "_push_cm_exit", "_push_exit_callback", "_create_exit_wrapper")  # nor before a `with` holds it


def interrupted(call, at, name=None):
    """Run ``call`` and raise `Interrupt` where its Python function number ``at`` (of that name) begins; gives how many began."""
    begun = 0

    def trace(frame, event, argument):
        nonlocal begun
        above = frame
        while above:
            if above.f_code.co_name in LEAVING:
                return
            above = above.f_back
        called = frame.f_code.co_name
        begun += called == name if name else called not in HANDING
        if begun == at:
            raise Interrupt

    collecting, before = gc.isenabled(), sys.gettrace()
    gc.disable()  # what it calls when it pleases would be counted
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
    return begun


@functools.cache
def functions_begun(kind, name=None):
    model = copy.deepcopy(random_model(kind, dtype=torch.float32))
    return [interrupted(lambda: attattr.attribute(model, TOKENIZERS[kind], "a b", steps=1), -1, name) for _ in range(2)][1]


@given(kind=st.sampled_from(("bert", "gpt2")), name=st.sampled_from([None, "train", "forward"]), share=st.floats(0, 0.999))
@example(kind="bert", name="train", share=0.1)
def test_an_interrupt_anywhere_leaves_the_model_as_it_was(kind, name, share):
    model = in_some_mode(kind, (), (1, 2))
    before = everything(model)
    interrupted(lambda: attattr.attribute(model, TOKENIZERS[kind], "a b", steps=1), 1 + int(share * functions_begun(kind, name)), name)
    assert everything(model) == before


# Graphs and trees of any scores


def attribution_of(scores, last="[SEP]"):
    return made(scores, ("[CLS]", *(f"w{i}" for i in range(1, scores.shape[-1] - 1)), last)[: scores.shape[-1]])


def owning(att):
    """The attribution with tensors that share no memory."""
    return dataclasses.replace(att, difference=att.difference + 1, completeness=att.completeness + 2)


def pairs(graph):
    """The two tokens of every attention edge, in either order, and the layer."""
    return {frozenset((i, j)): layer for (_, i), (layer, j) in attention_edges(graph)}


@MANY
@given(scores=SCORES, tau=TAUS | st.lists(TAUS, min_size=4, max_size=4), last=st.sampled_from(["w", "[SEP]"]))
@example(scores=np.array([[[[8.0, 6], [1, 6.5]]], [[[1, -1], [-1, -1]]]]), tau=0.75, last="w")  # one score right at the threshold
def test_a_graph_joins_every_pair_above_the_threshold_once_and_no_other(scores, tau, last):
    att, top = attribution_of(scores, last), len(scores) - 1
    tau = tau[: top + 1] if isinstance(tau, list) else tau
    graph, summed = attattr.attribution_graph(att, tau), att.scores.double().sum(1)
    joined, taus = attention_edges(graph), tau if isinstance(tau, list) else [tau] * top + [0.0]
    assert len(pairs(graph)) == len(joined)
    expected = set()
    for layer, of_layer in enumerate(summed):
        threshold = taus[layer] * of_layer.max()
        expected |= {frozenset(pair) for pair in ((of_layer > threshold) & (of_layer.max() > 0)).nonzero().tolist()}
        assert all(of_layer[i, j] > threshold for (_, i), (below, j) in joined if below == layer)
    assert set(pairs(graph)) <= expected
    assert all("[SEP]" in {att.tokens[place] for place in pair} for pair in expected - set(pairs(graph)))  # a leaf that is left out
    for (level, i), (layer, j), kind in graph.edges(data="kind"):
        assert level == layer + 1
        assert kind == "attention" or i == j
    for (_, i), (layer, j), edge in graph.edges(data=True):
        if edge["kind"] == "attention":
            assert edge["score"] == float(summed[layer, i, j])
            assert edge["head_score"] == float(att.scores[layer, :, i, j].max()) == float(att.scores[layer, edge["head"], i, j])
    mask = graph_connections(graph, len(scores), scores.shape[-1])
    assert int(mask.sum()) == len(joined)
    assert not (mask.numpy() & ~retained(att, tau)).any()


@MANY
@given(scores=SCORES, tau=TAUS, place=st.integers(0, 5))
def test_every_path_of_a_graph_goes_down_to_its_own_end_and_the_terminal_is_on_top(scores, tau, place):
    att = attribution_of(scores)
    terminal = place % scores.shape[-1]
    graph = attattr.attribution_graph(att, tau, terminal)
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.nodes[len(scores), terminal] if att.tokens[terminal] != "[SEP]" else True
    for node in graph:
        assert graph.nodes[node]["token"] == att.tokens[node[1]]
        if not graph.out_degree(node):  # nothing ends above the embeddings but a [SEP] that was left without its own
            assert node[0] == 0 and att.tokens[node[1]] != "[SEP]"
        if att.tokens[node[1]] != "[SEP]" and node[0]:
            assert graph.has_edge(node, (node[0] - 1, node[1]))


@MANY
@given(scores=SCORES, taus=st.tuples(TAUS, TAUS).map(sorted))
def test_a_higher_threshold_keeps_less_of_a_graph(scores, taus):
    low, high = (attattr.attribution_graph(attribution_of(scores), tau) for tau in taus)
    assert set(pairs(high)) <= set(pairs(low))
    assert all(pairs(high)[pair] <= pairs(low)[pair] for pair in pairs(high))  # one that has lost its edge may be joined further down


@MANY
@given(scores=SCORES, tau=TAUS, power=st.integers(-8, 8))
def test_graph_and_tree_do_not_depend_on_the_unit_of_the_scores(scores, tau, power):
    one, other = attribution_of(scores), attribution_of(scores * 2.0**power)
    assert attention_edges(attattr.attribution_graph(one, tau)) == attention_edges(attattr.attribution_graph(other, tau))
    trees = [tree_or_none(att, tau) for att in (one, other)]
    assert (trees[0] is None) == (trees[1] is None)
    assert trees[0] is None or list(trees[0].edges) == list(trees[1].edges)


def tree_or_none(att, tau):
    try:
        return attattr.attribution_tree(att, tau)
    except ValueError as error:
        assert refused_in_words(error)
        return None


@MANY
@given(scores=SCORES, tau=TAUS)
def test_every_path_of_a_tree_comes_from_the_root_and_only_falls(scores, tau):
    att = attribution_of(scores)
    tree = tree_or_none(att, tau)
    assume(tree is not None)
    assert nx.is_arborescence(tree)
    (root,) = [node for node in tree if not tree.in_degree(node)]
    assert root != 0
    assert tree.nodes[root]["height"] == len(scores) - 1
    kept = retained(dataclasses.replace(att, scores=att.scores.index_fill(2, torch.tensor(0), 0.0)), [tau] * len(scores))
    for parent, child, edge in tree.edges(data=True):
        assert kept[edge["layer"], parent, child]
        assert edge["layer"] < len(scores) - (1 if parent == root else 2)  # not the last layer, and in the one before it only the root
        assert tree.nodes[child]["height"] == edge["layer"] <= tree.nodes[parent]["height"]


@MANY
@given(scores=SCORES, taus=st.tuples(TAUS, TAUS).map(sorted))
def test_a_higher_threshold_keeps_less_of_a_tree(scores, taus):
    low, high = (tree_or_none(attribution_of(scores), tau) for tau in taus)
    assert (low is None) == (high is None)
    if low is not None:
        assert set(high) <= set(low)
        assert all(high.nodes[node]["height"] <= low.nodes[node]["height"] for node in high)


@MANY
@given(scores=SCORES, tau=ODD | st.lists(st.floats(-0.5, 1.5) | st.none(), max_size=5) | st.floats(0, 1, width=32).map(np.float32))
def test_any_threshold_works_or_is_refused_in_words(scores, tau):
    try:
        graph = attattr.attribution_graph(attribution_of(scores), tau)
    except (TypeError, ValueError) as error:
        assert refused_in_words(error), f"{type(error).__name__} that is not ours: {error}"
    else:
        assert len(pairs(graph)) == len(attention_edges(graph))


@MANY
@given(scores=st.lists(SCORES, min_size=1, max_size=3), tau=TAUS)
def test_the_receptive_field_is_the_distance_of_every_edge(scores, tau):
    atts = [attribution_of(of_text) for of_text in scores]
    if len({len(att.scores) for att in atts}) > 1:
        with pytest.raises(ValueError, match="of one model"):
            attattr.receptive_field(atts, tau)
        return
    field = attattr.receptive_field(atts, tau)
    edges = [edge for att in atts for edge in attention_edges(attattr.attribution_graph(att, tau))]
    for layer, distances in enumerate(field.distances):
        assert sorted(distances.tolist()) == sorted(abs(i - j) for (_, i), (below, j) in edges if below == layer and i != j)


# Rollout and flow


@MANY
@given(attention=attentions())
def test_rows_of_rollout_and_flow_sum_to_one(attention):
    for found in (attattr.attention_rollout(attention), attattr.attention_flow(attention, progress=False)):
        assert (found >= 0).all()
        assert torch.allclose(found.sum(-1), torch.ones((), dtype=torch.float64), atol=1e-9)


@settings(max_examples=max(10, settings().max_examples // 5))  # networkx takes its time
@given(attention=attentions() | attentions(causal=True))
def test_flow_is_that_of_networkx_and_within_both_bounds(attention):
    flow = attattr.attention_flow(attention, normalize=False, progress=False)
    layers, _, tokens, _ = attention.shape
    expected = networkx_flows(attention_graph(attention), layers, tokens)
    assert np.allclose(flow, expected, atol=1e-6)
    assert (flow <= flow_bound(attention) + 1e-6).all()
    assert (flow <= source_bound(attention) + 1e-6).all()
    for layer in range(-layers, layers):
        assert torch.allclose(attattr.attention_flow(attention, layer, normalize=False, progress=False), flow[layer], atol=1e-6)


@MANY
@given(attention=attentions(causal=True))
def test_a_decoder_passes_nothing_to_later_tokens(attention):
    for function in (attattr.attention_rollout, attattr.attention_flow):
        found = function(attention, causal=True)
        assert not found.triu(1).any()
        assert torch.allclose(found.sum(-1), torch.ones((), dtype=torch.float64), atol=1e-9)


@MANY
@given(attention=attentions(), order=st.randoms(use_true_random=False))
def test_renamed_tokens_are_renamed_in_rollout_and_flow(attention, order):
    places = list(range(attention.shape[-1]))
    order.shuffle(places)
    for function in (attattr.attention_rollout, attattr.attention_flow):
        expected = function(attention)[:, places][:, :, places]
        assert torch.allclose(function(attention[:, :, places][:, :, :, places]), expected, atol=1e-6)


@MANY
@given(scores=SCORES)
def test_scores_made_attention_are_attention(scores):
    found = attattr.scores_as_attention(torch.from_numpy(scores))
    assert (found >= 0).all()
    assert torch.allclose(found.sum(-1), torch.ones((), dtype=torch.float64), atol=1e-9)
    assert attattr.attention_rollout(found).isfinite().all()


@MANY
@given(shape=st.lists(st.integers(0, 3), max_size=5), value=st.floats(width=32))
def test_any_numbers_are_attention_or_are_refused_in_words(shape, value):
    for function in (attattr.attention_rollout, functools.partial(attattr.attention_flow, progress=False), attattr.scores_as_attention):
        try:
            found = function(torch.full(shape, value))
        except ValueError as error:
            assert refused_in_words(error)
        else:
            assert found.isfinite().all()


# Rules


@MANY
@given(steps=st.integers(1, 40), data=st.data())
def test_gauss_integrates_polynomials_of_twice_its_nodes(steps, data):
    degree = data.draw(st.integers(0, 2 * steps - 1))
    coefficients = data.draw(st.lists(st.integers(-9, 9), min_size=degree + 1, max_size=degree + 1))
    found = rule("gauss-legendre", steps)
    assert found.nodes.shape == (steps,) and ((found.nodes > 0) & (found.nodes < 1)).all()
    exact = sum(Fraction(factor, power + 1) for power, factor in enumerate(coefficients))
    values = sum(factor * found.nodes**power for power, factor in enumerate(coefficients))
    assert float(found.weights[0] @ values) == pytest.approx(float(exact), abs=1e-10 * (1 + sum(map(abs, coefficients))))
    for apart, fewer in zip(found.weights[1:], (steps - 2, steps - 4), strict=False):
        weaker = torch.where((found.weights[0] - apart).abs() > 1e-15, found.weights[0] - apart, 0.0)
        power = data.draw(st.integers(0, fewer - 1))
        assert int((weaker != 0).sum()) <= fewer
        assert float(weaker @ found.nodes**power) == pytest.approx(1 / (power + 1), abs=1e-7)


@MANY
@given(steps=st.integers(1, 60), power=st.integers(0, 9), left=st.booleans())
def test_riemann_sums_are_the_sums_of_faulhaber(steps, power, left):
    found = rule("riemann-left" if left else "riemann", steps)
    exact = sum(Fraction(k, steps) ** power for k in range(not left, steps + (not left))) / steps
    assert float(found.weights[0] @ found.nodes**power) == pytest.approx(float(exact), rel=1e-12)
    assert abs(float(exact) - 1 / (power + 1)) <= 1 / steps  # of a function that rises by 1, the right and left sums differ by 1/m
    if steps > 1 and power < 2:  # trapezoids are exact for a straight line
        trapezoids = found.weights[0] - found.weights[1] / 2
        assert float(trapezoids @ found.nodes**power) == pytest.approx(1 / (power + 1), abs=1e-12)


@MANY
@given(degree=st.integers(1, 40), power=st.integers(0, 40))
def test_clenshaw_curtis_is_exact_up_to_its_degree(degree, power):
    found = rule("clenshaw-curtis", degree + 1)
    assert float(found.weights[0] @ found.nodes ** min(power, degree)) == pytest.approx(1 / (min(power, degree) + 1), abs=1e-12)
    assert (found.weights[0] > 0).all() and torch.equal(found.nodes, found.nodes.sort().values)


# Files


@MANY
@given(
    scores=SCORES,
    tokens=st.lists(UNICODE, min_size=6, max_size=6),
    text=UNICODE | st.tuples(UNICODE, UNICODE),
    label=UNICODE,
    tolerance=st.floats(0, 1, exclude_min=True),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_what_is_saved_is_what_is_loaded(scores, tokens, text, label, tolerance, dtype):
    att = owning(made(scores, tokens[: scores.shape[-1]]))
    att = dataclasses.replace(att, text=text, label=label, tolerance=tolerance, scores=att.scores.to(dtype))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.safetensors"
        att.save(path)
        again = attattr.Attribution.load(path)
        assert list(Path(folder).iterdir()) == [path]
    for field in dataclasses.fields(att):
        one, other = getattr(att, field.name), getattr(again, field.name)
        assert (torch.equal(one, other) and one.dtype == other.dtype) if isinstance(one, torch.Tensor) else one == other, field.name
        assert type(one) is type(other)


@MANY
@given(scores=SCORES, other=st.sampled_from(["difference", "completeness"]))
def test_parts_that_share_memory_are_saved_like_any(scores, other):
    att = owning(made(scores))
    att = dataclasses.replace(att, error=getattr(att, other))
    with tempfile.TemporaryDirectory() as folder:
        att.save(Path(folder) / "saved.safetensors")
        assert torch.equal(attattr.Attribution.load(Path(folder) / "saved.safetensors").error, att.error)


@MANY
@given(scores=SCORES, at=st.integers(0, 10**6), value=st.binary(min_size=1, max_size=9), cut=st.booleans())
def test_a_damaged_file_is_an_oserror_or_still_an_attribution(scores, at, value, cut):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.safetensors"
        owning(made(scores)).save(path)
        whole = path.read_bytes()
        place = at % len(whole)
        path.write_bytes(whole[:place] + value + (b"" if cut else whole[place + len(value) :]))
        try:
            attattr.Attribution.load(path)
        except OSError as error:
            assert "saved.safetensors" in str(error)
