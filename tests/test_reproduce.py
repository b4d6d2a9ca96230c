"""Dataset-scale runs: killed ones go on where they stopped, and the committed results say where they come from."""

import hashlib
import json

import pytest
import torch

import attattr
from attattr.data import ALL_TASKS, TASKS, data_folder, paper
from attattr.effectiveness import graph_edges, probability_with
from attattr.reproduce import Run, reproduce
from attattr.reproduce.models import certificate_summary
from attattr.reproduce.running import resumable


def test_a_killed_run_goes_on_and_does_nothing_twice(tmp_path):
    asked = []

    def measure(item):
        asked.append(item)
        if asked == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return {"item": item}

    path = tmp_path / "results" / ".rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        resumable(path, "test", range(6), measure)
    with path.open("a") as file:
        file.write('{"item": 3, "more": {"x": 1}')  # the half line that a kill can leave
    assert resumable(path, "test", range(6), measure) == [{"item": i} for i in range(6)]
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    assert resumable(path, "test", range(6), measure) == [{"item": i} for i in range(6)]
    assert asked == [0, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("task", ["sst2", "mnli"])
def test_the_committed_certificate_holds_and_belongs_to_the_committed_model(task):
    found = attattr.result(f"certificate-{task}")
    weights = (attattr.data.data_folder() / "models" / task / "adapter_model.safetensors").read_bytes()
    assert found["provenance"]["model"] == hashlib.sha256(weights).hexdigest()
    assert {"command", "model", "data", "versions", "seconds"} <= set(found["provenance"])
    summary = found["summary"]
    assert summary == certificate_summary(found["rows"])
    assert summary["texts"] == 200
    assert summary["within_reported"] >= 0.95
    assert summary["error_median"] <= 1e-3
    assert summary["error_worst"] <= 2e-2
    assert summary["evaluations_median"] <= 6


@pytest.mark.parametrize("path", sorted((data_folder() / "results").glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_says_where_it_comes_from_and_belongs_to_the_committed_model(path):
    found = json.loads(path.read_text())["provenance"]
    name, _, task = path.stem.rpartition("-")
    assert found["model"] == hashlib.sha256((data_folder() / "models" / task / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert found["command"].startswith(f"python -m attattr reproduce {name} --task {task} --data FOLDER")
    assert {"sha256", "rows", "seed"} <= set(found["data"])  # of which rows, all or how many, drawn how
    assert found["seconds"] > 0
    assert set(found["versions"]) >= {"python", "torch", "transformers"}


@pytest.mark.parametrize("name", [*(f"fig3-{task}" for task in TASKS), "fig4-mnli", "fig4-sst2", "edges-mnli", "edges-sst2"])
def test_the_evidence_is_measured_on_two_hundred_rows(name):
    assert attattr.result(name)["texts"] == 200


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_committed_accuracy_belongs_to_the_committed_model_and_examples(task):
    found = attattr.result(f"accuracy-{task}")
    weights = (data_folder() / "models" / task / "adapter_model.safetensors").read_bytes()
    assert found["provenance"]["model"] == hashlib.sha256(weights).hexdigest()
    assert found["provenance"]["data"]["rows"] is None  # all of them
    assert found["dev"]["rows"] == {"mnli": 9815, "rte": 277, "sst2": 872, "mrpc": 408, "agreement": 1000}[task]
    assert found["own"]["rows"] == len(attattr.examples(task))
    for part in ("dev", "own"):
        assert set(found[part]["per_class"]) == set(found[part]["f1"]) == set(ALL_TASKS[task].labels)


def test_accuracy_is_computed_from_the_rows_of_a_folder(tmp_path):
    (tmp_path / "SST-2").mkdir()
    lines = ["a warm and moving film .\tpositive", "a dull , empty mess .\tnegative", "a warm and moving film .\tnegative"]
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    path = reproduce("accuracy", Run(task="sst2", data=tmp_path, rows=None, seed=0, output=tmp_path / "results"))
    found = json.loads(path.read_text())
    assert found["dev"] == {
        "rows": 3,
        "accuracy": 0.6667,
        "per_class": {"negative": 0.5, "positive": 1.0},
        "f1": {"negative": 0.6667, "positive": 0.6667},
    }
    assert found["own"] == attattr.result("accuracy-sst2")["own"]
    assert found["provenance"]["command"] == "python -m attattr reproduce accuracy --task sst2 --data FOLDER --seed 0"


@pytest.mark.parametrize("rows", [0, -1, 3])
def test_more_rows_than_there_are_or_none_are_refused(tmp_path, rows):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\na warm film .\tpositive\na dull mess .\tnegative\n")
    with pytest.raises(ValueError, match=f"rows={rows}: expected 1 to 2"):
        reproduce("accuracy", Run(task="sst2", data=tmp_path, rows=rows, seed=0, output=tmp_path / "results"))


def test_the_paper_table_is_complete_and_its_own_averages_are_checked():
    """Two of the printed averages do not follow from the printed rows; the others do, so the rows are copied right."""
    table = paper("table2")
    wrong = {}
    for task in TASKS:
        assert set(table[task]["baseline"]) == set(TASKS[task].labels)
        for label, baseline in table[task]["baseline"].items():
            change = sum(table[task][f"trigger{i}"][label] for i in (1, 2, 3)) / 3 - baseline
            if abs(change - table[task]["average_change"][label]) > 0.0051:
                wrong[task, label] = round(change, 2)
    assert wrong == {("mnli", "entailment"): -81.0, ("rte", "not_entailment"): -4.1}


def small_copy(folder):
    """A folder of real data with three sentences of ours in each split."""
    (folder / "SST-2").mkdir()
    lines = ["a warm and moving film .\tpositive", "a dull , empty mess .\tnegative", "never boring and very funny .\tpositive"]
    for split in ("dev", "train"):
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    return folder


def test_heads_are_removed_along_every_curve_from_none_to_all(tmp_path):
    run = Run(task="sst2", data=small_copy(tmp_path), rows=3, seed=0, output=tmp_path / "results")
    curves = json.loads(reproduce("fig3", run).read_text())["curves"]
    kinds = {(c["scope"], c["by"], c["first"]) for c in curves}
    assert len(kinds) == 4 + 4 + 5  # by attribution and attention in two directions for each text and for the set; random orders
    assert len(curves) == 13 * len(kinds)
    assert {c["right"] for c in curves if c["removed"] == 0} == {3}
    # A few points of every kind, computed once more from attributions of our own.
    model, tokenizer = attattr.load("sst2")
    rows = attattr.examples("sst2", source=tmp_path, split="validation")
    shown, labels = list(rows["sentence"]), list(rows["label"])
    atts = [attattr.attribute(model, tokenizer, text, target=label, tolerance=5e-2) for text, label in zip(shown, labels, strict=True)]
    values = {
        "attribution": torch.stack([a.scores.amax((2, 3)) for a in atts]),
        "attention": torch.stack([a.attention.amax((2, 3)) for a in atts]),
    }
    for by, of_texts in values.items():
        for scope in ("example", "set"):
            order = of_texts if scope == "example" else of_texts.mean(0, keepdim=True).expand(3, -1, -1)
            for first in ("largest", "smallest"):
                rank = order.argsort(dim=-1, descending=first == "largest", stable=True).argsort(dim=-1)
                for removed in (3, 9):
                    right = 0
                    for b, (text, label) in enumerate(zip(shown, labels, strict=True)):
                        with torch.no_grad(), attattr.prune_heads(model, rank[b] >= removed):
                            right += int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == label
                    wanted = {"scope": scope, "by": by, "first": first, "removed": removed}
                    assert [c["right"] for c in curves if wanted.items() <= c.items()] == [right]


def test_edges_and_distances_of_a_few_texts_agree_with_the_package(tmp_path):
    run = Run(task="sst2", data=small_copy(tmp_path), rows=3, seed=0, output=tmp_path / "results")
    found = json.loads(reproduce("fig4", run).read_text())
    model, tokenizer = attattr.load("sst2")
    texts = [row["sentence"] for row in attattr.examples("sst2", source=tmp_path, split="validation")]
    atts = attattr.attribute(model, tokenizer, texts, tolerance=5e-2)
    mean = attattr.receptive_field(atts).mean
    assert [layer["mean"] for layer in found["layers"]["attribution"]] == pytest.approx(mean.nan_to_num().tolist(), abs=1e-3)
    edges = json.loads(reproduce("edges", run).read_text())
    full = [float(att.probabilities[att.target]) for att in atts]
    graphs = [graph_edges(attattr.attribution_graph(att, 0.4), *att.scores.shape[::2]) for att in atts]
    for part in ("kept", "deleted"):
        masks = [graph if part == "kept" else ~graph for graph in graphs]
        found_now = [float(probability_with(model, tokenizer, a.text, a.target, m[None])) for a, m in zip(atts, masks, strict=True)]
        assert edges[part]["attribution"][edges["taus"].index(0.4)][0] == pytest.approx(sum(found_now) / 3, abs=1e-4)
    assert edges["full"][0] == pytest.approx(sum(full) / 3, abs=1e-4)
    assert edges["edges"] == sorted(edges["edges"])  # a lower threshold never keeps fewer
    assert all(drawn <= admitted for drawn, admitted in zip(edges["edges"], edges["admitted"], strict=True))
    kinds = ("attribution", "admitted", "attention", "random", "anywhere")
    for part in ("kept", "deleted"):
        assert {name: len(values) for name, values in edges[part].items()} == dict.fromkeys(kinds, 6)
    assert not list((tmp_path / "results").glob(".*"))


def test_a_finished_run_leaves_nothing_behind_and_other_data_do_not_go_on_where_it_was_killed(tmp_path, monkeypatch):
    """fig5 with everything slow replaced: what is kept of a killed run is found again only by the same run."""
    small_copy(tmp_path)
    asked = []

    def importance(model, tokenizer, rows, method="attribution", **options):
        asked.append(method)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return torch.rand(6, 12), torch.rand(2, 6, 12)

    from attattr.reproduce import heads

    monkeypatch.setattr(heads, "head_importance", importance)
    monkeypatch.setattr(heads, "samples", lambda run: [[0, 1]] * heads.SAMPLES)
    monkeypatch.setattr(heads, "remove_heads", lambda model, keep: model)
    monkeypatch.setattr(heads, "right_without", lambda *_: torch.tensor([True, False, True]))
    run = Run(task="sst2", data=tmp_path, rows=3, seed=0, output=tmp_path / "results")
    with pytest.raises(KeyboardInterrupt):
        reproduce("fig5", run)
    assert len(list((tmp_path / "results").glob(".fig5*"))) == 1
    found = json.loads(reproduce("fig5", run).read_text())
    jobs = sum(heads.TIMES.values())
    assert len(asked) == jobs + 1  # the fourth was asked twice
    assert [line["method"] for line in found["samples"]] == [method for method, times in heads.TIMES.items() for _ in range(times)]
    assert len(found["curves"]) == (jobs + heads.RANDOM_ORDERS) * len(heads.RATES)
    assert {point["pruned"] for point in found["curves"]} == {0, 7, 14, 21, 28, 36, 43, 50, 57, 64, 72}
    assert not list((tmp_path / "results").glob(".*"))
    assert "train_sha256" in found["provenance"]["data"]  # importance comes from there
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        reproduce("fig5", run)
    (tmp_path / "SST-2" / "train.tsv").write_text("sentence\tlabel\nanother film .\tpositive\n")
    reproduce("fig5", run)
    assert len(asked) == 4 + jobs  # nothing of the run on other rows was taken over


def test_fig6_wants_another_adapter_of_the_same_task(tmp_path):
    small_copy(tmp_path)
    options = {"task": "sst2", "data": tmp_path, "rows": None, "seed": 0, "output": tmp_path / "results"}
    with pytest.raises(ValueError, match="pass --other FOLDER"):
        reproduce("fig6", Run(**options))
    with pytest.raises(ValueError, match="is for 'mrpc': expected one for 'sst2'"):
        reproduce("fig6", Run(**options, other=[data_folder() / "models" / "mrpc"]))
    with pytest.raises(ValueError, match="is the embedded one: expected one that was trained from another seed"):
        reproduce("fig6", Run(**options, other=[data_folder() / "models" / "sst2"]))


def test_fig6_measures_every_other_model_on_the_same_samples(tmp_path, monkeypatch):
    from attattr.reproduce import heads

    small_copy(tmp_path)
    folders = []
    for number in (1, 2):
        folder = tmp_path / f"other{number}"
        folder.mkdir()
        (folder / "training.json").write_text(
            json.dumps({"task": "sst2", "sha256": str(number), "seed": number, "command": "", "accuracy": {}})
        )
        folders.append(folder)
    monkeypatch.setattr(heads, "load", lambda folder: (folder.name[-1], None))
    monkeypatch.setattr(heads, "samples", lambda run: [10, 20, 30, 40, 50])
    monkeypatch.setattr(heads, "head_importance", lambda model, _, rows, progress: torch.full((6, 12), float(model) + rows))
    run = Run(task="sst2", data=tmp_path, rows=None, seed=0, output=tmp_path / "results", other=folders)
    found = json.loads(reproduce("fig6", run).read_text())
    assert [other["seed"] for other in found["others"]] == [1, 2]
    for number, other in enumerate(found["others"], 1):
        assert [line["importance"][5][11] for line in other["samples"]] == [number + rows for rows in (10, 20, 30, 40, 50)]
    assert "--other FOLDER FOLDER" in found["provenance"]["command"]
