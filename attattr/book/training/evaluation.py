"""Accuracy of a classifier over labelled rows: overall, per class, and F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ...batches import TOKENS_PER_PASS, BatchEncoding, Model, Rows, Text, Tokenizer, batches, forward, grouped, texts_and_labels
from ...decision import class_names

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerate(device: str) -> Accelerator:
    """The processes that this one was started with, and the device that each of them has; precision is the caller's business."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    found = accelerator.device.type
    if found != device:
        raise ValueError(f"no device {device!r} here: expected 'cpu', or 'cuda' for one GPU per process; accelerate found {found!r}")
    return accelerator


def evaluate(
    model: Model, tokenizer: Tokenizer, rows: Rows, max_length: int | None = 128, accelerator: Accelerator | None = None, **reading: Any
) -> dict:
    """Accuracy over ``rows``, per gold class, and each class's F1 (the harmonic mean of precision and recall), in float32.

    Args:
        model, tokenizer, rows, reading: as for `attattr.batches.texts_and_labels`, which reads the rows, and names its errors.
        max_length: texts are cut to so many tokens; None: those that are too long for the model are refused.
        accelerator: the processes that share the work; None: this one.
    """
    from accelerate.utils import gather_object

    texts, gold = texts_and_labels(model, tokenizer, rows, **reading)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    cut = max_length and encode(tokenizer, texts, max_length)
    given = grouped(model, tokenizer, cut, TOKENS_PER_PASS) if cut else batches(model, tokenizer, texts, TOKENS_PER_PASS)
    pairs: list[tuple[int, int]] = []  # gold and predicted class
    for batch in tqdm(given[process::processes], desc="evaluate", unit="batch", mininterval=5, disable=process > 0):
        predicted = forward(model, [batch]).argmax(-1).tolist()
        pairs += zip((gold[place] for place in sorted(batch.index)), predicted, strict=True)
    if processes > 1:
        pairs = gather_object(pairs)
    of_gold, guessed = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    hits = Counter(one for one, other in pairs if one == other)
    names = {number: name for number, name in enumerate(class_names(model)) if of_gold[number]}
    return {
        "rows": len(texts),
        "accuracy": round(hits.total() / len(texts), 4),
        "per_class": {name: round(hits[number] / of_gold[number], 4) for number, name in names.items()},
        "f1": {name: round(2 * hits[number] / (of_gold[number] + guessed[number]), 4) for number, name in names.items()},
    }


def encode(tokenizer: Tokenizer, texts: Sequence[Text], max_length: int) -> list[BatchEncoding]:
    """The tokens of each text, cut to ``max_length``."""
    return [tokenizer(*(text if isinstance(text, tuple) else (text,)), truncation=True, max_length=max_length) for text in texts]
