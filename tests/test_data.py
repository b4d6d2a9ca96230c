"""Our own examples keep their promises, real data is read as it is, and broken files are refused with file and line."""

import glob
import json
import re
from collections import Counter
from pathlib import Path

import pandas
import pytest

import attattr
from attattr.data import ALL_TASKS, HUB, TASKS, data_folder, find_task, lexicon, read_rows, read_split

GLUE = Path(__file__).parent.parent.parent / "shared" / "glue"
OWN = ["mnli", "rte", "sst2", "mrpc", "agreement"]


def normal(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


@pytest.mark.parametrize("task", OWN)
def test_own_examples_are_many_balanced_and_named(task):
    rows = attattr.examples(task)
    assert len(rows) >= (150 if task == "agreement" else 300)
    assert tuple(rows.features["label"].names) == ALL_TASKS[task].labels
    assert tuple(rows.column_names) == (*ALL_TASKS[task].columns, "label")
    counts = Counter(rows["label"]).values()
    assert max(counts) - min(counts) <= 2
    assert len(counts) == len(ALL_TASKS[task].labels)


@pytest.mark.parametrize("task", OWN)
def test_no_two_own_examples_come_from_one_template(task):
    for column in ALL_TASKS[task].columns:
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
    own = [text for column in ALL_TASKS[task].columns for text in attattr.examples(task)[column] if len(normal(text).split()) >= 4]
    assert not [text for text in own if normal(text) in real]


@pytest.mark.parametrize("task", OWN)
def test_the_models_know_the_class_names_of_the_examples(task):
    model, _ = attattr.load(task)
    assert [model.config.id2label[i] for i in range(model.config.num_labels)] == attattr.examples(task).features["label"].names


@pytest.mark.parametrize("task", OWN)
def test_own_examples_are_neither_trivial_nor_out_of_domain(task):
    from attattr.book.training.evaluation import evaluate

    model, tokenizer = attattr.load(task)
    accuracy = evaluate(model, tokenizer, read_split(ALL_TASKS[task]))["accuracy"]
    record = json.loads((data_folder() / "models" / task / "training.json").read_text())
    harder = 0.15 if task == "agreement" else 0.1  # half of its own rows hold a noun of the other number, on purpose
    assert record["accuracy"]["dev"]["accuracy"] - harder <= accuracy < 0.99


ODD = '"He said , " it \'s naïve \u00ad – 5 £ \u201cquoted\u201d \u2028 \x85 \x0b \x1c line'


def test_quotes_and_odd_letters_in_a_table_survive(tmp_path):
    (tmp_path / "MRPC").mkdir()
    (tmp_path / "MRPC" / "dev.tsv").write_bytes(f'\ufeffsentence1\tsentence2\tlabel\r\n{ODD}\tother " one\tequivalent\r\n'.encode())
    rows = attattr.examples("mrpc", source=tmp_path)
    assert rows[0] == {"sentence1": ODD, "sentence2": 'other " one', "label": 1}
    assert attattr.texts_of(rows) == [(ODD, 'other " one')]


HUB_FILES = {"mnli": "validation_matched", "rte": "validation", "sst2": "validation", "mrpc": "validation"}


def hub_copy(folder, task, columns, split=None, names=None):
    """One file of a copy of the hub's repository, written as the hub writes it."""
    from datasets import ClassLabel, Dataset, Features, Value

    path = folder / task / f"{split or HUB_FILES[task]}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    features = Features({name: Value("string") for name in columns} | {"label": ClassLabel(names=names or list(TASKS[task].labels))})
    columns = columns | {"idx": list(range(len(columns["label"])))}
    Dataset.from_dict(columns, features=Features(features | {"idx": Value("int32")})).to_parquet(path)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_a_copy_of_the_hub_is_read_like_the_hub(tmp_path, task, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    own = attattr.examples(task)
    to_hub = {"sentence1": "premise", "sentence2": "hypothesis"} if task == "mnli" else {}
    hub_copy(tmp_path, task, {to_hub.get(name, name): own[name] for name in own.column_names})
    found = attattr.examples(task, source=tmp_path)
    assert found.features == own.features
    assert found[:] == own[:]

    import datasets

    asked = []
    real = datasets.load_dataset

    def offline(*arguments, data_files, **options):
        asked.append(data_files)
        return real(*arguments, data_files={split: path.replace(HUB, str(tmp_path)) for split, path in data_files.items()}, **options)

    monkeypatch.setattr(datasets, "load_dataset", offline)
    assert attattr.examples(task, source="glue")[:] == own[:]
    assert asked == [{HUB_FILES[task]: f"{HUB}/{task}/{HUB_FILES[task]}-*.parquet"}]


def test_tabs_line_ends_and_other_label_orders_in_a_hub_copy_survive(tmp_path):
    text = f"{ODD}\t a tab \n and a line"
    columns = {"sentence1": [text, "b"], "sentence2": ["c", "d"], "label": [0, 1]}
    rows = attattr.examples("mrpc", source=hub_copy(tmp_path, "mrpc", columns, names=["equivalent", "not_equivalent"]))
    assert rows["sentence1"] == [text, "b"]
    assert rows["label"] == [1, 0]  # by name, not by number


def test_a_folder_name_is_no_pattern(tmp_path):
    folder = hub_copy(tmp_path / "glue[1]*", "sst2", {"sentence": ["a"], "label": [1]})
    assert attattr.examples("sst2", source=folder)["sentence"] == ["a"]


def test_a_hub_copy_without_label_names_has_the_hubs_order(tmp_path):
    import pandas

    (tmp_path / "rte").mkdir()
    rows = pandas.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]})
    rows.to_parquet(tmp_path / "rte" / "train-00000-of-00001.parquet")
    found = attattr.examples("rte", source=tmp_path, split="train")
    assert [found.features["label"].int2str(label) for label in found["label"]] == ["not_entailment", "entailment"]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (
            {"text": ["a"], "label": [0]},
            ValueError,
            r"validation-\*\.parquet has the columns .*'text'.*expected each of \['sentence', 'label'\]",
        ),
        ({"sentence": ["a", "b"], "label": [0, -1]}, ValueError, r"unknown label in .*, row 1: '-1, for GLUE does not publish it'"),
        ({"sentence": ["a", None], "label": [0, 1]}, ValueError, r"row 1: a column without text"),
        ({"sentence": ["a", " "], "label": [0, 1]}, ValueError, r"row 1: a column without text"),
        ({"sentence": [], "label": []}, OSError, r"validation-\*\.parquet for task 'sst2'.*no data"),
    ],
)
def test_a_broken_hub_copy_is_refused_with_file_and_row(tmp_path, columns, error, message):
    with pytest.raises(error, match=message):
        attattr.examples("sst2", source=hub_copy(tmp_path, "sst2", columns))


def test_a_damaged_or_missing_hub_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "validation-00000-of-00001.parquet").write_text("no parquet")
    with pytest.raises(OSError, match=r"cannot read .*validation-\*\.parquet for task 'sst2': expected .* its files in source=FOLDER"):
        attattr.examples("sst2", source=tmp_path)
    with pytest.raises(OSError, match=r"cannot read .*sst2.train-\*\.parquet"):
        attattr.examples("sst2", source=tmp_path, split="train")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="expected a network for the hub, or its files in source=FOLDER"):
        attattr.examples("sst2", source="glue")


def test_the_own_lexicon_is_small_sorted_and_without_contradiction():
    words = attattr.lexicon()
    assert set(words) == {"positive", "negative"}
    assert all(len(found) >= 300 for found in words.values())
    assert not words["positive"] & words["negative"]
    assert {"delightful", "funny"} <= words["positive"]
    assert {"dull", "tedious"} <= words["negative"]


@pytest.mark.skipif(not GLUE.is_dir(), reason="the real data is not on this machine")
def test_the_real_lexicon_is_read_from_its_folder():
    words = lexicon(GLUE / "lexicon")
    assert (len(words["positive"]), len(words["negative"])) == (2006, 4782)
    assert "naïve" in words["negative"]


@pytest.mark.parametrize("names", [True, False])
def test_a_lexicon_is_read_by_name_through_datasets(tmp_path, monkeypatch, names):
    import datasets
    from datasets import ClassLabel, Dataset, Features, Value

    polarity = ClassLabel(names=["negative", "positive"]) if names else Value("string")
    features = Features({"word": Value("string"), "label": polarity})
    columns = {"word": ["Good", "bad"], "label": [1, 0] if names else ["positive", "negative"]}
    asked = []

    def offline(name, split):
        asked.append((name, split))
        return Dataset.from_dict(columns, features=features)

    monkeypatch.setattr(datasets, "load_dataset", offline)
    assert lexicon("someone/opinion-lexicon") == {"positive": {"good"}, "negative": {"bad"}}
    assert asked == [("someone/opinion-lexicon", "all")]


def test_a_local_dataset_serves_as_a_lexicon(tmp_path):
    (tmp_path / "words.csv").write_text("word,polarity\ngood,positive\nbad,negative\n")
    assert lexicon(tmp_path) == {"positive": {"good"}, "negative": {"bad"}}
    (tmp_path / "words.csv").write_text("word,polarity\ngood,positive\nbad,neither\n")
    with pytest.raises(ValueError, match=r"unknown label in .*, row 1: 'neither': expected one of 'positive', 'negative'"):
        lexicon(tmp_path)
    (tmp_path / "words.csv").write_text("word,token,polarity\ngood,good,positive\n")
    with pytest.raises(ValueError, match=r"has the columns \['word', 'token', 'polarity'\]: expected each of \['word', 'label'\] once"):
        lexicon(tmp_path)
    (tmp_path / "words.csv").write_text("entry,polarity\ngood,positive\n")
    with pytest.raises(
        ValueError, match=r"has the columns .*'entry'.*expected each of \['word', 'label'\] once, or its name in .*'term': 'word'"
    ):
        lexicon(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("table", -1), "unknown label in .*, row 1: -1: expected"),
        ((None, 0), "row 1: a column without text"),
        (("table", None), "unknown label in .*, row 1: nan"),
    ],
)
def test_a_lexicon_row_without_word_or_polarity_is_refused(monkeypatch, row, message):
    import datasets
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"word": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    rows = DatasetDict(all=Dataset.from_dict({"word": ["good", row[0]], "label": [1, row[1]]}, features=features))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows[split])
    with pytest.raises(ValueError, match=message):
        lexicon("someone/opinion-lexicon")


def test_broken_lexicons_are_refused(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"cannot read the lexicon .* \(nor are there files positive-words\.txt and negative-words\.txt\)"):
        lexicon(tmp_path)
    (tmp_path / "positive-words.txt").write_text("; only a comment\ngood\n")
    with pytest.raises(FileNotFoundError, match=r"no file .*negative-words\.txt: expected negative words"):
        lexicon(tmp_path)
    (tmp_path / "negative-words.txt").write_text("; only a comment\n\n")
    with pytest.raises(ValueError, match=r"holds \['1 positive', '0 negative'\] words"):
        lexicon(tmp_path)
    (tmp_path / "negative-words.txt").write_bytes(b"bad\nna\xefve\n")
    with pytest.raises(ValueError, match=r"negative-words\.txt, line 2: byte 0xef is not UTF-8"):
        lexicon(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"cannot read the lexicon 'nobody/nothing' .*expected a network for the hub"):
        lexicon("nobody/nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\tlabel\n", "holds no rows"),
        ("", r"dev\.tsv holds no rows: expected a header"),
        (
            "sentence\tsentence\tlabel\na\tb\tpositive\n",
            r"dev\.tsv has the columns \['sentence', 'sentence', 'label'\]: expected each of \['sentence', 'label'\] once",
        ),
        ("text\tlabel\na\tpositive\n", r"dev\.tsv has the columns \['text', 'label'\]: expected each of \['sentence', 'label'\]"),
        ("sentence\tlabel\na\tpositive\nb\tgood\n", r"unknown label in .*dev\.tsv, line 3: 'good': expected one of 'negative', 'positive'"),
        ("sentence\tlabel\n\tpositive\n", r"line 2: a column without text"),
        ("sentence\tlabel\na\tpositive\na\tb\tpositive\n", r"dev\.tsv, line 3: 3 tab-separated columns, expected 2"),
        ("sentence\tlabel\na\tpositive\n\nb\tpositive\n", r"dev\.tsv, line 3: 1 tab-separated columns, expected 2"),
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
    with pytest.raises(FileNotFoundError, match=r"no file .*MNLI.dev\.tsv: expected a table for task 'mnli'"):
        attattr.examples("mnli", source=tmp_path)
    (tmp_path / "x.tsv").write_bytes(b"sentence\tlabel\nna\xefve\tpositive\n")
    with pytest.raises(ValueError, match=r"x\.tsv, line 2: byte 0xef is not UTF-8"):
        read_rows(tmp_path / "x.tsv", find_task("sst2"))


WIKI = "sentence\tsubj_idx\tverb_idx\tverb_pos\tverb\tinflected_verb\n"


def test_agreement_is_the_words_before_the_verb(tmp_path):
    folder = tmp_path / "agreement"
    folder.mkdir()
    (folder / "wiki_test.tsv").write_text(WIKI + "the keys to the box are here\t1\t5\tVBP\tare\tis\nshe VBZ it\t0\t1\tVBZ\tmends\tmend\n")
    rows = attattr.examples("agreement", source=tmp_path, split="train")
    assert rows["sentence"][:] == ["the keys to the box", "she"]
    assert [rows.features["label"].names[label] for label in rows["label"]] == ["plural", "singular"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (" mends it\t0\t1\tVBZ\tmends\tmend", "line 2: '1': expected one of '2'"),
        ("she mends it\t0\t0\tVBZ\tmends\tmend", "unknown verb_idx, counted from 0, in .*, line 2: '0': expected one of '1', '2'"),
        ("she mends it\t0\t3\tVBZ\tmends\tmend", "line 2: '3': expected one of '1', '2'"),
        ("she mends it\t0\tx\tVBZ\tmends\tmend", "unknown verb_idx.*, line 2: 'x'"),
        ("she mended it\t0\t1\tVBD\tmended\tmend", "unknown label in .*, line 2: 'VBD': expected one of 'VBZ', 'VBP'"),
        ("she mends it\t0\t1", "line 2: 3 tab-separated columns, expected 6"),
    ],
)
def test_bad_rows_of_agreement_are_named(tmp_path, row, message):
    (tmp_path / "agreement").mkdir()
    (tmp_path / "agreement" / "wiki_dev.tsv").write_text(WIKI + row + "\n")
    with pytest.raises(ValueError, match=message):
        attattr.examples("agreement", source=tmp_path)


def test_agreement_is_not_of_glue(tmp_path):
    with pytest.raises(ValueError, match="unknown task of GLUE 'agreement': expected one of 'mnli'"):
        attattr.examples("agreement", source="glue")
    with pytest.raises(ValueError, match="unknown split 'test': expected one of 'train', 'validation'"):
        attattr.examples("agreement", source=tmp_path, split="test")
    with pytest.raises(FileNotFoundError, match=r"wiki_dev\.tsv: expected a table for task 'agreement'"):
        attattr.examples("agreement", source=tmp_path)


def test_the_messages_are_of_two_kinds_and_all_different():
    """Of chapter 15: a file as readers have it, which names no task."""
    messages = pandas.read_csv(data_folder() / "examples" / "messages.csv")
    assert messages.label.value_counts().to_dict() == {"complaint": 110, "question": 110}
    assert messages.text.str.lower().is_unique
    assert not messages.text.str.contains("[?.!]|Zuvio").any()
    assert messages[messages.text.str.startswith("The ")].label.tolist() == ["complaint"] * 91  # as the chapter says
