"""Accuracy of a classifier over labelled rows: overall, per class, and F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ...batches import TOKENS_PER_PASS, BatchEncoding, Model, Rows, Text, Tokenizer, batches, forward, grouped, texts_and_labels
from ...data import one_of
from ...decision import class_names

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerate(device: str) -> Accelerator:
    """The processes that this one was started with, and the device that each of them has; precision is the caller's business.

    If one of them dies, torchrun ends the others; if one stands still, those that wait for it give up by torch's own patience: after
    half an hour, with GPUs ten minutes. Raises ``ValueError`` for a device that is not there.
    """
    from accelerate import Accelerator

    here = ["cpu", *(kind for kind, of in {"cuda": torch.cuda, "mps": torch.backends.mps}.items() if of.is_available())]
    one_of("device", device, here)
    return Accelerator(cpu=device == "cpu", mixed_precision="no")


def share_of(accelerator: Accelerator | None) -> tuple[int, int]:
    """Which of the processes this is, and how many there are; None: the only one."""
    return (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)


def evaluate(
    model: Model, tokenizer: Tokenizer, rows: Rows, max_length: int | None = None, accelerator: Accelerator | None = None, **reading: Any
) -> dict:
    """Accuracy over ``rows``, per gold class, and each class's F1 (the harmonic mean of precision and recall), in float32.

    Args:
        model, tokenizer, rows, reading: as for `attattr.batches.texts_and_labels`, which reads the rows, and names its errors.
        max_length: texts are cut to so many tokens, as in training; None: none is cut, and what is too long for the model is refused.
        accelerator: the processes that share the work; None: this one.
    """
    return judged(model, answers(model, tokenizer, rows, max_length, accelerator, **reading))


def answers(
    model: Model, tokenizer: Tokenizer, rows: Rows, max_length: int | None = None, accelerator: Accelerator | None = None, **reading: Any
) -> list[tuple[int, int]]:
    """The gold and the predicted class of every row, in no order; arguments and errors as of `evaluate`."""
    from accelerate.utils import gather_object

    texts, gold = texts_and_labels(model, tokenizer, rows, **reading)
    process, processes = share_of(accelerator)
    cut = max_length and encode(tokenizer, texts, max_length)
    given = grouped(model, tokenizer, cut, TOKENS_PER_PASS) if cut else batches(model, tokenizer, texts, TOKENS_PER_PASS)
    pairs: list[tuple[int, int]] = []
    for batch in tqdm(given[process::processes], desc="evaluate", unit="batch", mininterval=5, disable=not accelerator or process > 0):
        predicted = forward(model, [batch]).argmax(-1).tolist()
        pairs += zip((gold[place] for place in sorted(batch.index)), predicted, strict=True)
    return gather_object(pairs) if processes > 1 else pairs


def judged(model: Model, pairs: Iterable[Sequence[int]]) -> dict:
    """What `evaluate` says, of the `answers` of a model."""
    pairs = list(pairs)
    of_gold, guessed = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    hits = Counter(one for one, other in pairs if one == other)
    names = {number: name for number, name in enumerate(class_names(model)) if of_gold[number]}
    return {
        "rows": len(pairs),
        "accuracy": round(hits.total() / len(pairs), 4),
        "per_class": {name: round(hits[number] / of_gold[number], 4) for number, name in names.items()},
        "f1": {name: round(2 * hits[number] / (of_gold[number] + guessed[number]), 4) for number, name in names.items()},
    }


def encode(tokenizer: Tokenizer, texts: Sequence[Text], max_length: int) -> list[BatchEncoding]:
    """The tokens of each text, cut to ``max_length``."""
    return [tokenizer(*(text if isinstance(text, tuple) else (text,)), truncation=True, max_length=max_length) for text in texts]
