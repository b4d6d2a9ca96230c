"""Accuracy of a classifier over labelled rows: overall, per class, and F1."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tqdm import tqdm

from ...batches import TOKENS_PER_PASS, BatchEncoding, Model, Tokenizer, forward, grouped
from ...data import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

Row = dict[str, str]


def accelerate(device: str) -> Accelerator:
    """The processes that this one was started with, and the device that each of them has; precision is the caller's business."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    found = accelerator.device.type
    if found != device:
        raise ValueError(f"no device {device!r} here: expected 'cpu', or 'cuda' for one GPU per process; accelerate found {found!r}")
    return accelerator


def evaluate(
    model: Model, tokenizer: Tokenizer, rows: list[Row], task: Task, max_length: int = 128, accelerator: Accelerator | None = None
) -> dict:
    """Accuracy over ``rows``, per gold class, and each class's F1 (the harmonic mean of precision and recall), in float32.

    Raises ``ValueError`` if the model's classes are not those of the task.
    """
    from accelerate.utils import gather_object

    names = model.config.id2label  # of any order: a model of the hub need not have ours
    if set(names.values()) != set(task.labels):
        raise ValueError(f"the model decides between {sorted(names.values())}, but {task.name!r} has the classes {sorted(task.labels)}")
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    share = rows[process::processes]
    given = grouped(model, tokenizer, encode(tokenizer, share, task, max_length), TOKENS_PER_PASS)
    pairs: list[tuple[str, str]] = []  # gold and predicted class
    for batch in tqdm(given, desc=f"evaluate {task.name}", unit="batch", mininterval=5, disable=process > 0):
        predicted = forward(model, [batch]).argmax(-1).tolist()
        pairs += [(share[place]["label"], names[index]) for place, index in zip(sorted(batch.index), predicted, strict=True)]
    if processes > 1:
        pairs = gather_object(pairs)
    gold, guessed = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    hits = Counter(one for one, other in pairs if one == other)
    return {
        "rows": len(rows),
        "accuracy": round(hits.total() / len(rows), 4),
        "per_class": {label: round(hits[label] / gold[label], 4) for label in task.labels if gold[label]},
        "f1": {label: round(2 * hits[label] / (gold[label] + guessed[label]), 4) for label in task.labels if gold[label]},
    }


def encode(tokenizer: Tokenizer, rows: list[Row], task: Task, max_length: int) -> list[BatchEncoding]:
    """The tokens of each row, cut to ``max_length``."""
    return [tokenizer(*(row[name] for name in task.columns), truncation=True, max_length=max_length) for row in rows]
