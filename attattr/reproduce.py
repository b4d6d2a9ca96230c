"""Dataset-scale results: ``python -m attattr reproduce NAME``. One JSON file each under ``data/results/``, with provenance.

A run that is killed goes on where it stopped: finished examples are kept in a file beside the result, one JSON line each.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .attribution import attribute
from .data import data_folder, digest, examples, find_task, read_split, texts
from .effectiveness import keep_but, largest_attention, largest_attribution, right_without
from .encoding import Text
from .evaluation import evaluate
from .model_folder import versions
from .pretrained import load

REFERENCE_STEPS = 96
RANDOM_ORDERS = 5
RULES = (("riemann", 20), *(("gauss-legendre", steps) for steps in (3, 4, 6, 8)))


@dataclass(frozen=True)
class Run:
    """What a dataset-scale computation is run on."""

    task: str
    data: str | Path  # where real rows are, as `attattr.examples` takes it
    rows: int | None  # drawn from the validation split; None: as many as the result usually takes, or all
    seed: int
    output: Path  # folder of the result


def certificate(run: Run) -> dict[str, Any]:
    """How exact ``steps="auto"`` is, and how exact it says it is, against 96 Gauss-Legendre nodes (chapter 3)."""
    model, tokenizer = load(run.task)
    everything = texts(examples(run.task, source=run.data))
    chosen = random.Random(run.seed).sample(everything, run.rows or len(everything))

    def measure(text: Text) -> dict[str, Any]:
        reference = attribute(model, tokenizer, text, steps=REFERENCE_STEPS).scores
        found = attribute(model, tokenizer, text)
        fixed = {f"{method} {steps}": attribute(model, tokenizer, text, method=method, steps=steps) for method, steps in RULES}
        return {
            "tokens": len(found.tokens),
            "error": relative_errors(found.scores, reference),
            "reported": [float(f"{x:.3g}") for x in found.error.tolist()],
            "evaluations": found.evaluations.tolist(),
            "certified": found.certified,
            "fixed": {name: relative_errors(other.scores, reference) for name, other in fixed.items()},
        }

    rows = resumable(partial_file("certificate", run), f"certificate {run.task}", chosen, measure)
    return {"summary": certificate_summary(rows), "rows": rows}


def accuracy(run: Run) -> dict[str, Any]:
    """How often the embedded model of a task is right: on the real validation split, and on our own examples (page "Models and data")."""
    model, tokenizer = load(run.task)
    task = find_task(run.task)
    rows = read_split(task, run.data)
    chosen = random.Random(run.seed).sample(rows, run.rows) if run.rows else rows
    return {"dev": evaluate(model, tokenizer, chosen, task), "own": evaluate(model, tokenizer, read_split(task), task)}


def fig3(run: Run) -> dict[str, Any]:
    """Accuracy as heads are removed from every layer, by attribution, by attention and at random (chapter 5, the paper's Fig. 3).

    Two orders of the heads: for each example its own, by its gold label, as the paper's numbers suggest (it leaks the
    label), and one for the set, by the mean over rows of the training split.
    """
    model, tokenizer = load(run.task)
    generator = random.Random(run.seed)
    reported = {}
    for split in ("validation", "train"):
        rows = examples(run.task, source=run.data, split=split)
        reported[split] = rows.select(generator.sample(range(len(rows)), min(run.rows or len(rows), len(rows))))
    items = [pair for rows in reported.values() for pair in zip(texts(rows), rows["label"], strict=True)]

    def value(item: tuple[Text, int]) -> dict[str, Any]:
        att = attribute(model, tokenizer, item[0], target=item[1])
        found = {"attribution": largest_attribution(att), "attention": largest_attention(att)}
        return {name: [[float(f"{x:.4g}") for x in layer] for layer in values.tolist()] for name, values in found.items()}

    lines = resumable(partial_file("fig3", run, "values"), f"fig3 {run.task}: heads", items, value)
    count = len(reported["validation"])
    shown, labels = [item[0] for item in items[:count]], [item[1] for item in items[:count]]
    values: dict[tuple[str, str], torch.Tensor] = {}
    for name in ("attribution", "attention"):
        every = torch.tensor([line[name] for line in lines])
        values["example", name], values["set", name] = every[:count], every[count:].mean(0)
    for seed in range(RANDOM_ORDERS):
        values["set", f"random {seed}"] = torch.rand(values["set", "attention"].shape, generator=torch.Generator().manual_seed(seed))
    heads = values["set", "attention"].shape[-1]
    jobs = [
        (scope, name, order, removed)
        for scope, name in values
        for order in (("largest",) if name.startswith("random") else ("largest", "smallest"))
        for removed in range(heads + 1)
    ]

    def remove(job: tuple[str, str, str, int]) -> dict[str, Any]:
        scope, name, order, removed = job
        keep = keep_but(values[scope, name], removed, largest=order == "largest")
        right = int(right_without(model, tokenizer, shown, labels, keep).sum())
        return {"scope": scope, "by": name, "first": order, "removed": removed, "right": right}

    return {"texts": count, "curves": resumable(partial_file("fig3", run, "curves"), f"fig3 {run.task}: curves", jobs, remove)}


def relative_errors(scores: Any, reference: Any) -> list[float]:
    """For each layer, the distance to the reference relative to its size (Frobenius norms)."""
    ratios = (scores - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    return [float(f"{ratio:.3g}") for ratio in ratios.tolist()]


def certificate_summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers that chapter 3 shows, over all layers of all texts."""
    errors = [x for line in lines for x in line["error"]]
    reported = [x for line in lines for x in line["reported"]]
    evaluations = [x for line in lines for x in line["evaluations"]]
    fixed = {name: [x for line in lines for x in line["fixed"][name]] for name in lines[0]["fixed"]}
    return {
        "texts": len(lines),
        "layers": len(errors),
        "within_reported": sum(e <= r for e, r in zip(errors, reported, strict=True)) / len(errors),
        "error_median": statistics.median(errors),
        "error_worst": max(errors),
        "evaluations_median": statistics.median(evaluations),
        "evaluations_mean": statistics.fmean(evaluations),
        "certified": sum(line["certified"] for line in lines) / len(lines),
        "fixed": {name: {"median": statistics.median(found), "worst": max(found)} for name, found in fixed.items()},
    }


def resumable(path: Path, name: str, items: Sequence[Any], measure: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """``measure`` of every item, with a progress bar; each is appended to ``path`` at once, and those already there are not redone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.is_file() else []
    path.write_text("".join(json.dumps(line) + "\n" for line in done))  # without the half line that a kill may have left
    with path.open("a") as file:
        for item in tqdm(items[len(done) :], desc=name, initial=len(done), total=len(items), mininterval=5):
            done.append(measure(item))
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    return done


def partial_file(name: str, run: Run, part: str = "rows") -> Path:
    """Where the finished rows of an unfinished run are kept."""
    return run.output / f".{name}-{run.task}-{run.rows}-{run.seed}-{part}.jsonl"


RESULTS: dict[str, Callable[[Run], dict[str, Any]]] = {"accuracy": accuracy, "certificate": certificate, "fig3": fig3}
USUAL_ROWS = {"certificate": 200, "fig3": 200}


def reproduce(name: str, run: Run) -> Path:
    """Compute one result for one task and write ``NAME-TASK.json`` with its provenance; returns where."""
    if name not in RESULTS:
        raise ValueError(f"unknown result {name!r}: expected one of {', '.join(map(repr, RESULTS))}")
    task = find_task(run.task)
    everything = read_split(task, run.data)
    run = replace(run, rows=run.rows if run.rows is not None else USUAL_ROWS.get(name))
    if run.rows is not None and not 1 <= run.rows <= len(everything):
        raise ValueError(f"rows={run.rows}: expected 1 to {len(everything)}, the rows of {task.name!r} in {run.data}")
    weights = data_folder() / "models" / task.name / "adapter_model.safetensors"
    chosen = f" --rows {run.rows}" if run.rows else ""
    began = time.perf_counter()
    found = RESULTS[name](run)
    provenance = {
        "command": f"python -m attattr reproduce {name} --task {task.name} --data FOLDER{chosen} --seed {run.seed}",
        "model": sha256(weights.read_bytes()).hexdigest(),
        "data": {"split": "validation", "sha256": digest(everything), "rows": run.rows, "seed": run.seed},
        "versions": versions(),
        "seconds": round(time.perf_counter() - began),
    }
    path = run.output / f"{name}-{task.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"provenance": provenance} | found) + "\n", encoding="utf-8")
    for part in run.output.glob(partial_file(name, run, "*").name):
        part.unlink()
    return path
