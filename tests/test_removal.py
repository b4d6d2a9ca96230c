"""Heads cut out of the weights: the same outputs as gated, a folder that only we load, and measured to be smaller."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from toys import bert, family, inputs, tiny
from transformers import MegatronBertConfig, MegatronBertForSequenceClassification

import attattr
from attattr.removal import MODEL_TYPE, load_cut

TEXTS = ["a warm and moving film .", "never boring , never long , and very funny ."]


def some_heads(layers, heads, seed=0):
    keep = torch.rand(layers, heads, generator=torch.Generator().manual_seed(seed)) > 0.5
    keep[0] = True
    keep[1] = False  # a whole layer
    return keep


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_smaller_model_computes_what_the_gated_one_does(name, implementation):
    if (name, implementation) == ("mpnet", "sdpa"):
        pytest.skip("MPNet writes its attention out")
    model = tiny(name) if name == "mpnet" else family(name)
    model.set_attn_implementation(implementation)
    keep = some_heads(3, 4)
    smaller, batch = attattr.remove_heads(model, keep), inputs([7, 4])
    with torch.no_grad():
        with attattr.prune_heads(model, keep):
            gated = model(**batch).logits
        assert torch.allclose(smaller(**batch).logits, gated, atol=1e-5)
        assert not torch.allclose(model(**batch).logits, gated, atol=1e-3)
    assert model.config.model_type == name  # the original is untouched
    removed = int((~keep).sum()) * 8
    assert model.num_parameters() - smaller.num_parameters() == removed * (4 * 32 + 3)  # rows of q, k, v with biases, columns of the output


def test_a_saved_smaller_model_is_loaded_by_us_and_refused_by_transformers(tmp_path):
    from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

    model, tokenizer = attattr.load("sst2")
    smaller = attattr.remove_heads(model, some_heads(6, 12))
    smaller.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, its_tokenizer = attattr.load(tmp_path)
    batch = its_tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, smaller(**batch).logits)
    assert loaded.config.id2label == {0: "negative", 1: "positive"}
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "again")  # and once more
    tokenizer.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(attattr.load(tmp_path / "again")[0](**batch).logits, smaller(**batch).logits)
    with pytest.raises(ValueError, match=MODEL_TYPE):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        BertForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["bert", "mpnet"])
def test_a_smaller_model_is_pickled_copied_and_saved_in_shards(name, tmp_path):
    keep, batch = some_heads(3, 4), inputs([7, 4])
    smaller = attattr.remove_heads(tiny(name), keep)
    smaller.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    for copied in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller)), load_cut(tmp_path).eval()):
        assert copied.config is not smaller.config
        assert copied.config.to_dict() == smaller.config.to_dict()
        assert copied.config.model_type == MODEL_TYPE
        with torch.no_grad():
            assert torch.equal(copied(**batch).logits, smaller(**batch).logits)
        with pytest.raises(ValueError, match="heads were cut out of"):
            attattr.remove_heads(copied, keep)
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(OSError, match="missing, damaged"):
        load_cut(tmp_path)


def test_a_pickle_is_read_where_nothing_was_cut_before(tmp_path):
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(attattr.remove_heads(bert(), some_heads(3, 4))))
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).config.kept_heads)"
    found = subprocess.run([sys.executable, "-c", script, tmp_path / "model.pickle"], capture_output=True, text=True)
    assert found.stdout.strip() == str([row.nonzero()[:, 0].tolist() for row in some_heads(3, 4)]), found.stderr


def test_weights_that_do_not_fit_the_heads_or_are_missing_are_an_oserror(tmp_path):
    model, tokenizer = attattr.load("sst2")
    attattr.remove_heads(model, some_heads(6, 12)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["kept_heads"][0] = [0]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(OSError, match="not of the heads that its"):
        attattr.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="missing, damaged"):
        attattr.load(tmp_path)


def test_all_heads_may_go_and_none(tmp_path):
    model, batch = bert(), inputs([5])
    with torch.no_grad():
        assert torch.equal(attattr.remove_heads(model, torch.ones(3, 4, dtype=torch.bool))(**batch).logits, model(**batch).logits)
        nothing = torch.zeros(3, 4, dtype=torch.bool)
        with attattr.prune_heads(model, nothing):
            expected = model(**batch).logits
        assert torch.allclose(attattr.remove_heads(model, nothing)(**batch).logits, expected, atol=1e-5)


def test_what_cannot_be_cut_is_refused_in_words():
    for name in ("albert", "gpt2", "llama"):
        with pytest.raises(TypeError, match="cannot cut heads out of"):
            attattr.remove_heads(family(name), torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"keep has shape \(4, 3\): expected \(3, 4\)"):
        attattr.remove_heads(bert(), torch.ones(4, 3, dtype=torch.bool))
    model, tokenizer = attattr.load("sst2")
    smaller = attattr.remove_heads(model, some_heads(6, 12))
    with pytest.raises(ValueError, match=r"if heads were cut out, explain the whole model"):
        attattr.attribute(smaller, tokenizer, TEXTS[0])
    with pytest.raises(ValueError, match=r"heads were cut out of this BertForSequenceClassification"):
        attattr.remove_heads(smaller, some_heads(6, 12))
    megatron = MegatronBertForSequenceClassification(
        MegatronBertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
    )
    with pytest.raises(TypeError, match="cannot cut heads out of MegatronBert"):
        attattr.remove_heads(megatron, some_heads(3, 4))


def test_frozen_weights_stay_frozen_and_the_random_state_is_left_alone(tmp_path):
    model = bert()
    model.bert.encoder.layer[2].attention.self.query.weight.requires_grad_(False)
    smaller = attattr.remove_heads(model, some_heads(3, 4))
    assert not smaller.bert.encoder.layer[2].attention.self.query.weight.requires_grad
    assert smaller.bert.encoder.layer[2].attention.self.key.weight.requires_grad
    trained, tokenizer = attattr.load("sst2")
    attattr.remove_heads(trained, some_heads(6, 12)).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="no tokenizer files"):
        attattr.load(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    attattr.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot load"):
        attattr.load(tmp_path)
