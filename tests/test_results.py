"""Results are tidy tables: complete, of one schema, and refused in words where they are missing or damaged."""

import json

import pytest

import attattr
from attattr.book.results import COLUMNS, name_of, read_result, write_result
from attattr.data import data_folder

PATHS = [path for folder in ("results", "paper") for path in sorted((data_folder() / folder).rglob("*.json"))]
ROW = {"model": 0, "seed": 1, "sample": 2, "layer": 3, "head": 4, "importance": 0.5}


@pytest.mark.parametrize("name", [name_of(path) for path in PATHS])
def test_every_committed_result_is_a_table_of_its_kind(name):
    table = attattr.result(name)
    kind, _, task = name.removeprefix("base/").rpartition("-")
    assert list(table) == list(COLUMNS.get(name) or ("task", *COLUMNS[kind]))  # what is of no task, or of all, is named whole
    assert len(table) > 0
    assert name in COLUMNS or set(table.task) == {task}
    assert table.attrs
    if "measure" in table:
        parts = [attattr.result(name, measure) for measure in table.measure.unique()]
        assert sum(map(len, parts)) == len(table)
        assert not any(part[column].isna().all() for part in parts for column in part)
    if "layer" in table:
        assert table.layer.min() == 0  # layers count from 0


def test_what_is_written_is_read_and_the_rest_of_a_row_is_empty(tmp_path):
    path = write_result(tmp_path / "fig6-sst2.json", [ROW, {"layer": 5}], {"command": "none"})
    table = attattr.result(str(path))
    assert table.iloc[0].to_dict() == {"task": "sst2"} | ROW
    assert table.iloc[1].isna().sum() == 5
    assert table.attrs == {"command": "none"}
    assert [file.name for file in tmp_path.iterdir()] == ["fig6-sst2.json"]


def test_a_measure_is_its_rows_without_the_columns_it_leaves_empty():
    edges = attattr.result("fig4-sst2", "edges")
    assert "low" not in edges
    assert set(edges) == {"task", "graph", "layer", "distance", "value"}
    with pytest.raises(ValueError, match="unknown measure of fig4-sst2 'edge': expected one of 'edges', 'mean distance'"):
        attattr.result("fig4-sst2", "edge")


def test_results_of_the_large_size_have_a_folder_and_a_name_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("attattr.book.results.data_folder", lambda: tmp_path)
    (tmp_path / "results" / "base").mkdir(parents=True)
    for folder, layer in (("results", 3), ("results/base", 11)):
        write_result(tmp_path / folder / "fig6-sst2.json", [ROW | {"layer": layer}], {})
    assert attattr.result("fig6-sst2").layer.item() == 3
    assert attattr.result("base/fig6-sst2").layer.item() == 11


def test_what_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no result 'fig9-sst2'.*'fig5-sst2'"):
        attattr.result("fig9-sst2")
    with pytest.raises(FileNotFoundError, match=r"no result '.*fig6-sst2.json'"):
        attattr.result(str(tmp_path / "fig6-sst2.json"))
    path = write_result(tmp_path / "fig6-sst2.json", [ROW], {})
    whole = path.read_text()
    other = whole.replace("[3]", "[3, 4]"), whole.replace('"columns"', '"rows"'), '{"rows": [1], "provenance": {}}'
    for damaged in (whole[:-9], "[]", "{}", *other):
        path.write_text(damaged)
        with pytest.raises(OSError, match=r"fig6-sst2.json is damaged, or no result"):
            read_result(path)
    content = json.loads(whole)
    content["columns"]["heads"] = content["columns"].pop("head")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"fig6-sst2.json lacks the columns \['head'\] and has \['heads'\] instead"):
        read_result(path)


def test_an_accuracy_kept_with_four_digits_is_a_whole_number_of_rows_again():
    table = attattr.result("table2-mnli")
    right = table.accuracy * table["rows"]
    assert right.sub(right.round()).abs().max() < 1e-9
    whole = table[(table.kind == "no trigger") & (table["class"] == "entailment")].iloc[0]
    assert whole["rows"] == 216 and whole.accuracy == 158 / 216 != 0.7315


@pytest.mark.parametrize(("rows", "words"), [([{"heads": 1}], r"\['heads'\]"), ([], "0 rows")])
def test_rows_of_no_table_are_not_written(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        write_result(tmp_path / "fig6-sst2.json", rows, {})
    assert not list(tmp_path.iterdir())
