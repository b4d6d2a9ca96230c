"""Dataset-scale results: ``python -m attattr reproduce NAME``. One JSON file each under ``data/results/``, with provenance.

A run that is killed goes on where it stopped: finished examples are kept in a file beside the result, one JSON line each.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .attribution import attribute
from .data import SPLITS, data_folder, examples, find_task, texts
from .encoding import Text
from .finetune import versions
from .pretrained import load

REFERENCE_STEPS = 96
RULES = (("riemann", 20), *(("gauss-legendre", steps) for steps in (3, 4, 6, 8)))


@dataclass(frozen=True)
class Run:
    """What a dataset-scale computation is run on."""

    task: str
    data: Path  # a folder laid out like ../shared/glue
    rows: int  # drawn from the validation split
    seed: int
    output: Path  # folder of the result


def certificate(run: Run) -> dict[str, Any]:
    """How exact ``steps="auto"`` is, and how exact it says it is, against 96 Gauss-Legendre nodes (chapter 3)."""
    model, tokenizer = load(run.task)

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

    chosen = random.Random(run.seed).sample(texts(examples(run.task, source=run.data)), run.rows)
    rows = resumable(partial_file("certificate", run), f"certificate {run.task}", chosen, measure)
    return {"summary": certificate_summary(rows), "rows": rows}


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


def partial_file(name: str, run: Run) -> Path:
    """Where the finished rows of an unfinished run are kept."""
    return run.output / f".{name}-{run.task}-{run.rows}-{run.seed}.jsonl"


RESULTS: dict[str, Callable[[Run], dict[str, Any]]] = {"certificate": certificate}


def reproduce(name: str, run: Run) -> Path:
    """Compute one result for one task and write ``NAME-TASK.json`` with its provenance; returns where."""
    if name not in RESULTS:
        raise ValueError(f"unknown result {name!r}: expected one of {', '.join(map(repr, RESULTS))}")
    task = find_task(run.task)
    began = time.perf_counter()
    found = RESULTS[name](run)
    weights = data_folder() / "models" / task.name / "adapter_model.safetensors"
    rows = run.data / task.folder / SPLITS["validation"]
    provenance = {
        "command": f"python -m attattr reproduce {name} --task {task.name} --data FOLDER --rows {run.rows} --seed {run.seed}",
        "model": sha256(weights.read_bytes()).hexdigest(),
        "data": {"file": f"{task.folder}/{rows.name}", "sha256": sha256(rows.read_bytes()).hexdigest(), "rows": run.rows, "seed": run.seed},
        "versions": versions(),
        "seconds": round(time.perf_counter() - began),
    }
    path = run.output / f"{name}-{task.name}.json"
    path.write_text(json.dumps({"provenance": provenance} | found) + "\n", encoding="utf-8")
    partial_file(name, run).unlink(missing_ok=True)
    return path
