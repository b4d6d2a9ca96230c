"""Which heads matter, which can go, and which are universal (chapters 7 and 8; the paper's Figs. 5 and 6)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...batches import Dataset, Model, Tokenizer
from ...data import examples
from ...heads import RATES, head_importance, heads_pruned, least_important, pruning_curve, random_importance
from ...model import layers_and_heads
from ...pretrained import load
from ..training.model_folder import training_record
from .running import CHUNK, Measured, Rows, Run, chunk, drawn, resumable, rounded, sample

SAMPLES = 5
SAMPLE_ROWS = {"small": 200, "base": 100}  # of each, by the size of the model: the large one takes about 13 times as long
# How often each method's importance is measured, each time on other rows; what is slow or only for comparison, once.
TIMES = {"attribution": SAMPLES, "taylor": SAMPLES, "taylor-logits": 1, "accuracy": 1}
# Attribution by other rules than three nodes: A ⊙ ∂F/∂A with all attention in place, the same half-way, the paper's, as exact as asked for.
RULES: dict[str, dict[str, Any]] = {
    "attribution-end": {"rule": "riemann", "steps": 1},
    "attribution-middle": {"steps": 1},
    "attribution-20": {"rule": "riemann", "steps": 20},
    "attribution-certified": {"steps": "auto"},
}
TIMES |= {"attribution-end": SAMPLES, "attribution-middle": 1, "attribution-20": 1, "attribution-certified": 1}
LARGE_TIMES = {"attribution": 2, "taylor": 2, "accuracy": 1}  # the same in the large model: the paper's methods, on fewer samples
NORMALIZED = {"taylor-normalized": "taylor"}  # each layer divided by its norm, as in the authors' code: no importance of its own to measure
RANDOM_ORDERS = 5
OTHER_SAMPLES = 2  # of the samples, in other models of a task: trainings differ far more than samples of rows do


def samples(run: Run) -> list[Dataset]:
    """Disjoint samples of the training split, on which importance is measured; never the rows that accuracy is measured on."""
    rows = examples(run.task, source=run.data, split="train")
    size = min(SAMPLE_ROWS[run.size], len(rows) // SAMPLES)
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
    methods = TIMES if run.size == "small" else LARGE_TIMES
    measured = [(method, number) for method, times in methods.items() for number in range(times)]
    found = importances(run, measured, lambda method: (model, tokenizer, RULES.get(method, {"method": method})))
    for method, plain in NORMALIZED.items():
        for number in range(methods[plain]):
            values = found[plain, number]
            found[method, number] = values / values.mean(0).norm(dim=1, keepdim=True)
    orders, table = {}, []
    for (method, number), values in found.items():
        orders[method, number] = torch.tensor(rounded(values.mean(0)))
        common = {"measure": "importance", "method": method, "sample": number, "rows": len(values)}
        table += grid_rows(common, value=orders[method, number], error=values.std(0) / len(values) ** 0.5)
    for number in range(RANDOM_ORDERS):
        orders["random", number] = random_importance(orders["attribution", 0], number)
    rows, shape = drawn(run), layers_and_heads(model)
    points = [(*order, rate, count) for order in orders for rate, count in zip(RATES, heads_pruned(RATES, math.prod(shape)), strict=True)]
    left = [(rate, *least_important(orders[method, number], count).flatten().tolist()) for method, number, rate, count in points]

    def prune(rate: float, *kept: bool) -> float:
        return float(pruning_curve(model, tokenizer, rows, torch.tensor(kept).float().reshape(shape), [rate]).accuracy)

    choices = list(dict.fromkeys(left))  # many orders leave the same heads: each choice is judged once
    accuracy = dict(zip(choices, resumable(run, "curves", choices, prune), strict=True))
    for (method, number, rate, count), kept in zip(points, left, strict=True):
        common = {"measure": "accuracy", "method": method, "sample": number, "rows": len(rows), "rate": rate, "pruned": count}
        table.append(common | {"right": round(accuracy[kept] * len(rows)), "value": accuracy[kept]})
    return table, {}


def importances(
    run: Run, measured: Sequence[tuple], how: Callable[[Any], tuple[Model, Tokenizer, dict[str, Any]]]
) -> dict[tuple, Float[Tensor, "B L H"]]:
    """The importance of every head in each row of a sample, for pairs of anything and the number of a sample.

    ``how`` says of anything which model, tokenizer and options of `head_importance` it means.
    """
    parts = samples(run)
    jobs = [(*pair, at) for pair in measured for at in range(0, len(parts[pair[1]]), CHUNK)]

    def measure(what: Any, number: int, at: int) -> list[Any]:
        model, tokenizer, options = how(what)
        return head_importance(model, tokenizer, chunk(parts[number], at), return_per_example=True, **options)[1].tolist()

    found: dict[tuple, list[Any]] = {pair: [] for pair in measured}
    for (*pair, _), values in zip(jobs, resumable(run, "importance", jobs, measure), strict=True):
        found[tuple(pair)] += values
    return {pair: torch.tensor(values) for pair, values in found.items()}


def fig6(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """Importance by attribution in other models of a task (chapter 8's control for the paper's Fig. 6): another seed, another start.

    On the first samples of `fig5`, which has the importance in the embedded adapter; the correlations between tasks need no run
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
    opened = cache(load)
    measured = [(which, number) for which in range(len(records)) for number in range(OTHER_SAMPLES)]
    table: Rows = []
    found = importances(run, measured, lambda which: (*opened(run.other[which], run.device), {"method": "attribution"}))
    for (which, number), values in found.items():
        table += grid_rows({"model": which, "seed": records[which]["seed"], "sample": number}, importance=values.mean(0))
    others = [{name: record[name] for name in ("command", "sha256", "accuracy", "seed")} for record in records]
    return table, {"others": others}
