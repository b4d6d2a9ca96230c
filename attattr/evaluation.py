"""Accuracy of a classifier over labelled rows: overall, per class, and F1."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from .data import Task

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    Row = dict[str, str]


def accelerate(device: str) -> Accelerator:
    """The processes that this one was started with, and the device that each of them has; precision is the caller's business."""
    from accelerate import Accelerator

    if device not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {device!r}: expected 'cpu', or 'cuda' for one GPU per process")
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    if accelerator.device.type != device:
        raise ValueError(f"no device {device!r} here: accelerate found {str(accelerator.device)!r}")
    return accelerator


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    task: Task,
    max_length: int = 128,
    accelerator: Accelerator | None = None,
) -> dict:
    """Accuracy over ``rows``, per gold class, and each class's F1 (the harmonic mean of precision and recall), in float32.

    Raises ``ValueError`` if the model's classes are not those of the task.
    """
    from accelerate.utils import gather_object

    names = model.config.id2label  # of any order: a model of the hub need not have ours
    if set(names.values()) != set(task.labels):
        raise ValueError(f"the model decides between {sorted(names.values())}, but {task.name!r} has the classes {sorted(task.labels)}")
    device = next(model.parameters()).device
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, pair(rows[i], task))))[process::processes]
    pairs: list[tuple[str, str]] = []  # gold and predicted class
    for at in tqdm(range(0, len(order), 64), desc=f"evaluate {task.name}", unit="batch", mininterval=5, disable=process > 0):
        batch = [rows[i] for i in order[at : at + 64]]
        with torch.no_grad():
            predicted = model(**encode(tokenizer, batch, task, max_length).to(device)).logits.argmax(-1).tolist()
        pairs += [(row["label"], names[index]) for row, index in zip(batch, predicted, strict=True)]
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


def encode(tokenizer: PreTrainedTokenizerBase, batch: list[Row], task: Task, max_length: int) -> BatchEncoding:
    """One padded batch of model inputs."""
    columns = [list(column) for column in zip(*(pair(row, task) for row in batch), strict=True)]
    return tokenizer(*columns, truncation=True, max_length=max_length, padding=True, return_tensors="pt")


def pair(row: Row, task: Task) -> list[str]:
    """The text columns of a row, as positional arguments of a tokenizer."""
    return [row[name] for name in task.columns]
