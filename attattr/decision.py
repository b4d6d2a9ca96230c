"""What is explained: F, the softmax probability of one class, and which class that is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .batches import Model


def class_names(model: Model) -> list[str]:
    """The names of the model's classes, in the order of its logits."""
    return [model.config.id2label[i] for i in range(model.config.num_labels)]


def target_classes(target: str | int, names: Sequence[str], logits: Float[Tensor, "B C"]) -> Int[Tensor, " B"]:
    """The class id to attribute, for every example: the one predicted, a class id or a class name; a ``ValueError`` for anything else."""
    if target == "predicted":
        return logits.argmax(-1)
    known = target in names if isinstance(target, str) else target in range(len(names)) and not isinstance(target, bool)
    if not known:
        raise ValueError(f"unknown target {target!r}: expected 'predicted', a class id from 0 to {len(names) - 1}, or one of {list(names)}")
    index = names.index(target) if isinstance(target, str) else int(target)
    return torch.full((len(logits),), index, device=logits.device)


def decision_value(logits: Float[Tensor, "B C"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """F for every example, in float64."""
    return logits.double().softmax(-1).gather(1, targets[:, None])[:, 0]
