"""What is explained: F, one number for each text, and the names of what it can be of.

F is made of the outputs by the model's own problem: the softmax probability of a class, the sigmoid of one label among several, the raw
output of a regression or a reranker; of a language model the logit of a token, or by how much it is ahead of another's; or any function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .model import logits_in

MASKS = ("[MASK]", "<mask>")
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Example:
    """What a target of your own, ``target(outputs, example)``, may ask of the text that the outputs are of."""

    tokens: tuple[str, ...]
    length: int  # without padding
    padding: Bool[Tensor, " N"]  # where the inputs hold no token of the text


@dataclass(frozen=True)
class Decision:
    """What F is for each text of a batch: the outputs that it is made of, and what it is called."""

    quantity: str
    own: Map  # the model's own map of its outputs
    targets: Int[Tensor, "B T"]  # one output, or two, whose difference F is
    labels: tuple[str, ...]
    probabilities: Float[Tensor, "B C"] | None  # the map of all outputs; None where they are not of classes


def softmax(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """The probability of each class."""
    return logits.softmax(-1)


def raw(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """The numbers as they are."""
    return logits


def own_map(model: nn.Module, outputs: int) -> tuple[str, Map]:
    """What F is called for a classifier of so many outputs, and the map from its logits that its problem asks for."""
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem == "multi_label_classification":
        return "probability of the label", torch.sigmoid
    return ("output", raw) if problem == "regression" or outputs == 1 else ("probability", softmax)


def class_names(model: nn.Module, outputs: int | None = None) -> list[str]:
    """The names of the model's classes, in the order of its logits; numbers where it has no names.

    Raises ``ValueError`` for names of other ids than 0 to C - 1, of fewer or more than there are ``outputs``, or that come twice.
    """
    found = getattr(getattr(model, "config", None), "id2label", None) or {number: str(number) for number in range(outputs or 0)}
    count = len(found) if outputs is None else outputs
    if not found:
        raise ValueError(f"{type(model).__name__} has no names for its classes: expected them in its config.id2label")
    if set(found) != set(range(count)) or len({*found.values()}) != count:
        raise ValueError(f"config.id2label is {found}: expected a name for each of the ids 0 to {count - 1}, and none twice")
    return [str(found[number]) for number in range(count)]


def read(target: Any, examples: Sequence[Example], outputs: Any, example: Int[Tensor, " R"]) -> Float[Tensor, "R C"]:
    """The numbers that decide, of every row of some outputs: the classes', the vocabulary's at the place of the token that is predicted,
    or what a target of the caller's own makes of them.

    Raises:
        TypeError: outputs that are neither of classes nor of a vocabulary; a target that does not give one float for each row.
        ValueError: a text for a masked language model without one mask; numbers that are not finite.
    """
    if callable(target):
        found = target(outputs, examples[int(example[0])])
        if not isinstance(found, Tensor) or found.shape != example.shape or not found.is_floating_point():
            given = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)[:60]
            raise TypeError(f"target gave {given}: expected {len(example)} floats in a tensor, one for each row of the outputs")
        if not found.isfinite().all():
            raise ValueError(f"target gave {found.tolist()[:4]}: expected finite numbers")
        return found[:, None]
    logits, kind = logits_in(outputs), type(outputs).__name__
    if logits.ndim == 2:
        return logits
    if logits.ndim != 3 or "LM" not in kind:
        what = f"{kind} with logits of shape {tuple(logits.shape)}"
        raise TypeError(f"{what} is no single decision: expected target=FUNCTION, which makes one number of each row of these outputs")
    places = [place_of_token(kind, one, logits.shape[1]) for one in examples]
    return logits[torch.arange(len(example)), torch.tensor(places)[example.cpu()]]


def place_of_token(kind: str, example: Example, places: int) -> int:
    """Where a language model predicts: at the only mask, or after the last token, of the decoder's where it has tokens of its own."""
    if kind != "MaskedLMOutput":
        return (example.length if places == len(example.padding) else places) - 1
    masks = [place for place, token in enumerate(example.tokens) if token in MASKS]
    if len(masks) != 1:
        raise ValueError(f"{len(masks)} masks in {list(example.tokens)}: expected one, the place where the model predicts a token")
    return masks[0]


def decide(model: nn.Module, tokenizer: Any, outputs: Any, logits: Float[Tensor, "B C"], targets: Sequence[Any]) -> Decision:
    """What F is for every text, from the outputs of a pass and what `read` found in them. Raises ``ValueError`` for an unknown target."""
    kind, count = type(outputs).__name__, logits.shape[1]
    if callable(targets[0]):
        name = getattr(targets[0], "__name__", "target")
        return Decision(name, raw, torch.zeros(len(logits), 1).long().to(logits.device), (name,) * len(logits), None)
    of_tokens = logits_in(outputs).ndim == 3
    names = [] if of_tokens else class_names(model, count) if "ClassifierOutput" in kind else [str(number) for number in range(count)]

    def number(target: Any, best: int) -> int:
        if isinstance(target, str) and (target == "predicted" or target in names):
            return best if target == "predicted" else names.index(target)
        if isinstance(target, str) and of_tokens:
            return token_id(tokenizer, target)
        if isinstance(target, bool | str | tuple) or target not in range(count):
            known = "a token, or a tuple of two" if of_tokens else f"one of {names}"
            raise ValueError(f"unknown target {target!r}: expected 'predicted', a class id from 0 to {count - 1}, or {known}")
        return int(target)

    bests = logits.argmax(-1).tolist()
    pairs = [target if of_tokens and isinstance(target, tuple) else (target,) for target in targets]
    if len({len(pair) for pair in pairs}) > 1 or len(pairs[0]) > 2:
        raise ValueError(f"targets {list(targets)}: expected one token for every text, or two for every text")
    numbers: list[list[int]] = [[number(one, best) for one in pair] for pair, best in zip(pairs, bests, strict=True)]
    called = names if names else {one: (tokenizer and tokenizer.convert_ids_to_tokens(one)) or str(one) for pair in numbers for one in pair}
    quantity, own = (("logit", "difference of logits")[len(pairs[0]) - 1], raw) if of_tokens else own_map(model, count)
    labels = tuple(" − ".join(called[one] for one in pair) for pair in numbers)
    return Decision(quantity, own, torch.tensor(numbers).to(logits.device), labels, None if of_tokens else own(logits.double()))


def token_id(tokenizer: Any, token: str) -> int:
    """The number of a token, written as the tokenizer writes it or as text; a ``ValueError`` if it is none, or more than one."""
    if tokenizer is None:
        raise ValueError(f"target {token!r}: expected the id of a token, for no tokenizer was given")
    found = tokenizer.get_vocab().get(token)
    ids = tokenizer(token, add_special_tokens=False)["input_ids"] if found is None else [found]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"target {token!r} is {tokenizer.convert_ids_to_tokens(ids)} to the tokenizer: expected one token that it knows")
    return ids[0]


def decision_value(
    logits: Float[Tensor, "B C"], targets: Int[Tensor, " B"] | Int[Tensor, "B T"], own: Map = softmax
) -> Float[Tensor, " B"]:
    """F of every row, in float64: the model's map of the target's output, less that of a second target."""
    of_targets = own(logits.double()).gather(1, targets.reshape(len(targets), -1))
    return of_targets[:, 0] - of_targets[:, 1:].sum(1)
