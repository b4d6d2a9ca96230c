"""From rows and texts to batches, and through the model: the one forward loop, with every refusal that bad input deserves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .tap import check_heads, gated, logits_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding, PreTrainedModel as Model, PreTrainedTokenizerBase as Tokenizer
else:  # slow to import, and only named
    BatchEncoding = Dataset = Model = Tokenizer = object

Text = str | tuple[str, str]
TOKENS_PER_PASS = 512  # measured: larger batches fall out of a laptop core's cache, and take up to twice as long


@dataclass(frozen=True)
class Batch:
    """Texts of similar length as one padded batch; ``index`` says where each stood in the caller's list."""

    index: tuple[int, ...]
    inputs: Mapping[str, Tensor]
    lengths: tuple[int, ...]
    tokens: tuple[tuple[str, ...], ...]


def texts_of(rows: Dataset) -> list[Text]:
    """The text of each row as `attattr.attribute` takes it: a string, or a pair for two-sentence tasks."""
    if "sentence" in rows.column_names:
        return list(rows["sentence"])
    return list(zip(rows["sentence1"], rows["sentence2"], strict=True))


def texts_and_labels(model: Model, rows: Dataset) -> tuple[list[Text], list[int]]:
    """Texts and gold labels of some rows, in the model's own order of the classes where the rows name theirs.

    Raises ``ValueError`` if there are no rows, an empty text, or a label that is not one of the model's.
    """
    if not len(rows):
        raise ValueError("no rows: expected at least one example with its label")
    ours = list(model.config.id2label.values())
    theirs = getattr(rows.features["label"], "names", None)
    labels = []
    for number, label in enumerate(rows["label"]):
        if label != int(label) or not 0 <= label < len(ours):
            raise ValueError(f"row {number} has label {label}: expected 0 to {len(ours) - 1}, the classes {ours}")
        labels.append(int(label))
    if theirs is not None and not all(name.startswith("LABEL_") for name in ours):  # transformers' names for classes without any
        if set(theirs) != set(ours):
            raise ValueError(f"the rows have the classes {theirs}: expected those of the model, {ours}")
        labels = [ours.index(theirs[label]) for label in labels]
    return check_texts(texts_of(rows))[0], labels


def check_texts(text: object) -> tuple[list[Text], bool]:
    """The texts as a list, and whether the caller gave a list. Raises ``TypeError`` or ``ValueError`` naming the culprit."""
    many = isinstance(text, list)
    found: list[Any] = text if isinstance(text, list) else [text]
    if not found:
        raise ValueError("an empty list of texts: expected at least one string or pair of strings")
    for item in found:
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) > 2 or not all(isinstance(part, str) for part in parts):
            raise TypeError(f"cannot read {item!r} as a text: expected a string, a tuple of two strings, or a list of either")
        if not parts or not all(part.strip() for part in parts):
            raise ValueError(f"empty text {item!r}: expected at least one character that is not white space")
    return found, many


def length_limit(model: Model, tokenizer: Tokenizer) -> int:
    """How many tokens the model can take."""
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return min(tokenizer.model_max_length, positions)


def batches(model: Model, tokenizer: Tokenizer, texts: Sequence[Text], max_tokens: int) -> list[Batch]:
    """Batches of at most ``max_tokens`` padded tokens (or of one text), shortest texts first."""
    limit = length_limit(model, tokenizer)
    encoded = [encode(tokenizer, text) for text in texts]
    for text, item in zip(texts, encoded, strict=True):
        if len(item["input_ids"]) > limit:
            raise ValueError(
                f"a text of {len(item['input_ids'])} tokens, but this model takes at most {limit}: shorten {str(text)[:60]!r} ..."
            )
    return grouped(model, tokenizer, encoded, max_tokens)


def encode(tokenizer: Tokenizer, text: Text) -> BatchEncoding:
    """The tokens of one text. Raises ``ValueError`` if there are none."""
    found = tokenizer(*(text if isinstance(text, tuple) else (text,)))
    if not found["input_ids"]:
        raise ValueError(f"the tokenizer makes no token of {text!r}: expected text in a script it knows")
    return found


def grouped(model: Model, tokenizer: Tokenizer, encoded: Sequence[Mapping], max_tokens: int = TOKENS_PER_PASS) -> list[Batch]:
    """Encoded texts as batches of at most ``max_tokens`` padded tokens (or of one text), the shortest first."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["input_ids"]))
    groups: list[list[int]] = []
    for i in order:
        if groups and len(encoded[i]["input_ids"]) * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [collate(model, tokenizer, group, [encoded[i] for i in group]) for group in groups]


def collate(model: Model, tokenizer: Tokenizer, index: Sequence[int], encoded: Sequence[Mapping]) -> Batch:
    """Pad on the right: only there do positions stay what they are without padding."""
    lengths = [len(item["input_ids"]) for item in encoded]
    filler = {"input_ids": tokenizer.pad_token_id or 0}

    def column(name: str) -> Int[Tensor, "B N"]:
        padded = [list(item[name]) + [filler.get(name, 0)] * (max(lengths) - len(item[name])) for item in encoded]
        return torch.tensor(padded, device=model.device)

    return Batch(
        index=tuple(index),
        inputs={name: column(name) for name in encoded[0]},
        lengths=tuple(lengths),
        tokens=tuple(tuple(tokenizer.convert_ids_to_tokens(item["input_ids"])) for item in encoded),
    )


def predict(model: Model, tokenizer: Tokenizer, texts: Sequence[Text], keep: Bool[Tensor, "*_"] | None = None) -> Float[Tensor, "B C"]:
    """The probability of every class for each text, in float64.

    Args:
        model, tokenizer: as for `attattr.attribute`.
        texts: strings, or pairs of strings.
        keep: what is left of the model; None: all of it. L H or B L H: the heads that still say anything, one choice for all texts or
            one for each. B L N N, for texts of one length: the connections that bring anything, in every head, not renormalised.

    Raises:
        TypeError: text that is not text, ``keep`` that is not boolean.
        ValueError: empty or too long text; heads or connections that are not the model's, or not one choice for each text; logits
            that are not finite.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> predict(model, tokenizer, ["a warm and funny film .", "dull ."]).argmax(-1).tolist()
    [1, 0]
    """
    given = batches(model, tokenizer, check_texts(list(texts))[0], TOKENS_PER_PASS)
    return forward(model, given, keep).double().softmax(-1)


def forward(model: Model, given: Sequence[Batch], keep: Bool[Tensor, "*_"] | None = None) -> Float[Tensor, "B C"]:
    """The logits of every text of some batches, in the order of the texts; arguments and errors as of `predict`."""
    order = torch.tensor([place for batch in given for place in batch.index])
    if keep is not None and getattr(keep, "ndim", 0) < 4:
        check_heads(model, keep)
    if keep is not None and keep.ndim > 2 and len(keep) != len(order):
        raise ValueError(f"{len(order)} texts and {len(keep)} choices of heads or connections: expected one for every text")
    logits = []
    for batch in given:
        mine = keep if keep is None or keep.ndim == 2 else keep[list(batch.index)]
        with torch.no_grad(), nullcontext() if mine is None else gated(model, mine.to(model.device)):
            logits.append(logits_of(model, batch.inputs).cpu())
    return torch.cat(logits)[order.argsort()]
