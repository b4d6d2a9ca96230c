"""Our own examples keep their promises, real data is read as it is, and broken files are refused with file and line."""

import glob
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import attattr
from attattr.data import TASKS, data_folder, find_task, read_rows

GLUE = Path(__file__).parent.parent.parent / "shared" / "glue"
OWN = ["sst2", "mnli"]


def normal(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


@pytest.mark.parametrize("task", OWN)
def test_own_examples_are_many_balanced_and_named(task):
    rows = attattr.examples(task)
    assert len(rows) >= 300
    assert tuple(rows.features["label"].names) == TASKS[task].labels
    assert tuple(rows.column_names) == (*TASKS[task].columns, "label")
    counts = Counter(rows["label"]).values()
    assert max(counts) - min(counts) <= 2
    assert len(counts) == len(TASKS[task].labels)


@pytest.mark.parametrize("task", OWN)
def test_no_two_own_examples_come_from_one_template(task):
    for column in TASKS[task].columns:
        seen = {}
        for number, text in enumerate(attattr.examples(task)[column]):
            words = normal(text).split()
            for at in range(len(words) - 4):
                run = " ".join(words[at : at + 5])
                assert seen.setdefault(run, number) == number, f"{column}: rows {seen[run]} and {number} share {run!r}"


@pytest.mark.parametrize("task", OWN)
@pytest.mark.skipif(not GLUE.is_dir(), reason="the real data is not on this machine")
def test_no_own_example_is_a_sentence_of_the_real_data(task):
    real = set()
    for path in glob.glob(str(GLUE / "*" / "*.tsv")):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            real.update(normal(cell) for cell in line.split("\t"))
    own = [text for column in TASKS[task].columns for text in attattr.examples(task)[column] if len(normal(text).split()) >= 4]
    assert not [text for text in own if normal(text) in real]


@pytest.mark.parametrize("task", OWN)
def test_the_models_know_the_class_names_of_the_examples(task):
    model, _ = attattr.load(task)
    assert [model.config.id2label[i] for i in range(model.config.num_labels)] == attattr.examples(task).features["label"].names


@pytest.mark.parametrize("task", OWN)
def test_own_examples_are_neither_trivial_nor_out_of_domain(task):
    from attattr.finetune import evaluate

    model, tokenizer = attattr.load(task)
    rows = [
        {**row, "label": TASKS[task].labels[row["label"]]}  # evaluate takes the names
        for row in attattr.examples(task)
    ]
    accuracy = evaluate(model, tokenizer, rows, TASKS[task])["accuracy"]
    record = json.loads((data_folder() / "models" / task / "training.json").read_text())
    assert record["accuracy"]["dev"]["accuracy"] - 0.1 <= accuracy < 0.99


def test_quotes_tabs_and_odd_letters_survive(tmp_path):
    (tmp_path / "MRPC").mkdir()
    text = '"He said , " it \'s naïve \u00ad – 5 £ \u201cquoted\u201d'
    (tmp_path / "MRPC" / "dev.tsv").write_text(f'sentence1\tsentence2\tlabel\n{text}\tother " one\tequivalent\n', encoding="utf-8")
    rows = attattr.examples("mrpc", source=tmp_path)
    assert rows[0] == {"sentence1": text, "sentence2": 'other " one', "label": 1}
    assert attattr.texts(rows) == [(text, 'other " one')]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\tlabel\n", "holds no rows"),
        ("", "lacks the column 'sentence'"),
        ("text\tlabel\na\tpositive\n", r"dev\.tsv lacks the column 'sentence'"),
        ("sentence\tlabel\na\tpositive\nb\tgood\n", r"dev\.tsv, line 3: unknown label 'good'.*'negative', 'positive'"),
        ("sentence\tlabel\n\tpositive\n", r"line 2: an empty column"),
    ],
)
def test_broken_files_are_refused_with_file_and_line(tmp_path, content, message):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_text(content)
    with pytest.raises(ValueError, match=message):
        attattr.examples("sst2", source=tmp_path)


def test_missing_tasks_splits_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown task 'cola': expected one of 'mnli', 'rte', 'sst2', 'mrpc'"):
        attattr.examples("cola")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        attattr.examples("sst2", split="dev")
    with pytest.raises(ValueError, match="pass source=FOLDER"):
        attattr.examples("sst2", split="train")
    with pytest.raises(FileNotFoundError, match=r"no file .*MNLI.dev\.tsv for task 'mnli'"):
        attattr.examples("mnli", source=tmp_path)
    with pytest.raises(FileNotFoundError, match="no result 'nothing'"):
        attattr.result("nothing")
    (tmp_path / "x.tsv").write_bytes(b"sentence\tlabel\nna\xefve\tpositive\n")
    with pytest.raises(ValueError, match=r"x\.tsv.*UTF-8"):
        read_rows(tmp_path / "x.tsv", find_task("sst2"))
