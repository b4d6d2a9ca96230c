"""The tap: what it records is what the model did, what it changes is undone, and paddings do not leak."""

import copy
import dataclasses

import pytest
import torch
from toys import FAMILIES, WORDS, bert, family, inputs, tiny
from transformers import AttentionInterface, AttentionMaskInterface

import attattr
from attattr import tap
from attattr.path import AttentionPath, integrate
from attattr.quadrature import rule
from attattr.tap import gated


def state(model):
    """Everything about a model that the tap could have changed."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        model.config._attn_implementation,
        [module.training for module in model.modules()],
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        sorted(AttentionInterface._global_mapping),
        sorted(AttentionMaskInterface._global_mapping),
    )


def same_state(one, other):
    return one[1:] == other[1:] and all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_context_is_attention_times_value(name):
    model = family(name)
    recording = tap.record(model, inputs([7, 5]))
    assert len(recording.context) == 3
    for attention, value, context in zip(recording.attention, recording.value, recording.context, strict=True):
        assert attention.shape == (2, 4, 7, 7)
        assert torch.allclose((attention @ value).transpose(1, 2), context, atol=1e-6)
        assert torch.allclose(attention.sum(-1), torch.ones(2, 4, 7), atol=1e-6)
        assert attention[1, :, :, 5:].abs().max() < 1e-6 or name in ("gpt2", "llama")  # padded keys


@pytest.mark.parametrize("name", FAMILIES)
def test_recording_does_not_change_the_logits(name):
    model = family(name)
    batch = inputs([6, 4, 6])
    with torch.no_grad():
        expected = model(**batch).logits
    assert torch.allclose(tap.record(model, batch).logits, expected, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_replay_equals_scaling_the_context_in_a_whole_forward_pass(name):
    model = family(name)
    batch = inputs([6, 4])
    recording = tap.record(model, batch)
    assert recording.blocks, "this family should be replayed from the layer on the path, not from the start"
    example = torch.tensor([1, 0, 1, 1, 0])
    layer = torch.tensor([0, 1, 1, 2, 2])
    scale = torch.tensor([0.3, 0.0, 1.0, 0.7, 0.5])
    with torch.no_grad():
        logits, leaves = tap.replay(model, recording, example, layer, scale)
    assert [len(leaf) for leaf in leaves] == [1, 2, 2]
    for r in range(5):

        def scaled(now, context, weights, r=r):
            return context * scale[r] if now == layer[r] else context

        with torch.no_grad(), tap.tapped(model, scaled):
            expected = model(**batch).logits[example[r]]
        assert torch.allclose(logits[r], expected, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_replay_of_one_layer_only(name):
    model = family(name)
    recording = tap.record(model, inputs([6, 4]))
    whole = torch.tensor([0, 1]), torch.tensor([2, 2]), torch.ones(2)
    with torch.no_grad():
        logits, _ = tap.replay(model, recording, *whole)
    assert torch.allclose(logits, recording.logits, atol=1e-5)


def test_replay_runs_only_the_layers_above():
    model = bert(layers=4)
    recording = tap.record(model, inputs([6]))
    rows = []
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    branches = torch.zeros(30, dtype=torch.long), torch.arange(30) // 10 + 1, torch.ones(30)
    with torch.no_grad():
        tap.replay(model, recording, *branches)
    assert rows == [1, 10, 20, 30]  # layer 0 carries one row in vain: some models cannot run on none


def test_rows_that_nobody_reads_are_detected_and_left_out():
    batch = inputs([6, 4])
    read = {name: tap.record(family(name), batch).narrowed is not None for name in FAMILIES}
    assert read == {"bert": True, "roberta": True, "distilbert": True, "albert": False, "gpt2": False, "llama": False}
    model = bert()
    branches = torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2]), torch.tensor([0.3, 0.6, 0.9])
    widths = []
    model.bert.encoder.layer[-1].intermediate.register_forward_pre_hook(lambda _, arguments: widths.append(arguments[0].shape[1]))
    recording = tap.record(model, batch)
    short, _ = tap.replay(model, recording, *branches)
    full, _ = tap.replay(model, dataclasses.replace(recording, narrowed=None), *branches)
    assert widths[-2:] == [1, 6]
    assert torch.allclose(short, full, atol=1e-6)


def test_a_model_that_reads_other_rows_is_replayed_in_full():
    class MeanPooled(torch.nn.Module):
        def forward(self, hidden_states):
            return hidden_states.mean(1)

    model = bert()
    model.bert.pooler = MeanPooled()
    recording = tap.record(model, inputs([6]))
    assert recording.narrowed is None
    with torch.no_grad():
        logits, _ = tap.replay(model, recording, torch.tensor([0]), torch.tensor([2]), torch.ones(1))
    assert torch.allclose(logits, recording.logits, atol=1e-5)


def test_gates_multiply_contexts_per_head_and_per_row():
    model = bert()
    batch = inputs([5, 5])
    gates = torch.ones(3, 4)
    gates[1, 2] = 0
    with torch.no_grad():
        clean = model(**batch).logits
        with tap.gated(model, torch.ones(3, 4)):
            assert torch.allclose(model(**batch).logits, clean, atol=1e-6)
        with tap.gated(model, gates):
            gated = model(**batch).logits
        with tap.gated(model, torch.stack([gates, torch.ones(3, 4)])):
            rows = model(**batch).logits
    # By hand: cut the head's columns out of the output projection.
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        by_hand.bert.encoder.layer[1].attention.output.dense.weight[:, 16:24] = 0
        assert torch.allclose(by_hand(**batch).logits, gated, atol=1e-5)
    assert (gated - clean).abs().max() > 1e-3
    assert torch.allclose(rows[0], gated[0], atol=1e-6)
    assert torch.allclose(rows[1], clean[1], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (3, 5), (2, 3, 4)])
def test_gates_of_a_wrong_shape_are_refused_and_nothing_is_changed(shape):
    model = bert()
    before = state(model)
    with pytest.raises(ValueError, match=r"gates of shape|was given for 4 layers"), tap.gated(model, torch.ones(shape)):
        model(**inputs([5]))
    assert same_state(before, state(model))


def test_a_mask_takes_connections_away_in_every_head_of_its_layer_and_row():
    """Against hooks on the model's own modules: no key j is no value of token j, no row i is no context of token i."""
    model = bert()
    batch = inputs([5, 5])
    keep = torch.ones(2, 3, 5, 5, dtype=torch.bool)
    with torch.no_grad():
        clean = model(**batch).logits
        with tap.gated(model, keep):
            assert torch.allclose(model(**batch).logits, clean, atol=1e-6)
        keep[0, 1, :, 2] = False
        keep[1, 0, 3, :] = False
        with tap.gated(model, keep):
            masked = model(**batch).logits

        def zero_value(module, arguments, output):
            return torch.cat([output[:, :2], torch.zeros_like(output[:, 2:3]), output[:, 3:]], dim=1)

        def zero_context(module, arguments):
            return (torch.cat([arguments[0][:, :3], torch.zeros_like(arguments[0][:, 3:4]), arguments[0][:, 4:]], dim=1),)

        layers = model.bert.encoder.layer
        hook = layers[1].attention.self.value.register_forward_hook(zero_value)
        first = model(**batch).logits[0]
        hook.remove()
        hook = layers[0].attention.output.dense.register_forward_pre_hook(zero_context)
        second = model(**batch).logits[1]
        hook.remove()
    assert torch.allclose(masked, torch.stack([first, second]), atol=1e-6)
    assert (masked - clean).abs().amin() > 1e-4


def test_one_connection_taken_away_takes_its_weight_times_its_value_and_nothing_is_renormalised():
    model = bert()
    batch = inputs([5])
    recording = tap.record(model, batch)
    keep = torch.ones(1, 3, 5, 5, dtype=torch.bool)
    keep[0, 2, 0, 4] = False
    context = recording.context[2].clone()
    context[0, 0] -= recording.attention[2][0, :, 0, 4, None] * recording.value[2][0, :, 4]
    with torch.no_grad():
        with tap.gated(model, keep):
            masked = model(**batch).logits
        with tap.replaced(model, {2: context}):
            expected = model(**batch).logits
    assert torch.allclose(masked, expected, atol=1e-6)
    assert not torch.allclose(masked, recording.logits, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 5, 5), (1, 4, 5, 5), (2, 3, 5, 5), (1, 3, 6, 6)])
def test_a_mask_of_a_wrong_shape_is_refused_and_nothing_is_changed(shape):
    model = bert()
    before = state(model)
    with (
        pytest.raises(ValueError, match=r"gates of shape|was given for 4 layers"),
        tap.gated(model, torch.ones(shape, dtype=torch.bool)),
    ):
        model(**inputs([5]))
    assert same_state(before, state(model))


def test_the_model_is_left_as_found_also_after_an_exception_and_in_train_mode():
    model = bert()
    model.train()
    model.bert.encoder.layer[1].eval()
    model.classifier.weight.requires_grad_(False)
    before = state(model)
    recording = tap.record(model, inputs([5]))
    tap.replay(model, recording, torch.tensor([0]), torch.tensor([1]), torch.tensor([0.5]))
    assert same_state(before, state(model))

    def fail(*_):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"), tap.tapped(model, fail):
        model(**inputs([5]))
    assert same_state(before, state(model))


def test_two_models_one_after_the_other_and_one_inside_the_other():
    first, second = bert(), family("distilbert")
    batch = inputs([5])
    with torch.no_grad():
        expected = first(**batch).logits, second(**batch).logits
        zero = torch.zeros(3, 4)
        with tap.gated(first, zero):
            assert torch.equal(second(**batch).logits, expected[1])
            with tap.gated(second, zero):
                assert not torch.allclose(second(**batch).logits, expected[1])
                assert not torch.allclose(first(**batch).logits, expected[0])
            assert torch.equal(second(**batch).logits, expected[1])
        assert torch.equal(first(**batch).logits, expected[0])


def test_padding_is_respected():
    model = bert()
    padded, alone = inputs([5, 9]), inputs([5, 9])
    alone = {name: tensor[:1, :5] for name, tensor in alone.items()}
    together, single = tap.record(model, padded), tap.record(model, alone)
    assert torch.allclose(together.logits[0], single.logits[0], atol=1e-5)
    for one, other in zip(together.attention, single.attention, strict=True):
        assert torch.allclose(one[0, :, :5, :5], other[0], atol=1e-6)


def test_calls_are_counted_where_one_module_serves_all_layers():
    model = family("albert")
    assert len({id(m) for m in model.modules() if type(m).__name__ == "AlbertAttention"}) == 1
    assert len(tap.record(model, inputs([5])).context) == 3


def test_replaced_contexts_carry_gradients():
    model = bert()
    batch = inputs([5])
    recording = tap.record(model, batch)
    leaf = recording.context[1].clone().requires_grad_()
    with tap.replaced(model, {1: leaf}):
        logits = model(**batch).logits
    assert torch.allclose(logits, recording.logits, atol=1e-5)
    assert torch.autograd.grad(logits.sum(), leaf)[0].abs().max() > 0


INLINE = (
    "deberta",
    "deberta-v2",
    "mpnet",
    "xlnet",
    "gptj",
    "gpt_neo",
    "bloom",
    "falcon",
    "mpt",
    "openai-gpt",
    "xlm",
    "rembert",
    "roformer",
)
MORE = ("squeezebert", "big_bird", "modernbert", "gemma3_text", "qwen3", "esm", "t5", "bart", "mvp")
MORE += ("nystromformer",)  # full attention by default, as many landmarks as places in a segment; it adds to the context in place


@pytest.mark.parametrize("kind", INLINE + MORE)
def test_attention_is_found_however_it_is_written(kind):
    """Against the model itself, and against passes of the whole model without `replay` from a layer on."""
    lengths = [7, 7 if kind == "xlnet" else 5]  # XLNet reads its decision from the last place, padding or not
    model, batch = tiny(kind), inputs(lengths)
    batch["input_ids"][[0, 1], [6, lengths[1] - 1]] = 2  # some read their decision at the end of the text
    with torch.no_grad():
        expected = model(**batch).logits
    recording = tap.record(model, batch)
    assert torch.allclose(recording.logits, expected, atol=1e-6)
    assert len(recording.context) == (9 if model.config.is_encoder_decoder else 3)
    targets = recording.logits.argmax(-1)
    found = integrate(AttentionPath(model, recording, targets), [rule("gauss-legendre", 12)])
    whole = dataclasses.replace(recording, blocks=(), block_calls=(), hidden=(), narrowed=None)
    plain = integrate(AttentionPath(model, whole, targets), [rule("gauss-legendre", 12)])
    assert torch.allclose(found["scores"], plain["scores"], atol=1e-6)
    assert not found["scores"][1, :, :, :, lengths[1] :].any()  # nothing is read from padding
    assert found["scores"].abs().amax((0, 2, 3, 4)).min() > 1e-8  # every layer has its say
    if kind not in ("gemma3_text", "t5"):  # a norm right after attention: hardly anything of the path is seen by 12 nodes
        assert (found["completeness"] <= 2e-3).all()


def test_a_model_without_attention_is_refused():
    model = tiny("fnet")
    before = state(model)
    with pytest.raises(TypeError, match=r"no attention was seen in FNetForSequenceClassification: expected fused attention, or a softmax"):
        tap.record(model, {"input_ids": inputs([5])["input_ids"]})
    assert same_state(before, state(model))


def test_attention_that_is_not_between_all_tokens_is_refused():
    with pytest.raises(TypeError, match=r"attention of \d+ queries to \d+ keys"):
        tap.record(tiny("longformer"), inputs([9]))


def test_nan_weights_are_refused():
    model = bert()
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"not finite.*NaN"):
        tap.record(model, inputs([5]))


class Plain(torch.nn.Module):
    """A model from nowhere in transformers, of torch's own layers."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=first, norm_first=True)
        self.first, self.embed, self.read = first, torch.nn.Embedding(WORDS, 16), torch.nn.Linear(16, 3)
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids):
        states = self.embed(ids) * 2
        states = self.layers(states) if self.first else self.layers(states.transpose(0, 1)).transpose(0, 1)
        return self.read(states.mean(1))


@pytest.mark.parametrize("first", [True, False])
def test_torchs_own_layers_are_tapped_and_its_fast_path_comes_back(first):
    torch.manual_seed(0)
    model, batch = Plain(first).eval(), {"ids": torch.randint(4, WORDS, (1, 6))}
    recording = tap.record(model, batch)
    assert len(recording.context) == 2 and recording.attention[0].shape == (1, 2, 6, 6)
    with torch.no_grad():
        expected = model(**batch)
        assert torch.allclose(recording.logits, expected, atol=1e-6)
        with gated(model, torch.zeros(2, 2)):
            nothing = model(**batch)
        silent = copy.deepcopy(model)
        for layer in silent.layers.layers:
            layer.self_attn.out_proj.weight.zero_()
        assert torch.allclose(silent(**batch), nothing, atol=1e-6) and not torch.allclose(nothing, expected, atol=1e-3)
    assert torch.backends.mha.get_fastpath_enabled()
    assert attattr.attribute_inputs(model, batch).certified
