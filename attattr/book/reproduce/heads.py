"""Which heads matter, which can go, and which are universal (chapters 7 and 8; the paper's Figs. 5 and 6)."""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...batches import Dataset, Model, Tokenizer
from ...data import examples
from ...heads import RATES, head_importance, pruning_curve, random_importance
from ...pretrained import load
from ..training.model_folder import training_record
from .running import Measured, Rows, Run, drawn, resumable, rounded, sample

SAMPLES = 5
SAMPLE_ROWS = 200
# How often each method's importance is measured, each time on other rows; what is slow or only for comparison, once.
TIMES = {"attribution": SAMPLES, "taylor": SAMPLES, "taylor-logits": 1, "accuracy": 1}
RANDOM_ORDERS = 5


def samples(run: Run) -> list[Dataset]:
    """Disjoint samples of the training split, on which importance is measured; never the rows that accuracy is measured on."""
    rows = examples(run.task, source=run.data, split="train")
    size = min(SAMPLE_ROWS, len(rows) // SAMPLES)
    chosen = sample(rows, SAMPLES * size, random.Random(run.seed))
    return [chosen.select(range(number * size, (number + 1) * size)) for number in range(SAMPLES)]


def grid_rows(common: dict[str, Any], **values: Float[Tensor, "L H"]) -> Rows:
    """A row for each head, with what every column has of it."""
    rows = []
    layers, heads = next(iter(values.values())).shape
    for layer, head in product(range(layers), range(heads)):
        of_head = {name: rounded(float(grid[layer, head])) for name, grid in values.items()}
        rows.append(common | {"layer": layer, "head": head} | of_head)
    return rows


def fig5(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """Accuracy on the validation split as the least important heads go, by several methods and at random (chapter 7, the paper's Fig. 5).

    Importance is measured on samples of the training split: means over the sample's rows, and their standard errors.
    """
    parts = samples(run)

    def measure(method: str, number: int) -> Rows:
        mean, per_example = head_importance(model, tokenizer, parts[number], method=method, return_per_example=True, progress=True)
        common = {"measure": "importance", "method": method, "sample": number, "rows": len(parts[number])}
        return grid_rows(common, value=mean, error=per_example.std(0) / len(parts[number]) ** 0.5)

    jobs = [(method, number) for method, times in TIMES.items() for number in range(times)]
    lines = resumable(run, "importance", jobs, measure)
    heads = lines[0][-1]["head"] + 1
    importances = {job: torch.tensor([row["value"] for row in line]).reshape(-1, heads) for job, line in zip(jobs, lines, strict=True)}
    for number in range(RANDOM_ORDERS):
        importances["random", number] = random_importance(importances["attribution", 0], number)
    rows = drawn(run)

    def prune(method: str, number: int) -> Rows:
        found = pruning_curve(model, tokenizer, rows, importances[method, number], RATES, progress=True)
        right = (found.accuracy * len(rows)).round().int().tolist()
        common = {"measure": "accuracy", "method": method, "sample": number, "rows": len(rows)}
        points = zip(found.rates, found.pruned, right, found.accuracy.tolist(), strict=True)
        return [common | {"rate": rate, "pruned": pruned, "right": hits, "value": share} for rate, pruned, hits, share in points]

    curves = resumable(run, "curves", list(importances), prune)
    return [row for line in (*lines, *curves) for row in line], {}


def fig6(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """Importance by attribution in other models of a task (chapter 8's control for the paper's Fig. 6): another seed, another start.

    On the same samples as `fig5`, which has the importance in the embedded adapter; the correlations between tasks need no run
    of their own.
    """
    if not run.other:
        raise ValueError("fig6 compares the embedded adapter with others of its task: pass --other FOLDER ..., from `finetune --seed`")
    records = [training_record(folder) for folder in run.other]
    for folder, record in zip(run.other, records, strict=True):
        if record["task"] != run.task:
            raise ValueError(f"the adapter in {folder} is for {record['task']!r}: expected one for {run.task!r}")
        if record["sha256"] == run.weights:
            raise ValueError(f"the adapter in {folder} is the one compared with: expected one that was trained from another seed")
    parts = samples(run)
    opened = cache(load)

    def measure(which: int, number: int) -> Rows:
        importance = head_importance(*opened(run.other[which]), parts[number], progress=True)
        return grid_rows({"model": which, "seed": records[which]["seed"], "sample": number}, importance=importance)

    jobs = [(which, number) for which in range(len(records)) for number in range(SAMPLES)]
    lines = resumable(run, "importance", jobs, measure)
    others = [{name: record[name] for name in ("command", "sha256", "accuracy", "seed")} for record in records]
    return [row for line in lines for row in line], {"others": others}
