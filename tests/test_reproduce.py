"""Dataset-scale runs: killed ones go on where they stopped, and the committed results say where they come from."""

import hashlib
import json
import subprocess

import pytest
import torch
from conftest import ROOT
from datasets import Dataset

import attattr
from attattr.batches import predict
from attattr.book.files import alone
from attattr.book.reproduce import RESULTS, Experiment, Run, reproduce
from attattr.book.reproduce.models import REFERENCE_STEPS, TOLERANCES, relative_errors
from attattr.book.reproduce.running import finished, partial_file, resumable
from attattr.book.results import name_of, read_result, result
from attattr.data import ALL_TASKS, TASKS, data_folder
from attattr.graph import graph_connections, retained


def test_a_killed_run_goes_on_and_does_nothing_twice(tmp_path):
    asked = []

    def measure(item):
        asked.append(item)
        if asked == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return {"item": item}

    run = Run(task="sst2", data=tmp_path, rows=6, seed=0, output=tmp_path / "results", name="test")
    jobs = [(i,) for i in range(6)]
    with pytest.raises(KeyboardInterrupt):
        resumable(run, "rows", jobs, measure)
    (path,) = run.output.glob(partial_file(run, "rows", "*").name)
    with path.open("a") as file:
        file.write('{"item": 3, "more": {"x": 1}')  # the half line that a kill can leave
    assert resumable(run, "rows", jobs, measure) == [{"item": i} for i in range(6)]
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    assert resumable(run, "rows", jobs, measure) == [{"item": i} for i in range(6)]
    assert asked == [0, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("line", ["[3, 0]", "3", '["0", 0]', "[0]", "[0, ", "\x00"])
def test_a_damaged_partial_file_is_refused(tmp_path, line):
    run = Run(task="sst2", data=tmp_path, output=tmp_path / "results", name="test")
    jobs = [(i,) for i in range(3)]
    resumable(run, "rows", jobs, lambda item: item)
    partial_file(run, "rows", "b").write_text(f"[1, 1]\n{line}\n")
    with pytest.raises(OSError, match=r"damaged file .*test-sst2--rows-b.jsonl of an unfinished run: remove it to start again"):
        resumable(run, "rows", jobs, lambda item: item)


def test_what_is_kept_twice_counts_once_and_what_was_lost_is_asked_for_again(tmp_path):
    """The files of processes of other starts, one of which went on although the start was over."""
    run = Run(task="sst2", data=tmp_path, output=tmp_path / "results", name="test")
    jobs = [(i,) for i in range(5)]
    run.output.mkdir()
    for writer, numbers in {"a": (0, 3), "b": (3, 1)}.items():
        partial_file(run, "rows", writer).write_text("".join(f"[{number}, {number}]\n" for number in numbers))
    asked = []
    assert resumable(run, "rows", jobs, lambda item: asked.append(item) or item) == list(range(5))
    assert asked == [2, 4]


def test_a_disk_that_is_full_again_loses_no_finished_row(tmp_path, file_size_limit):
    run = Run(task="sst2", data=tmp_path, output=tmp_path / "results", name="test")
    jobs = [(i,) for i in range(400)]
    for start in (1, 2):
        with file_size_limit(2000), pytest.raises(OSError, match=r"cannot keep what is finished in .*rows-.*File too large.*start again"):
            resumable(run, "rows", jobs, lambda item: "x" * 40)
        kept = finished(run, "rows", 400)
        assert sorted(kept) == list(range(len(kept)))
        assert len(kept) > 30 * start
    asked = []
    found = resumable(run, "rows", jobs, lambda item: asked.append(item) or "x" * 40)
    assert found == ["x" * 40] * 400
    assert asked == list(range(len(kept), 400))


@pytest.mark.parametrize(("task", "texts"), [("sst2", 872), ("mnli", 1000)])
def test_the_committed_certificate_holds_and_belongs_to_the_committed_model(task, texts):
    found = result(f"certificate-{task}")
    assert found.attrs["texts"] == texts
    for rule, tolerance in TOLERANCES.items():
        own = found[found.rule == rule]
        assert own.text.nunique() == texts and (own.error <= own.reported).mean() >= 0.97
        assert (own.error <= tolerance).mean() >= 0.99
    auto = found[found.rule == "auto"]
    assert auto.evaluations.mean() <= 5
    assert (auto.error >= 2e-2).sum() <= 1 and auto.error.max() < 2.5e-2  # one of MNLI's 6,000 layers is at 2.3e-2; none was aimed at


def test_the_reference_of_the_certificate_is_exact_enough():
    sst2 = attattr.load("sst2")
    texts = sorted(attattr.examples("sst2")["sentence"], key=len)[30:200:24]
    one, other = (attattr.attribute(*sst2, texts, steps=steps) for steps in (REFERENCE_STEPS["small"], 48))
    assert max(error for a, b in zip(one, other, strict=True) for error in relative_errors(a.scores, b.scores)) < 1e-5


@pytest.mark.parametrize("path", sorted((data_folder() / "results").rglob("[!p]*-*.json")), ids=name_of)
def test_every_committed_result_says_where_it_comes_from_and_belongs_to_the_committed_model(path):
    found = json.loads(path.read_text())["provenance"]
    name, _, task = path.stem.rpartition("-")
    place, size = (f"base/{task}", " --size base") if path.parent.name == "base" else (task, "")
    assert found["model"] == hashlib.sha256((data_folder() / "models" / place / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert found["command"].startswith(f"python -m attattr reproduce {name} --task {task} --data FOLDER{size}")
    assert {"sha256", "rows", "seed"} <= set(found["data"])  # of which rows, all or how many, drawn how
    assert found["seconds"] > 0
    assert set(found["versions"]) >= {"python", "torch", "transformers"}


@pytest.mark.parametrize("name", [*(f"fig3-{task}" for task in TASKS), "fig4-mnli", "fig4-sst2", "edges-mnli", "edges-sst2"])
def test_the_evidence_is_measured_on_two_hundred_rows(name):
    found = result(name)
    every = found[found.scope != "right"].texts if "scope" in found else [found.attrs["texts"]]
    assert set(every) == {200}


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_committed_accuracy_belongs_to_the_committed_model_and_examples(task):
    found = result(f"accuracy-{task}")
    assert found.attrs["data"]["rows"] is None  # all of them
    rows = {"dev": {"mnli": 9815, "rte": 277, "sst2": 872, "mrpc": 408, "agreement": 1000}[task], "own": len(attattr.examples(task))}
    assert found.groupby("split").rows.unique().map(list).to_dict() == {split: [count] for split, count in rows.items()}
    for (_, measure), own in found.groupby(["split", "measure"]):
        assert set(own["class"]) == {*ALL_TASKS[task].labels, *(["all"] if measure == "accuracy" else [])}


@pytest.mark.parametrize("task", ["rte", "sst2", "mrpc"])  # of MNLI the curves take a thousand rows
def test_a_model_has_one_accuracy_wherever_it_is_told(task):
    found, curves = result(f"accuracy-{task}"), result(f"fig5-{task}", "accuracy")
    (dev,) = found[(found.split == "dev") & (found["class"] == "all")].value
    assert set(curves[curves.pruned == 0].value.round(4)) == {dev}


def test_accuracy_is_computed_from_the_rows_of_a_folder(tmp_path):
    (tmp_path / "SST-2").mkdir()
    lines = ["a warm and moving film .\tpositive", "a dull , empty mess .\tnegative", "a warm and moving film .\tnegative"]
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    path = reproduce("accuracy", Run(task="sst2", data=tmp_path, rows=None, seed=0, output=tmp_path / "results"))
    found = read_result(path)
    dev = found[found.split == "dev"].set_index(["measure", "class"])
    assert set(dev.rows) == {3}
    assert dev.value.to_dict() == {
        ("accuracy", "all"): 0.6667,
        ("accuracy", "negative"): 0.5,
        ("accuracy", "positive"): 1.0,
        ("f1", "negative"): 0.6667,
        ("f1", "positive"): 0.6667,
    }
    committed = result("accuracy-sst2")
    assert found[found.split == "own"].value.tolist() == committed[committed.split == "own"].value.tolist()
    assert found.attrs["command"] == "python -m attattr reproduce accuracy --task sst2 --data FOLDER --seed 0"
    assert found.attrs["versions"]["attattr"] == attattr.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert found.attrs["versions"]["commit"].removesuffix("-dirty") == head


def test_completeness_is_measured_beside_the_error_that_it_should_tell(tmp_path):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\nfunny .\tpositive\n")
    found = read_result(reproduce("completeness", Run(task="sst2", data=tmp_path, rows=None, seed=0, output=tmp_path / "results")))
    rules = ["riemann 20", *(f"gauss-legendre {steps}" for steps in (1, 2, 3, 4, 6))]
    assert sorted(found.rule) == sorted(rules * 6) and found.groupby("rule").layer.apply(list).map(sorted).tolist() == [[*range(6)]] * 6
    att = attattr.attribute(*attattr.load("sst2"), "funny .", method="riemann", steps=20)
    own = found[found.rule == "riemann 20"]
    assert own.gap.tolist() == pytest.approx(att.completeness.tolist(), rel=0.01, abs=1e-6)
    assert own.difference.tolist() == pytest.approx(att.difference.tolist(), rel=0.01)
    assert own.error.median() > 10 * found[found.rule == "gauss-legendre 6"].error.median()


def test_another_model_of_the_task_has_its_own_numbers_whatever_the_order_of_its_classes(tmp_path):
    model, tokenizer = attattr.load("sst2")
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    model.config.id2label = {0: "positive", 1: "negative"}
    model.save_pretrained(tmp_path / "turned")
    tokenizer.save_pretrained(tmp_path / "turned")
    small_copy(tmp_path)
    tables = {}
    for name, source in {"own": None, "turned": str(tmp_path / "turned")}.items():
        for kind in ("accuracy", "fig3"):
            run = Run(task="sst2", data=tmp_path, rows=3, output=tmp_path / name, model=source)
            tables[name, kind] = read_result(reproduce(kind, run))
    by = ["split", "measure", "class"]
    own, turned = (tables[name, "accuracy"].sort_values(by).reset_index(drop=True) for name in ("own", "turned"))
    assert own.equals(turned)
    assert turned.attrs["model"] != own.attrs["model"]
    assert f"--model {tmp_path / 'turned'}" in turned.attrs["command"]
    curves = [tables[name, "fig3"] for name in ("own", "turned")]
    assert curves[0][curves[0].by != "random"].right.tolist() == curves[1][curves[1].by != "random"].right.tolist()


def test_a_model_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected those of the model, \['entailment', 'neutral', 'contradiction'\]"):
        reproduce("accuracy", Run(task="sst2", data=small_copy(tmp_path), model="mnli", output=tmp_path / "results"))


def test_the_same_result_is_computed_by_one_process_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "results" / "accuracy-sst2.json"
    monkeypatch.setitem(RESULTS, "accuracy", Experiment(lambda *_: pytest.fail("it was computed")))
    with alone(path), pytest.raises(OSError, match=r"another process is at work on .*accuracy-sst2.json"):
        reproduce("accuracy", Run(task="sst2", data=small_copy(tmp_path), output=tmp_path / "results"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/accuracy-sst2.json"):
        reproduce("accuracy", Run(task="sst2", data=tmp_path, output=tmp_path / "file"))


@pytest.mark.parametrize("rows", [0, -1, 3])
def test_more_rows_than_there_are_or_none_are_refused(tmp_path, rows):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\na warm film .\tpositive\na dull mess .\tnegative\n")
    with pytest.raises(ValueError, match=f"rows={rows}: expected 1 to 2"):
        reproduce("accuracy", Run(task="sst2", data=tmp_path, rows=rows, seed=0, output=tmp_path / "results"))


def test_the_paper_table_is_complete_and_its_own_averages_are_checked():
    """Two of the printed averages do not follow from the printed rows; the others do, so the rows are copied right."""
    table = result("paper-table2").pivot(index=["task", "class"], columns="trigger", values="percent")
    wrong = {}
    assert set(table.index) == {(task.name, label) for task in TASKS.values() for label in task.labels}
    for which, row in table.iterrows():
        change = sum(row[f"trigger {number}"] for number in (1, 2, 3)) / 3 - row["no trigger"]
        if abs(change - row["average change"]) > 0.0051:
            wrong[which] = round(change, 2)
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
    found = read_result(reproduce("fig3", run))
    kinds = found.groupby(["scope", "by", "draw", "first"])
    # By attribution and attention in two directions for each text and for the set; two more by attribution alone; random orders.
    assert len(kinds) == 4 + 4 + 2 + 2 + 5
    assert all(list(own.removed) == list(range(13)) for _, own in kinds)
    assert set(found[found.removed == 0].right) == {3}
    by_text = {
        scope: found[(found.scope == scope) & (found.by == "attribution")].right.tolist() for scope in ("example", "right", "predicted")
    }
    assert by_text["right"] == by_text["predicted"] == by_text["example"]  # the model gets all three right
    points = found.set_index(["scope", "by", "draw", "first", "removed"])
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
                    assert points.right[scope, by, 0, first, removed] == right


def test_an_order_by_the_predicted_class_knows_no_label_and_texts_first_wrong_are_judged_apart(tmp_path):
    folder = small_copy(tmp_path) / "SST-2"
    lines = ["a warm and moving film .\tpositive", "a dull , empty mess .\tpositive", "never boring and very funny .\tpositive"]
    (folder / "dev.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")  # the second label is wrong
    found = read_result(reproduce("fig3", Run(task="sst2", data=tmp_path, rows=3, output=tmp_path / "results")))
    points = found[(found.by == "attribution") & (found["first"] == "smallest")].set_index(["scope", "removed"])
    assert points.texts["right"].tolist() == [2] * 13 and set(points.texts["example"]) == set(points.texts["predicted"]) == {3}
    assert points.right["example", 0] == points.right["predicted", 0] == points.right["right", 0] == 2
    model, tokenizer = attattr.load("sst2")
    shown = attattr.examples("sst2", source=tmp_path, split="validation")["sentence"]
    atts = [attattr.attribute(model, tokenizer, text, tolerance=5e-2) for text in shown]
    kept = torch.stack([att.scores.amax((2, 3)).argsort(dim=-1, stable=True).argsort(dim=-1) >= 10 for att in atts])  # two in each layer
    answers = predict(model, tokenizer, list(shown), kept).argmax(-1).tolist()
    assert points.right["predicted", 10] == answers.count(1)
    assert points.right["right", 10] == answers[0] + answers[2]
    assert points.accuracy["right", 10] == points.right["right", 10] / 2


def test_edges_and_distances_of_a_few_texts_agree_with_the_package(tmp_path):
    run = Run(task="sst2", data=small_copy(tmp_path), rows=3, seed=0, output=tmp_path / "results")
    found = read_result(reproduce("fig4", run), "mean distance")
    model, tokenizer = attattr.load("sst2")
    texts = [row["sentence"] for row in attattr.examples("sst2", source=tmp_path, split="validation")]
    atts = attattr.attribute(model, tokenizer, texts, tolerance=5e-2)
    mean = attattr.receptive_field(atts).mean
    own = found[found.graph == "attribution"]
    assert own.value.tolist() == pytest.approx(mean.nan_to_num().tolist(), abs=1e-3)
    assert ((own.low <= own.value) & (own.value <= own.high)).all()
    edges = read_result(reproduce("edges", run))
    whole = edges[edges.left == "all"].iloc[0]
    assert whole.probability == pytest.approx(sum(float(att.probabilities[att.target]) for att in atts) / 3, abs=1e-4)
    graphs = [graph_connections(attattr.attribution_graph(att, 0.4), *att.scores.shape[::2]) for att in atts]
    points = edges.set_index(["left", "graph", "tau"]).sort_index()
    for left in ("only these", "all but these"):
        masks = [graph if left == "only these" else ~graph for graph in graphs]
        found_now = [float(predict(model, tokenizer, [a.text], m[None])[0, a.target]) for a, m in zip(atts, masks, strict=True)]
        assert points.probability[left, "attribution", 0.4] == pytest.approx(sum(found_now) / 3, abs=1e-4)
        for graph in ("attribution", "admitted", "attention", "random", "anywhere"):
            sizes = points.edges[left, graph][::-1]
            assert len(sizes) == 6
            assert sizes.is_monotonic_increasing  # a lower threshold never keeps fewer
            assert (points.edges[left, "admitted"] >= points.edges[left, graph]).all()
        for control, like in {"positive": "attribution", "positive, admitted": "admitted"}.items():
            assert (points.edges[left, control] == points.edges[left, like]).all()
        for rule, options in {"gradient": ("riemann", 1), "midpoint": ("gauss-legendre", 1), "20 steps": ("riemann", 20)}.items():
            cheaper = [attattr.attribute(model, tokenizer, text, method=options[0], steps=options[1]) for text in texts]
            drawn = [graph_connections(attattr.attribution_graph(att, 0.2), *att.scores.shape[::2]) for att in cheaper]
            for graph, masks in {rule: drawn, f"{rule}, admitted": [torch.from_numpy(retained(att, 0.2)) for att in cheaper]}.items():
                masks = masks if left == "only these" else [~mask for mask in masks]
                found_now = [float(predict(model, tokenizer, [a.text], m[None])[0, a.target]) for a, m in zip(atts, masks, strict=True)]
                assert points.probability[left, graph, 0.2] == pytest.approx(sum(found_now) / 3, abs=1e-4)
    assert not list((tmp_path / "results").glob(".*"))


def test_a_finished_run_leaves_nothing_behind_and_other_data_do_not_go_on_where_it_was_killed(tmp_path, monkeypatch):
    """fig5 with everything slow replaced: what is kept of a killed run is found again only by the same run."""
    small_copy(tmp_path)
    asked, judged = [], []

    def importance(model, tokenizer, rows, method="attribution", **options):
        asked.append(method)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return None, torch.rand(len(rows), 6, 12)

    from attattr.book.reproduce import heads

    def curve(model, tokenizer, rows, importance, rates):
        judged.append((*rates, *importance.flatten().tolist()))
        return attattr.pruning_curve(model, tokenizer, rows, importance, rates)

    monkeypatch.setattr(heads, "head_importance", importance)
    monkeypatch.setattr(heads, "pruning_curve", curve)
    monkeypatch.setattr(heads, "samples", lambda run: [Dataset.from_dict({"number": range(heads.CHUNK + 2)})] * heads.SAMPLES)
    run = Run(task="sst2", data=tmp_path, rows=3, seed=0, output=tmp_path / "results")
    with pytest.raises(KeyboardInterrupt):
        reproduce("fig5", run)
    assert len(list((tmp_path / "results").glob(".fig5*"))) == 1
    path = reproduce("fig5", run)
    orders = sum(heads.TIMES.values())
    jobs = 2 * orders  # a sample is two jobs, of which the second has two rows
    assert len(asked) == jobs + 1  # the fourth was asked twice
    importance, curves = (read_result(path, measure) for measure in ("importance", "accuracy"))
    times = heads.TIMES | {"taylor-normalized": heads.SAMPLES}
    assert importance.groupby("method")["sample"].nunique().to_dict() == times
    orders += heads.SAMPLES
    assert len(importance) == 72 * orders
    of_layers = importance[importance.method == "taylor-normalized"].groupby(["sample", "layer"]).value
    assert of_layers.apply(lambda values: (values**2).sum()).tolist() == pytest.approx([1.0] * 30, abs=1e-3)
    assert len(judged) == len(set(judged)) < (orders + heads.RANDOM_ORDERS) * len(heads.RATES)  # no choice of heads twice
    assert set(importance.rows) == {heads.CHUNK + 2}
    assert len(curves) == (orders + heads.RANDOM_ORDERS) * len(heads.RATES)
    assert set(curves.pruned) == {0, 7, 14, 21, 28, 36, 43, 50, 57, 64, 72}
    assert (curves.right / 3).tolist() == pytest.approx(curves.value.tolist(), abs=1e-6)
    assert set(curves[curves.pruned == 0].right) == {3}
    assert not list((tmp_path / "results").glob(".*"))
    assert "train_sha256" in curves.attrs["data"]  # importance comes from there
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        reproduce("fig5", run)
    (tmp_path / "SST-2" / "train.tsv").write_text("sentence\tlabel\nanother film .\tpositive\n")
    reproduce("fig5", run)
    assert len(asked) == 4 + jobs  # nothing of the run on other rows was taken over


def test_the_large_model_is_asked_for_less(tmp_path, monkeypatch):
    """Fewer samples of fewer rows, the paper's methods alone, fewer texts to mine triggers in: and the table says so."""
    from attattr.book.reproduce import heads, triggers

    lines = [f"a film of the year {number} .\t{('positive', 'negative')[number % 2]}" for number in range(2000)]
    small_copy(tmp_path)
    (tmp_path / "SST-2" / "train.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    rows = {size: Run(task="sst2", data=tmp_path, size=size, rows=1, output=tmp_path / size) for size in ("small", "base")}
    assert {size: len(heads.samples(run)[0]) for size, run in rows.items()} == {"small": 200, "base": 100}
    pools = {size: tuple(map(len, triggers.pool_and_selection(run))) for size, run in rows.items()}
    assert pools == {"small": (1700, 300), "base": (750, 150)}
    monkeypatch.setattr(heads, "head_importance", lambda model, tokenizer, rows, **options: (None, torch.rand(len(rows), 6, 12)))
    found, _ = heads.fig5(rows["base"], *attattr.load("sst2"))
    samples = {(row["method"], row["sample"], row["rows"]) for row in found if row["measure"] == "importance"}
    assert samples == {(method, n, 100) for method in ("attribution", "taylor", "taylor-normalized") for n in (0, 1)} | {
        ("accuracy", 0, 100)
    }


def test_fig6_wants_another_adapter_of_the_same_task(tmp_path):
    small_copy(tmp_path)
    options = {"task": "sst2", "data": tmp_path, "rows": None, "seed": 0, "output": tmp_path / "results"}
    with pytest.raises(ValueError, match="pass --other FOLDER"):
        reproduce("fig6", Run(**options))
    with pytest.raises(ValueError, match="is for 'mrpc': expected one for 'sst2'"):
        reproduce("fig6", Run(**options, other=[data_folder() / "models" / "mrpc"]))
    with pytest.raises(ValueError, match="is the one compared with: expected one that was trained from another seed"):
        reproduce("fig6", Run(**options, other=[data_folder() / "models" / "sst2"]))


def test_fig6_measures_every_other_model_on_the_same_samples(tmp_path, monkeypatch):
    from attattr.book.reproduce import heads

    small_copy(tmp_path)
    folders = []
    for number in (1, 2):
        folder = tmp_path / f"other{number}"
        folder.mkdir()
        (folder / "training.json").write_text(
            json.dumps({"task": "sst2", "sha256": str(number), "seed": number, "command": "", "accuracy": {}})
        )
        folders.append(folder)
    monkeypatch.setattr(heads, "load", lambda folder, device: (folder.name[-1], None))
    monkeypatch.setattr(heads, "samples", lambda run: [Dataset.from_dict({"number": [n, n]}) for n in (10, 20, 30, 40, 50)])

    def importance(model, tokenizer, rows, method, return_per_example):
        return None, torch.stack([torch.full((6, 12), float(model) + number) for number in rows["number"]])

    monkeypatch.setattr(heads, "head_importance", importance)
    run = Run(task="sst2", data=tmp_path, rows=None, seed=0, output=tmp_path / "results", other=folders)
    found = read_result(reproduce("fig6", run))
    assert found.groupby("model").seed.unique().map(list).tolist() == [[1], [2]]
    last = found[(found["layer"] == 5) & (found["head"] == 11)]
    for number, own in last.groupby("model"):
        assert own.importance.tolist() == [number + 1 + rows for rows in (10, 20)]
    assert [other["seed"] for other in found.attrs["others"]] == [1, 2]
    assert "--other FOLDER FOLDER" in found.attrs["command"]
