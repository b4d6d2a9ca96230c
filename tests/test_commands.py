"""The command line: any model and any CSV file, refused in words where something is wrong, and nothing half-written."""

import json
import re
from collections import Counter

import pandas
import pytest
from conftest import ROOT

import attattr
from attattr.book.commands import main, parser
from attattr.book.files import alone
from attattr.data import whole

TEXTS = ["a warm and funny film .", "dull , empty , and far too long .", "NA", "never boring"]


@pytest.fixture
def csv(tmp_path):
    """A CSV file of four texts with their labels, as text and in the file's own words."""
    path = tmp_path / "rows.csv"
    table = pandas.DataFrame({"id": range(4), "review": TEXTS, "label": ["positive", "negative", "negative", "positive"]})
    table.to_csv(path, index=False)
    return path


def test_every_row_is_attributed_and_saved(csv, tmp_path, capsys):
    output = tmp_path / "new" / "out.safetensors"
    main(["attribute", "--model", "sst2", "--csv", str(csv), "--column", "review", "--output", str(output)])
    atts = attattr.Attribution.load(output)
    assert [att.text for att in atts] == TEXTS  # "NA" is a text, and no missing value
    alone = attattr.attribute(*attattr.load("sst2"), TEXTS[0])
    assert (atts[0].scores - alone.scores).abs().max() < 1e-5
    certified = sum(att.certified for att in atts)
    assert capsys.readouterr().out == f"{output}: 4 attributions, {certified} of them certified\n"
    assert [path.name for path in output.parent.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("target", ["positive", "1"])
def test_a_table_of_the_strongest_connections(csv, tmp_path, target):
    output = tmp_path / "out.csv"
    main(["attribute", "--model", "sst2", "--csv", str(csv), "--column", "review", "--target", target, "--output", str(output)])
    table = pandas.read_csv(output, keep_default_na=False)
    assert list(table)[:6] == ["row", "layer", "head", "query", "key", "score"]
    assert table.groupby("row").size().tolist() == [20] * 4
    assert set(table.label) == {"positive"}
    att = attattr.attribute(*attattr.load("sst2"), TEXTS[1], target="positive")
    own, expected = table[table.row == 1], att.strongest(20)
    assert own.score.tolist() == pytest.approx(expected.score.tolist(), abs=1e-5)
    assert own.query_token.tolist() == [att.tokens[place] for place in own["query"]]
    assert own.key_token.tolist() == [att.tokens[place] for place in own["key"]]
    assert set(own.certified) == {att.certified}


def test_pairs_are_two_columns(tmp_path):
    pandas.DataFrame({"one": ["a man sleeps ."], "other": ["a man is awake ."]}).to_csv(tmp_path / "pairs.csv", index=False)
    words = ["attribute", "--model", "mnli", "--csv", str(tmp_path / "pairs.csv"), "--column", "one", "--column", "other"]
    main([*words, "--output", str(tmp_path / "out")])
    (att,) = attattr.Attribution.load(tmp_path / "out")
    assert att.text == ("a man sleeps .", "a man is awake .")


def test_accuracy_on_a_file_counts_names_and_ids(csv, capsys):
    main(["evaluate", "--model", "sst2", "--csv", str(csv), "--column", "review"])
    found = json.loads(capsys.readouterr().out)
    table = pandas.read_csv(csv, keep_default_na=False)
    att = attattr.attribute(*attattr.load("sst2"), TEXTS)
    right = [one.label == gold for one, gold in zip(att, table.label, strict=True)]
    assert found["rows"] == 4
    assert found["accuracy"] == sum(right) / 4
    hits = Counter(gold for gold, hit in zip(table.label, right, strict=True) if hit)
    assert found["per_class"] == {name: hits[name] / 2 for name in ("negative", "positive")}
    table.assign(gold=(table.label == "positive").astype(int)).drop(columns="label").to_csv(csv, index=False)
    main(["evaluate", "--model", "sst2", "--csv", str(csv), "--column", "review", "--label", "gold"])
    assert json.loads(capsys.readouterr().out) == found


BAD = {
    "no file": (None, "no file .*rows.csv: expected a CSV file in UTF-8 whose first line names the columns"),
    "no column": (b"text,label\na,positive\n", r"rows with the columns \['text', 'label'\]: expected columns=\['review'\]"),
    "empty": (b"", "No columns"),
    "no rows": (b"review,label\n", "an empty list of texts|no rows"),
    "one empty text": (b'review,label\ngood,positive\n"",negative\n', "empty text '', row 1"),
    "a missing cell": (b"label,review\npositive,good\nnegative\n", "row 1"),
    "a comma too many": (b"review,label\ngood,positive\nbad, really,negative\n", "Expected 2 fields in line 3, saw 3"),
    "commas everywhere": (b"review,label\nwell, good,positive\nbad, really,negative\n", "rows of more cells than the columns"),
    "not UTF-8": (b"review,label\ngood,positive\ncaf\xe9,negative\n", "line 3: byte 0xe9 is not UTF-8"),
    "too long": (b"review,label\ngood,positive\n" + b"long " * 600 + b",negative\n", "row 1, or pass truncation=True"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["attribute", "evaluate"])
def test_a_bad_file_is_refused_in_words(tmp_path, case, command):
    content, message = BAD[case]
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    words = [command, "--model", "sst2", "--csv", str(path), "--column", "review"]
    words += ["--output", str(tmp_path / "out")] if command == "attribute" else []
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        main(words)
    assert {one.name for one in tmp_path.iterdir()} <= {"rows.csv"}


def test_a_text_that_is_too_long_is_shortened_when_asked(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("text,label\ngood,positive\n" + "good " * 600 + ",positive\n")
    words = ["--model", "sst2", "--csv", str(tmp_path / "rows.csv"), "--truncation"]
    main(["evaluate", *words])
    assert json.loads(capsys.readouterr().out)["rows"] == 2


@pytest.mark.parametrize("words", [[], ["--model", "sst2"], ["--csv", "rows.csv"]])
def test_evaluate_says_what_it_needs(words):
    with pytest.raises(ValueError, match="nothing to evaluate: expected --task, or --model and --csv"):
        main(["evaluate", *words])


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"attattr {attattr.__version__}\n"


def test_results_go_to_a_folder_of_the_readers_own():
    options = parser().parse_args(["reproduce", "fig4", "--task", "sst2", "--data", "glue"])
    assert str(options.output) == "results"
    assert (options.rows, options.seed, options.other, options.model) == (None, 0, [], None)


@pytest.mark.parametrize("place", ["folder", "file/out"])
def test_a_place_that_cannot_be_written_is_noticed_before_anything_is_computed(csv, tmp_path, monkeypatch, place):
    from attattr.book import commands

    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(commands, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(OSError, match=f"cannot write .*{place}"):
        main(["attribute", "--model", "sst2", "--csv", str(csv), "--column", "review", "--output", str(tmp_path / place)])


def test_a_file_is_held_by_one_at_a_time(tmp_path):
    path = tmp_path / "new" / "result.json"
    with alone(path):
        with pytest.raises(OSError, match=r"another process is at work on .*result.json: wait until it ends"), alone(path):
            pass
        with alone(tmp_path / "new" / "another.json"):
            pass
    with alone(path):
        pass
    with pytest.raises(KeyError), alone(path):
        raise KeyError
    with alone(path):
        assert not path.exists()
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("error", [OSError("No space left on device"), RuntimeError("PytorchStreamWriter failed"), KeyboardInterrupt()])
def test_what_was_there_stays_if_the_new_one_is_not_whole(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError), whole(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]
    with whole(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame({"premise": ["a man sleeps ."] * 2, "hypothesis": ["a man is awake .", "he sleeps ."]}).to_csv("pairs.csv")
    names = {"pandas": pandas}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["att"].certified
    assert [att.label for att in attattr.Attribution.load("pairs.safetensors")] == [att.label for att in names["atts"]]
    for command in re.findall(r"python -m attattr (attribute .*)", text):
        assert parser().parse_args(command.split()).column == ["text"]
