"""Training ends in a model that loads, a killed run ends where an unbroken one does, and the command line says what is wrong."""

import json
import os
import random
import subprocess
import sys

import pandas
import pytest
import torch
from toys import family
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizerFast,
    DebertaV2Config,
    DebertaV2Model,
)

import attattr
from attattr.book.commands import main, parser
from attattr.book.files import alone
from attattr.book.training import finetune as training
from attattr.book.training.evaluation import evaluate
from attattr.book.training.finetune import Settings, batch_order, finetune, hold_out

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
        "files": ["SST-2/train.tsv"],
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
    real = torch.optim.AdamW.step

    def killed(*arguments):
        if next(steps) == 33:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", killed)
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


def test_other_training_rows_are_refused_on_resuming(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "write_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(base), data, tmp_path / "out", checkpoint_every=7)
    with (data / "SST-2" / "train.tsv").open("a") as file:
        file.write("a warm film .\tpositive\n")
    with pytest.raises(ValueError, match=r"other settings.*data_sha256"):
        finetune(settings(base), data, tmp_path / "out", checkpoint_every=7)


def test_a_checkpoint_of_another_shape_or_damaged_is_refused(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "write_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(base), data, tmp_path / "out", checkpoint_every=7)
    path = tmp_path / "out" / "checkpoint" / "state.pt"
    state = torch.load(path, weights_only=True)
    state["trained"]["classifier/weight"] = torch.zeros(3, 24)
    torch.save(state, path)
    with pytest.raises(OSError, match=r"(?s)damaged checkpoint .*remove it.*classifier/weight: .*\[3, 24\].* is torch\.Size\(\[2, 24\]\)"):
        finetune(settings(base), data, tmp_path / "out", checkpoint_every=7)
    for content in (path.read_bytes()[:1000], b"no checkpoint", b""):
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"damaged checkpoint .*state\.pt: remove it"):
            finetune(settings(base), data, tmp_path / "out", checkpoint_every=7)
    torch.save({"step": 1}, path)
    with pytest.raises(OSError, match=r"damaged checkpoint .*: remove it .*KeyError: 'run'"):
        finetune(settings(base), data, tmp_path / "out", checkpoint_every=7)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    """Bits of the numbers, of which torch itself notices none, and of all else: noticed, or of no consequence."""
    parts = {"trained": torch.nn.Linear(7, 5), "other": torch.nn.Linear(3, 2)}
    path = tmp_path / "state.pt"
    training.save_checkpoint(path, {"seed": 0}, parts, 1.5)
    content = path.read_bytes()
    before = {name: part.state_dict()["weight"].clone() for name, part in parts.items()}
    numbers = [content.index(weight.numpy().tobytes()) for weight in before.values()]
    for at in [*numbers, numbers[0] + 9, *random.Random(0).sample(range(len(content)), 300)]:
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            found = training.restore(path, {"seed": 0}, parts)
        except (OSError, ValueError) as error:
            assert "state.pt" in str(error)
            continue
        assert at not in numbers
        assert found == 1.5
        assert all(torch.equal(part.state_dict()["weight"], before[name]) for name, part in parts.items())


def test_a_full_disk_at_the_end_leaves_the_older_model(base, data, tmp_path, file_size_limit):
    finetune(settings(base, rank=2, epochs=0.5), data, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with file_size_limit(3000), pytest.raises(OSError, match=r"cannot write the model to .*out: .*what was there is as it was"):
        finetune(settings(base, rank=2, epochs=0.5, seed=1), data, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    with file_size_limit(3000), pytest.raises(OSError, match=r"cannot write .*state.pt, which is as it was"):
        finetune(settings(base, rank=2, epochs=0.5, seed=1), data, tmp_path / "out", checkpoint_every=1)
    attattr.load(tmp_path / "out")
    finetune(settings(base, rank=0, epochs=0.5, seed=1), data, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter_config.json").exists()  # of the other kind
    attattr.load(tmp_path / "out")


def test_a_second_process_in_the_same_folder_is_refused(base, data, tmp_path):
    with alone(tmp_path / "out" / "training.json"), pytest.raises(OSError, match=r"another process is at work on .*training.json"):
        finetune(settings(base), data, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_without_files_the_train_split_is_used_and_the_hub_layout_serves(base, data, tmp_path):
    finetune(settings(base, epochs=1.0), data, tmp_path / "one")
    finetune(settings(base, epochs=1.0, files=[]), data, tmp_path / "two")
    from attattr.data import TASKS, read_split

    rows = {split: read_split(TASKS["sst2"], data, split) for split in ("train", "validation")}
    (tmp_path / "hub" / "sst2").mkdir(parents=True)
    for split, found in rows.items():
        table = pandas.DataFrame({"sentence": [r["sentence"] for r in found], "label": [int(r["label"] == "positive") for r in found]})
        table.to_parquet(tmp_path / "hub" / "sst2" / f"{split}-00000-of-00001.parquet")
    finetune(settings(base, epochs=1.0, files=[]), tmp_path / "hub", tmp_path / "three")
    one, two, three = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two", "three"))
    assert one["sha256"] == two["sha256"] == three["sha256"]
    assert two["command"].startswith("python -m attattr finetune --data FOLDER --output FOLDER --task sst2 --base")
    assert "--files SST-2/train.tsv" in one["command"]


def pair_task(data, name, labels):
    """The rows of ``data`` as a pair task with other class names: the same words in both texts, or not."""
    (data / name).mkdir()
    for split in ("train.tsv", "dev.tsv"):
        lines = ["sentence1\tsentence2\tlabel"]
        for number, line in enumerate((data / "SST-2" / split).read_text().splitlines()[1:]):
            text, label = line.split("\t")
            lines.append(f"{text}\ta film .\t{labels[number % len(labels)] if label == 'negative' else labels[0]}")
        (data / name / split).write_text("\n".join(lines) + "\n")


def test_an_adapter_goes_on_from_another_task(base, data, tmp_path):
    from attattr.book.training.finetune import add_adapter, go_on_from
    from attattr.pretrained import load_base

    pair_task(data, "MNLI", ["entailment", "neutral", "contradiction"])
    pair_task(data, "RTE", ["entailment", "not_entailment"])
    common = {"files": [], "rank": 4, "learning_rate": 2e-2, "epochs": 2.0}
    finetune(settings(base, task="mnli", **common), data, tmp_path / "mnli")
    chosen = settings(base, task="rte", start=str(tmp_path / "mnli"), **common)
    first, _, new = load_base(attattr.data.find_task("rte"), base)
    model = add_adapter(first, 4, new).eval()
    go_on_from(tmp_path / "mnli", model, attattr.data.find_task("rte"), chosen)
    old, tokenizer = attattr.load(tmp_path / "mnli")
    inputs = tokenizer("a warm film .", "a film .", return_tensors="pt")
    with torch.no_grad():
        three, two = old(**inputs).logits[0], model(**inputs).logits[0]
    assert torch.allclose(two, torch.stack([three[0], three[1:].mean()]), atol=1e-5)

    finetune(chosen, data, tmp_path / "rte")
    record = json.loads((tmp_path / "rte" / "training.json").read_text())
    began, card = json.loads((tmp_path / "mnli" / "training.json").read_text()), (tmp_path / "rte" / "README.md").read_text()
    assert (record["start"], record["start_sha256"], record["start_command"]) == ("FOLDER", began["sha256"], began["command"])
    assert "from the adapter" in card and began["command"] in card and " --start FOLDER " in record["command"]
    assert attattr.load(tmp_path / "rte")[0].config.id2label == {0: "entailment", 1: "not_entailment"}
    with pytest.raises(ValueError, match=r"cannot go on from .*its base and rank are .* 4\), this run's are .* 8\)"):
        finetune(settings(base, task="rte", start=str(tmp_path / "mnli"), **common | {"rank": 8}), data, tmp_path / "other")
    with pytest.raises(ValueError, match="no adapter 'nowhere'"):
        finetune(settings(base, task="rte", start="nowhere", **common), data, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def other_base(base, folder, name):
    """The folder of a random base of another family, with a tokenizer of the same words."""
    common = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 40}
    models = {
        "bert without a pooler": lambda: BertForMaskedLM(BertConfig(**common)),
        "deberta": lambda: DebertaV2Model(DebertaV2Config(**common)),
    }
    (models[name]() if name in models else family(name)).save_pretrained(folder)
    tokenizer = BertTokenizerFast.from_pretrained(base)
    if name == "distilbert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if name == "gpt2":
        tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(folder)
    return str(folder)


FAMILIES = ["bert without a pooler", "roberta", "distilbert", "albert", "gpt2", "llama", "deberta"]


@pytest.mark.parametrize(("name", "rank"), [*((name, 2) for name in FAMILIES), ("gpt2", 0)])
def test_any_base_is_fine_tuned_and_loads_as_what_was_trained(base, data, tmp_path, name, rank):
    chosen = settings(other_base(base, tmp_path / "other", name), rank=rank, epochs=0.5, max_length=24)
    trained = finetune(chosen, data, tmp_path / "out")
    model, tokenizer = attattr.load(tmp_path / "out")
    assert model.config.id2label == {0: "negative", 1: "positive"}
    inputs = tokenizer("a warm film .", return_tensors="pt")
    with torch.no_grad():
        found, expected = model(**inputs).logits, trained.eval()(**inputs).logits
        again = attattr.load(tmp_path / "out")[0](**inputs).logits
    assert torch.equal(found, again)
    assert torch.allclose(found, expected, atol=2e-3 if rank else 1e-6)  # adapters are kept in float16


@pytest.mark.parametrize("name", ["roberta", "distilbert", "gpt2"])
def test_an_adapter_of_another_family_is_gone_on_from(base, data, tmp_path, name):
    other = other_base(base, tmp_path / "other", name)
    finetune(settings(other, rank=2, epochs=0.5), data, tmp_path / "one")
    finetune(settings(other, rank=2, epochs=0.5, start=str(tmp_path / "one")), data, tmp_path / "two")
    assert attattr.load(tmp_path / "two")[0].config.id2label == {0: "negative", 1: "positive"}


def test_pairs_are_trained_in_both_orders(base, data, tmp_path, monkeypatch):
    pair_task(data, "MRPC", ["equivalent", "not_equivalent"])
    seen = []
    real = training.encode
    monkeypatch.setattr(training, "encode", lambda *arguments: seen.extend(arguments[1]) or real(*arguments))
    finetune(settings(base, task="mrpc", files=[], both_orders=True, epochs=1.0), data, tmp_path / "out")
    assert len(seen) == 400
    assert set(seen) == {text[::-1] for text in seen}
    assert len(set(seen)) > len(set(seen[:200]))
    assert "--both-orders" in json.loads((tmp_path / "out" / "training.json").read_text())["command"]


@pytest.mark.parametrize("device", ["cuda", "banana"])
def test_a_device_that_is_not_there_is_refused(base, data, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=f"device '{device}'"):
        finetune(settings(base), data, tmp_path / "out", device=device)


def test_a_model_with_its_classes_in_another_order_is_judged_by_their_names():
    from attattr.data import TASKS, read_split

    model, tokenizer = attattr.load("sst2")
    rows = read_split(TASKS["sst2"])[:40]
    before = evaluate(model, tokenizer, rows)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    model.config.id2label = {0: "positive", 1: "negative"}
    assert evaluate(model, tokenizer, rows) == before
    with pytest.raises(ValueError, match=r"row 0 has label neutral: expected 0 to 1, the classes \['positive', 'negative'\]"):
        evaluate(model, tokenizer, read_split(TASKS["mnli"]))


def test_two_processes_train_and_evaluate_like_one(base, data, tmp_path):
    """Each takes its share of every batch; a batch that does not divide, and one with a single row, are among them."""
    lines = (data / "SST-2" / "train.tsv").read_text().splitlines()[:22]  # 21 rows: batches of 10, 10, 1
    (data / "SST-2" / "train.tsv").write_text("\n".join(lines) + "\n")
    options = ["--task", "sst2", "--base", base, "--rank", "0", "--epochs", "1", "--batch-size", "10", "--dropout", "0"]
    command = ["-m", "attattr", "finetune", *options, "--learning-rate", "3e-3", "--data", str(data)]
    alone = [sys.executable, *command, "--output", str(tmp_path / "one")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for words in (alone, [*launcher, *command, "--output", str(tmp_path / "two")]):
        found = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert found.returncode == 0, found.stderr
    one, two = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["accuracy"] == two["accuracy"]
    first, second = (attattr.load(tmp_path / name)[0].state_dict() for name in ("one", "two"))
    assert max(float((first[key] - second[key]).abs().max()) for key in first) < 1e-4
    words = [*launcher, "-m", "attattr", "evaluate", "--task", "sst2", "--model", str(tmp_path / "two"), "--data", str(data)]
    found = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert json.loads(found.stdout) == two["accuracy"]["dev"]


def test_accuracy_and_f1_are_scikit_learns(base, data):
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    from attattr.data import TASKS, read_split
    from attattr.pretrained import load_base

    rows = read_split(TASKS["sst2"], data)
    model, tokenizer, _ = load_base(TASKS["sst2"], base)
    model.eval()
    with torch.no_grad():
        for parameter in model.bert.embeddings.word_embeddings.parameters():
            parameter.mul_(50)  # so that rows differ by more than rounding
        logits = torch.stack([model(**tokenizer(row["sentence"], return_tensors="pt")).logits[0] for row in rows])
        model.classifier.bias[0] += (logits[:, 1] - logits[:, 0]).quantile(0.5)  # so that the untrained model says both
        predicted = [TASKS["sst2"].labels[int(model(**tokenizer(row["sentence"], return_tensors="pt")).logits.argmax())] for row in rows]
    gold = [row["label"] for row in rows]
    assert set(predicted) == {"negative", "positive"}
    found = evaluate(model, tokenizer, rows)
    assert found["accuracy"] == round(accuracy_score(gold, predicted), 4)
    for label in TASKS["sst2"].labels:
        assert found["per_class"][label] == round(recall_score(gold, predicted, pos_label=label), 4)
        assert found["f1"][label] == round(f1_score(gold, predicted, pos_label=label), 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0.0}, "epochs=0.0: expected 1e-09 to "),
        ({"epochs": float("nan")}, "epochs=nan: expected 1e-09 to "),
        ({"holdout": 500}, "nothing to train on: 200 rows, holdout=500"),
        ({"holdout": -1}, "holdout=-1: expected 0 to "),
        ({"rows": 0}, "rows=0: expected 1 to "),
        ({"rows": -5}, "rows=-5: expected 1 to "),
        ({"rank": -1}, "rank=-1: expected 0 to "),
        ({"max_length": 0}, "max_length=0: expected 1 to "),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5: expected 0 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: expected 0 to 1"),
        ({"both_orders": True}, "both_orders is for pairs: 'sst2' has one column, 'sentence'"),
        ({"precision": "float8"}, "unknown precision 'float8': expected one of 'float32', 'bfloat16'"),
    ],
)
def test_impossible_settings_are_refused(base, data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(settings(base, **options), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_dev_file_is_noticed_before_the_training(base, data, tmp_path):
    (data / "SST-2" / "dev.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*dev\.tsv"):
        finetune(settings(base), data, tmp_path / "out", checkpoint_every=1)
    assert not (tmp_path / "out").exists()


def test_every_row_is_seen_once_an_epoch_and_like_lengths_go_together():
    lengths = [1 + i * 7 % 40 for i in range(1000)]
    steps = batch_order(lengths, Settings("sst2", ["x"], epochs=2.0, batch_size=20))
    assert len(steps) == 100
    assert sorted(i for step in steps[:50] for i in step) == list(range(1000))
    assert sorted(i for step in steps[50:] for i in step) == list(range(1000))
    assert steps[:50] != steps[50:]
    spread = [max(lengths[i] for i in step) - min(lengths[i] for i in step) for step in steps]
    assert sum(spread) / len(spread) < 5  # of 40, in any order
    assert steps == batch_order(lengths, Settings("sst2", ["x"], epochs=2.0, batch_size=20))


def test_no_batch_is_empty_and_epochs_need_not_be_whole():
    for rows, epochs, sizes in ((21, 1.0, [10, 10]), (26, 1.0, [10, 10, 6]), (21, 1.5, [10, 10, 10]), (3, 2.0, [6]), (3, 0.5, [3])):
        steps = batch_order([5] * rows, Settings("sst2", ["x"], epochs=epochs, batch_size=10))
        assert [len(step) for step in steps] == sizes


def test_no_part_of_a_held_out_sentence_is_trained_on():
    whole = "one two three four five"
    rows = [{"sentence": text, "label": "positive"} for text in (whole, whole, "two three", "six seven", "six", "eight") * 4]
    held_out, rest = hold_out(rows, attattr.data.find_task("sst2"), Settings("sst2", ["x"], holdout=2))
    assert {row["sentence"] for row in held_out} == {whole}
    assert {row["sentence"] for row in rest} == {"six seven", "six", "eight"}


def test_the_options_of_finetune_are_the_settings(base, data, tmp_path):
    """The command in the record, given to the command line, makes the same settings again."""
    chosen = settings(base, task="mrpc", both_orders=True, rows=3, learning_rate=1e-4, files=["a.tsv", "b.tsv"])
    options = vars(parser().parse_args(training.command(chosen, 1).split()[3:]))
    assert Settings(**{name: options[name] for name in Settings.__dataclass_fields__}) == chosen
    options = vars(parser().parse_args(["finetune", "--task", "mrpc", "--both-orders", "--data", "d", "--output", "o"]))
    assert (options["both_orders"], options["files"], options["rank"], options["base"]) == (True, [], 32, None)


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
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert found.returncode != 0
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []  # nothing half-written
