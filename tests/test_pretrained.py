"""The embedded models load, unlike anything damaged, swapped or unknown."""

import json
import shutil

import pytest
import torch
from toys import bert
from transformers import BertTokenizerFast

import attattr
from attattr import pretrained


def copy_of_the_adapter(tmp_path):
    return shutil.copytree(attattr.data.data_folder() / "models" / "sst2", tmp_path / "adapter")


def test_an_embedded_model_is_a_plain_transformers_model_in_eval_mode():
    model, tokenizer = attattr.load("sst2")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert not any(module.training for module in model.modules())
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    with torch.no_grad():
        for text, label in (("a warm , funny and wonderfully acted film .", 1), ("a dull , lifeless and badly acted mess .", 0)):
            assert int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == label


def test_loading_twice_gives_the_same_weights():
    first, second = (attattr.load("sst2")[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_adapter_is_refused(tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(OSError, match=r"missing, damaged or swapped weight file .*adapter_model\.safetensors"):
        attattr.load(folder)


def test_a_missing_adapter_file_is_refused(tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(
        OSError, match=r"missing, damaged or swapped weight file .*adapter_model\.safetensors: its sha256 is that of no file"
    ):
        attattr.load(folder)


def test_an_adapter_without_its_record_is_refused(tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    (folder / "training.json").unlink()
    with pytest.raises(OSError, match=r"training\.json"):
        attattr.load(folder)


def test_a_damaged_base_is_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "BASE_SHA256", "0" * 64)
    with pytest.raises(OSError, match=r"model\.safetensors: its sha256 is 53aa51.*expected 000"):
        attattr.load("sst2")


def test_without_the_package_the_base_is_the_pinned_hub_revision(monkeypatch):
    monkeypatch.setattr(pretrained, "BASE_PACKAGE", "no_such_package")
    assert pretrained.embedded_base() == ("sentence-transformers/all-MiniLM-L6-v2", pretrained.BASE_REVISION)


@pytest.mark.parametrize("name", ["sst-2", "no/such-model", "nothing here"])
def test_unknown_names_are_refused(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"cannot load .*'mnli', 'mrpc', 'rte', 'sst2'"):
        attattr.load(name)


def saved(tmp_path, **changes):
    """A tiny classifier as a folder, its config then changed."""
    bert(layers=2).save_pretrained(tmp_path / "model")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path / "model"


def test_a_checkpoint_of_other_shape_is_refused(tmp_path):
    assert attattr.load(saved(tmp_path))[0].config.num_hidden_layers == 2
    with pytest.raises(OSError, match=r"of other shape in .*model: .*intermediate.* is \(48.*expects \(64"):
        attattr.load(saved(tmp_path, intermediate_size=64))
    with pytest.raises(OSError, match=r"of other shape .*no weights for bert\.encoder\.layer\.2\."):
        attattr.load(saved(tmp_path, num_hidden_layers=3))
    with pytest.raises(OSError, match=r"has no weights for 'classifier': .*or one of other classes"):
        attattr.load(saved(tmp_path, id2label={"0": "dull", "1": "warm"}, label2id={"dull": 0, "warm": 1}))
    with pytest.raises(OSError, match=r"of other shape in .*intermediate"):
        pretrained.load_base(attattr.data.find_task("sst2"), str(saved(tmp_path, intermediate_size=64)))


def test_a_classifier_of_other_classes_serves_as_a_base(tmp_path):
    model, _, new = pretrained.load_base(attattr.data.find_task("sst2"), str(saved(tmp_path)))  # it had three classes
    assert model.classifier.out_features == 2
    assert new == ["classifier"]


def test_a_model_without_a_fine_tuned_classifier_is_refused():
    folder, _ = pretrained.embedded_base()
    with pytest.raises(OSError, match=r"has no weights for 'classifier': no sequence classifier was fine-tuned"):
        attattr.load(folder)


def test_damaged_weights_and_missing_tokenizers_are_refused(tmp_path):
    folder = saved(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"damaged weight file in .*model"):
        attattr.load(folder)
    saved(tmp_path)
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(OSError, match=r"no tokenizer files in .*model"):
        attattr.load(folder)


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 16}))
    with pytest.raises(OSError, match=r"the adapter in .* does not fit the base model"):
        attattr.load(folder)


def test_loading_leaves_the_settings_of_transformers_alone():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    attattr.load("sst2")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
