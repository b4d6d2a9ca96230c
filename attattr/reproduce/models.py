"""How good the models are, and how exact their attributions (chapter 3; page "Models and data")."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

from ..attribution import attribute
from ..data import examples, find_task, read_split, texts
from ..encoding import Text
from ..evaluation import evaluate
from ..pretrained import load
from .running import Run, partial_file, resumable

REFERENCE_STEPS = 96
RULES = (("riemann", 20), *(("gauss-legendre", steps) for steps in (3, 4, 6, 8)))


def accuracy(run: Run) -> dict[str, Any]:
    """How often the embedded model of a task is right: on the real validation split, and on our own examples (page "Models and data")."""
    model, tokenizer = load(run.task)
    task = find_task(run.task)
    rows = read_split(task, run.data)
    chosen = random.Random(run.seed).sample(rows, run.rows) if run.rows else rows
    return {"dev": evaluate(model, tokenizer, chosen, task), "own": evaluate(model, tokenizer, read_split(task), task)}


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
