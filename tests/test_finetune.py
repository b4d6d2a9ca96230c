"""Training ends in a model that loads, a killed run ends where an unbroken one does, and the command line says what is wrong."""

import json
import random
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

import attattr
from attattr import finetune as training
from attattr.__main__ import main
from attattr.finetune import Settings, batch_order, finetune, hold_out

GOOD, BAD = ["warm", "funny", "bright", "moving"], ["dull", "flat", "tired", "empty"]


@pytest.fixture
def base(tmp_path):
    """A tiny untrained BERT with its own vocabulary, as a local folder."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "and", ".", *GOOD, *BAD]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "base")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def data(tmp_path):
    """Two hundred rows whose label a model can learn, in the layout of the real data."""
    folder = tmp_path / "data" / "SST-2"
    folder.mkdir(parents=True)
    generator = random.Random(0)
    for name, count in (("train.tsv", 200), ("dev.tsv", 40)):
        lines = ["sentence\tlabel"]
        for i in range(count):
            words = generator.choices(GOOD if i % 2 else BAD, k=generator.randint(1, 3))
            lines.append(f"a {' and '.join(words)} film .\t{'positive' if i % 2 else 'negative'}")
        (folder / name).write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def settings(base, **options):
    common = {
        "task": "sst2",
        "files": ("SST-2/train.tsv",),
        "base": base,
        "rank": 0,
        "epochs": 4.0,
        "learning_rate": 3e-3,
        "batch_size": 10,
    }
    return Settings(**common | options)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_trained_model_folder_loads_and_explains_itself(base, data, tmp_path, rank):
    options = {"rank": 4, "learning_rate": 2e-2, "epochs": 8.0} if rank else {}  # an adapter of a random base has little to work with
    finetune(settings(base, **options), data, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["accuracy"]["dev"]["accuracy"] > 0.9
    assert set(record["accuracy"]["dev"]["per_class"]) == {"negative", "positive"}
    assert f"learning rate {record['learning_rate']:g}" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "checkpoint").exists()
    model, tokenizer = attattr.load(tmp_path / "out")
    att = attattr.attribute(model, tokenizer, "a warm and moving film .", steps=6)
    assert att.label == "positive"
    assert att.scores.shape == (2, 2, 8, 8)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_killed_run_ends_where_an_unbroken_one_does(base, data, tmp_path, monkeypatch, rank):
    chosen = settings(base, rank=rank, averaging=0.9, label_smoothing=0.1)
    whole = finetune(chosen, data, tmp_path / "whole", checkpoint_every=7)

    steps = iter(range(1000))
    real = training.batch_loss

    def killed(*arguments):
        if next(steps) == 33:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "batch_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(chosen, data, tmp_path / "broken", checkpoint_every=7)
    assert (tmp_path / "broken" / "checkpoint" / "state.pt").is_file()
    again = finetune(chosen, data, tmp_path / "broken", checkpoint_every=7)
    assert next(steps) == 34 + (80 - 28)  # it went on from step 28, the last checkpoint
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_other_settings_is_refused(base, data, tmp_path, monkeypatch):
    chosen = settings(base)
    monkeypatch.setattr(training, "write_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune(chosen, data, tmp_path / "out", checkpoint_every=7)
    with pytest.raises(ValueError, match=r"other settings.*seed.*remove it or choose another output"):
        finetune(settings(base, seed=5), data, tmp_path / "out", checkpoint_every=7)


def test_a_missing_dev_file_is_noticed_before_the_training(base, data, tmp_path):
    (data / "SST-2" / "dev.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*dev\.tsv"):
        finetune(settings(base), data, tmp_path / "out", checkpoint_every=1)
    assert not (tmp_path / "out").exists()


def test_every_row_is_seen_once_an_epoch_and_like_lengths_go_together():
    lengths = [1 + i * 7 % 40 for i in range(1000)]
    steps = batch_order(lengths, Settings("sst2", ("x",), epochs=2.0, batch_size=20))
    assert len(steps) == 100
    assert sorted(i for step in steps[:50] for i in step) == list(range(1000))
    assert sorted(i for step in steps[50:] for i in step) == list(range(1000))
    spread = [max(lengths[i] for i in step) - min(lengths[i] for i in step) for step in steps]
    assert sum(spread) / len(spread) < 3
    assert steps == batch_order(lengths, Settings("sst2", ("x",), epochs=2.0, batch_size=20))


def test_no_part_of_a_held_out_sentence_is_trained_on():
    whole = "one two three four five"
    rows = [{"sentence": text, "label": "positive"} for text in (whole, whole, "two three", "six seven", "six", "eight") * 4]
    held_out, rest = hold_out(rows, attattr.data.find_task("sst2"), Settings("sst2", ("x",), holdout=2))
    assert {row["sentence"] for row in held_out} == {whole}
    assert {row["sentence"] for row in rest} == {"six seven", "six", "eight"}


def test_evaluate_prints_json(capsys):
    main(["evaluate", "--task", "sst2"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] >= 300
    assert 0.8 < found["accuracy"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "--task", "sst", "--files", "x.tsv", "--data", ".", "--output", "OUT"], "unknown task 'sst'"),
        (["finetune", "--task", "sst2", "--files", "x.tsv", "--data", ".", "--output", "OUT"], "no file x.tsv"),
        (["evaluate", "--task", "sst2", "--model", "nothing/here"], "cannot load 'nothing/here'"),
        (["reproduce", "certificate", "--task", "sst2", "--data", "nowhere"], "no file nowhere/SST-2/dev.tsv"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path):
    command = [sys.executable, "-m", "attattr", *[str(tmp_path) if word == "OUT" else word for word in arguments]]
    found = subprocess.run(command, capture_output=True, text=True, env={**__import__("os").environ, "HF_HUB_OFFLINE": "1"})
    assert found.returncode != 0
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []  # nothing half-written
