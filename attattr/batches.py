"""From rows and texts to batches, and through the model: the one forward loop, with every refusal that bad input deserves."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .decision import Example, class_names, own_map
from .model import alike, check_heads, check_parameters, logits_of, text_config
from .tap import gated

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding, PreTrainedModel as Model, PreTrainedTokenizerBase as Tokenizer
else:  # slow to import, and only named
    BatchEncoding = Dataset = Model = Tokenizer = object

Text = str | tuple[str, str]
Rows = Any  # a Dataset, a DataFrame, a list of dictionaries
TOKENS_PER_PASS = 512  # measured: larger batches fall out of a laptop core's cache, and take up to twice as long
TEXT_COLUMNS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("sentence",), ("text",))  # looked for in this order


@dataclass(frozen=True)
class Batch:
    """Texts of similar length as one padded batch; ``index`` says where each stood in the caller's list."""

    index: tuple[int, ...]
    inputs: Mapping[str, Any]
    tokens: tuple[tuple[str, ...], ...]
    places: tuple[tuple[int, ...], ...]  # of those tokens in the row; the others are padding
    width: int  # of a row; 0: not known

    def examples(self) -> list[Example]:
        """What a target of one's own may ask of each text."""
        padding = [~torch.isin(torch.arange(self.width), torch.tensor(real, dtype=torch.long)) for real in self.places]
        return [Example(tokens, len(tokens), of_row) for tokens, of_row in zip(self.tokens, padding, strict=True)]


def table_of(rows: Rows) -> pandas.DataFrame | None:
    """Rows that have columns, as a table; None if they have none, so that each may be a text."""
    if isinstance(rows, pandas.DataFrame):
        return rows
    if hasattr(rows, "column_names") and isinstance(rows, Mapping):
        raise TypeError(f"the splits {list(rows)}: expected the rows of one of them")
    if hasattr(rows, "column_names"):
        return rows.to_pandas()
    if isinstance(rows, Mapping) and any(isinstance(part, str) for part in rows.values()):
        return pandas.DataFrame([rows])  # one row
    listed = isinstance(rows, list | tuple) and rows and all(isinstance(row, Mapping) for row in rows)
    return pandas.DataFrame(rows) if listed or isinstance(rows, Mapping) else None


def texts_of(rows: Rows, columns: str | Sequence[str] | None = None) -> list[Text]:
    """The text of each row as `attattr.attribute` takes it: a string, or a pair for two-sentence tasks.

    Args:
        rows: a ``datasets.Dataset``, a ``pandas.DataFrame`` or a list of dictionaries; or texts as such: a list, a Series, a column of a
            dataset, an array, a generator.
        columns: the column of the texts, or the two of the pairs; None: those of our tasks, of GLUE, or ``"text"``.

    Raises:
        ValueError: no such columns.
        TypeError: a row without text, named by its number.

    >>> texts_of([{"premise": "a dog sleeps", "hypothesis": "a dog runs"}])
    [('a dog sleeps', 'a dog runs')]
    """
    table = table_of(rows)
    if table is None:
        if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
            raise TypeError(f"cannot read {str(rows)[:60]} as a text: expected a string, a tuple of two, or many in a list or table")
        found = list(rows)
    else:
        wanted = (columns,) if isinstance(columns, str) else columns
        known = (wanted,) if wanted else TEXT_COLUMNS
        chosen = next((names for names in known if set(names) <= set(table.columns)), None)
        if chosen is None or len(chosen) > 2:
            asked = f"columns={wanted}" if wanted else f"one of {[*TEXT_COLUMNS]}"
            raise ValueError(f"rows with the columns {list(table.columns)}: expected {asked}, or columns= with the one or two of the text")
        found = list(zip(*(table[name] for name in chosen), strict=True)) if len(chosen) == 2 else list(table[chosen[0]])
    pairs = [tuple(one.tolist() if isinstance(one, np.ndarray) else one) if isinstance(one, list | np.ndarray) else one for one in found]
    for number, one in enumerate(pairs):
        parts = one if isinstance(one, tuple) else (one,)
        if not 0 < len(parts) < 3 or not all(isinstance(part, str) for part in parts):
            raise TypeError(f"cannot read {str(one)[:60]} as a text, row {number}: expected a string, or a tuple of two strings")
        if not all(part.strip() for part in parts):
            raise ValueError(f"empty text {one!r}, row {number}: expected at least one character that is not white space")
    return pairs


def check_texts(text: Any, columns: str | Sequence[str] | None = None) -> tuple[list[Text], bool]:
    """The texts as a list, and whether the caller gave many. Raises ``TypeError`` or ``ValueError`` naming the culprit."""
    parts = text if isinstance(text, tuple) and len(text) < 3 else (text,)
    if all(isinstance(part, str) for part in parts):
        return texts_of([text]), False
    found = texts_of(text, columns)
    if not found:
        raise ValueError("an empty list of texts: expected at least one string or pair of strings")
    return found, True


def texts_and_labels(
    model: Model,
    tokenizer: Tokenizer,
    rows: Rows,
    columns: str | Sequence[str] | None = None,
    label: str = "label",
    names: Mapping[Any, str | int] | None = None,
    truncation: bool = False,
) -> tuple[list[Text], list[int]]:
    """Texts and gold labels of some rows, in the model's own order of the classes: what ``reading`` is, wherever rows are taken.

    Args:
        rows, columns: as for `texts_of`, with columns.
        label: the column of the labels: ids, or names of classes (by whatever case).
        names: what the rows call a class, and its name or id in the model, where these differ.
        truncation: shorten texts that are too long for the model, instead of refusing them.

    Raises:
        ValueError: no rows or columns, an empty text, a label that is not one of the model's, a model that does not choose one class.
    """
    table = table_of(rows)
    if table is None or not len(table):
        raise ValueError("no rows: expected at least one example with its label, in a table with columns of texts and labels")
    if label not in table.columns:
        raise ValueError(f"rows with the columns {list(table.columns)}: expected {label!r}, or label= with the one of the labels")
    texts, given = texts_of(rows, columns), table[label].tolist()
    texts = shortened(model, tokenizer, texts) if truncation else texts
    ours = class_names(model, forward(model, batches(model, tokenizer, texts[:1], 1)).shape[1])
    if own_map(model, len(ours))[0] != "probability":
        raise ValueError(f"{type(model).__name__} does not choose one of its classes {ours}: expected a model of single labels")
    called = {name.lower(): number for number, name in enumerate(ours)} | {name: number for number, name in enumerate(ours)}

    def meant(one: Any) -> int | None:
        mapped: Any = names[one] if names and isinstance(one, Hashable) and one in names else one
        if isinstance(mapped, str):
            mapped = called.get(mapped, called.get(mapped.lower(), int(mapped) if mapped.isdecimal() else None))
        return None if isinstance(mapped, bool | np.bool_) or mapped not in range(len(ours)) else int(mapped)

    theirs = getattr(getattr(rows, "features", {}).get(label), "names", None)
    if theirs is not None and not all(name.startswith("LABEL_") for name in ours):  # transformers' names for classes without any
        if None in map(meant, theirs):
            raise ValueError(f"the rows have the classes {theirs}: expected those of the model, {ours}, or names= with what each means")
        given = [theirs[one] if one in range(len(theirs)) else one for one in given]
    labels = [meant(one) for one in given]
    if None in labels:
        number = labels.index(None)
        expected = f"0 to {len(ours) - 1}, the classes {ours}, or names= with what it means"
        raise ValueError(f"row {number} has label {given[number]}: expected {expected}")
    return texts, [label for label in labels if label is not None]


def length_limit(model: Model, tokenizer: Tokenizer) -> int:
    """How many tokens the model can take."""
    positions = getattr(text_config(model), "max_position_embeddings", None)
    for name, module in model.named_modules():  # RoBERTa and its kin count positions from after that of padding
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions = module.num_embeddings - module.padding_idx - 1
    return min(tokenizer.model_max_length, positions if isinstance(positions, int) and positions > 0 else tokenizer.model_max_length)


def shortened(model: Model, tokenizer: Tokenizer, texts: Sequence[Text]) -> list[Text]:
    """The texts, those that are too long for the model without their ends (of a pair the longer part loses first)."""
    limit, found = length_limit(model, tokenizer), list(texts)
    for number, text in enumerate(texts):
        parts = text if isinstance(text, tuple) else (text,)
        cut = tokenizer(*parts, truncation=True, max_length=min(limit, 2**30), return_offsets_mapping=True)
        ends = {segment: offset[1] for segment, offset in zip(cut.sequence_ids(), cut["offset_mapping"], strict=True)}
        kept = [part[: ends.get(segment, 0)] for segment, part in enumerate(parts)]
        if len(tokenizer(*parts)["input_ids"]) > limit:
            found[number] = (kept[0], kept[1]) if isinstance(text, tuple) else kept[0]
    return found


def batches(model: Model, tokenizer: Tokenizer, texts: Sequence[Text], max_tokens: int) -> list[Batch]:
    """Batches of at most ``max_tokens`` padded tokens (or of one text), shortest texts first."""
    check_parameters(model)
    if not hasattr(tokenizer, "model_max_length"):
        raise TypeError(f"{type(tokenizer).__name__} is no tokenizer of transformers: expected the model's own, as AutoTokenizer loads it")
    limit = length_limit(model, tokenizer)
    encoded = [encode(tokenizer, text, number) for number, text in enumerate(texts)]
    for number, (text, item) in enumerate(zip(texts, encoded, strict=True)):
        if len(item["input_ids"]) > limit:
            found = f"a text of {len(item['input_ids'])} tokens, but this model takes at most {limit}"
            raise ValueError(f"{found}: shorten {str(text)[:60]!r} ..., row {number}, or pass truncation=True")
    return grouped(model, tokenizer, encoded, max_tokens)


def encode(tokenizer: Tokenizer, text: Text, number: int = 0) -> BatchEncoding:
    """The tokens of one text. Raises ``ValueError`` if there are none but special ones, or if it is no Unicode."""
    parts = text if isinstance(text, tuple) else (text,)
    try:
        "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r}, row {number}, is no Unicode: {error.reason}, so replace {error.object[error.start]!r}") from error
    found = tokenizer(*parts, return_special_tokens_mask=True)
    if all(found.pop("special_tokens_mask")) or (found.is_fast and not set(range(len(parts))) <= set(found.sequence_ids())):
        raise ValueError(f"the tokenizer makes no token of {text!r}, row {number}: expected text in a script it knows, in every part")
    return found


def grouped(model: Model, tokenizer: Tokenizer, encoded: Sequence[Mapping], max_tokens: int = TOKENS_PER_PASS) -> list[Batch]:
    """Encoded texts as batches of at most ``max_tokens`` padded tokens (or of one text), the shortest first.

    If padding changes what the model says of the shortest text, only texts of one length share a batch.
    """
    lengths = [len(item["input_ids"]) for item in encoded]
    order = sorted(range(len(encoded)), key=lengths.__getitem__)
    for padded in (True, False):
        groups: list[list[int]] = []
        for i in order:
            fits = groups and lengths[i] * (len(groups[-1]) + 1) <= max_tokens and (padded or lengths[i] == lengths[groups[-1][0]])
            groups[-1].append(i) if fits else groups.append([i])
        found = [collate(model, tokenizer, group, [encoded[i] for i in group]) for group in groups]
        uneven = next((batch for batch in found if len(batch.places[0]) < batch.width), None)
        if uneven is None or indifferent(model, uneven):
            break
    return found


def indifferent(model: Model, batch: Batch) -> bool:
    """Whether the shortest text of a padded batch, which comes first, has the same logits with its padding as without."""
    with torch.no_grad():
        padded = logits_of(model, {name: column[:1] for name, column in batch.inputs.items()})
        alone = logits_of(model, {name: column[:1, : len(batch.places[0])] for name, column in batch.inputs.items()})
    return alike(padded[tuple(map(slice, alone.shape))], alone)


def collate(model: Model, tokenizer: Tokenizer, index: Sequence[int], encoded: Sequence[Mapping]) -> Batch:
    """Pad on the right, with the model's own padding: only there do positions stay what they are without padding."""
    config, takes = text_config(model), inspect.signature(model.forward).parameters
    lengths = [len(item["input_ids"]) for item in encoded]
    named = [getattr(config, "pad_token_id", None), tokenizer.pad_token_id]
    vocabulary = getattr(config, "vocab_size", None) or torch.inf
    last = max(max(item["input_ids"]) for item in encoded)
    if last >= vocabulary:
        token = f"{tokenizer.convert_ids_to_tokens(last)!r}, number {last}"
        raise ValueError(f"token {token}, is none of the model's {vocabulary}: expected its own tokenizer, or more embeddings")
    filler = {"input_ids": next((one for one in named if one is not None and 0 <= one < vocabulary), 0)}

    def column(name: str) -> Int[Tensor, "B N"]:
        padded = [list(item[name]) + [filler.get(name, 0)] * (max(lengths) - len(item[name])) for item in encoded]
        found = torch.tensor(padded, device=next(model.parameters()).device)
        if name == "token_type_ids" and found.max() >= (getattr(config, "type_vocab_size", 0) or torch.inf):
            return torch.zeros_like(found)  # the tokenizer counts segments that the model does not know
        return found

    anything = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    inputs = {name: column(name) for name in encoded[0] if anything or name in takes}
    places = tuple(tuple(range(length)) for length in lengths)
    tokens = tuple(tuple(readable(tokenizer, one) for one in item["input_ids"]) for item in encoded)
    return Batch(tuple(index), inputs, tokens, places, max(lengths))


def readable(tokenizer: Tokenizer, number: int) -> str:
    """A token as text, where its tokenizer writes bytes or marks of spaces; what alone is no text stays as the tokenizer writes it."""
    token = tokenizer.convert_ids_to_tokens(number)
    text = tokenizer.convert_tokens_to_string([token]).strip()
    return text if text and "\ufffd" not in text else token


def words_of(tokenizer: Tokenizer, text: Text, tokens: Sequence[str]) -> dict[str, Any]:
    """Where the tokens of a text stand in it, and which make up a word: parts of an `Attribution`; none if the tokenizer cannot tell."""
    parts = text if isinstance(text, tuple) else (text,)
    if not tokenizer.is_fast:
        return {}
    encoded = tokenizer(*parts, return_offsets_mapping=True)
    segments, shown = encoded.sequence_ids(), list(tokens)
    offsets = tuple(None if at is None else tuple(span) for at, span in zip(segments, encoded["offset_mapping"], strict=True))
    keys = list(zip(segments, encoded.word_ids(), (place if at is None else -1 for place, at in enumerate(segments)), strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    words = [""] * len(numbers)
    for place, (segment, span, token) in enumerate(zip(segments, offsets, encoded.tokens(), strict=True)):
        if span and "\ufffd" in tokenizer.convert_tokens_to_string([token]):  # some of the bytes of a character: all of it
            shown[place] = parts[segment][slice(*span)].strip()
    for key, number in numbers.items():
        mine = [place for place, one in enumerate(keys) if one == key]
        first, last = offsets[mine[0]], offsets[mine[-1]]
        words[number] = parts[key[0]][first[0] : last[1]].strip() if first and last else shown[mine[0]]
    return {"tokens": tuple(shown), "offsets": offsets, "words": tuple(words), "word_of": tuple(numbers[key] for key in keys)}


def predict(model: Model, tokenizer: Tokenizer, texts: Sequence[Text], keep: Bool[Tensor, "*_"] | None = None) -> Float[Tensor, "B C"]:
    """The probability of every class for each text (or what else the model's own map makes of its logits), in float64.

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
    given = batches(model, tokenizer, check_texts(texts)[0], TOKENS_PER_PASS)
    logits = forward(model, given, keep).double()
    return own_map(model, logits.shape[1])[1](logits)


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
        if logits[-1].ndim != 2:
            found = f"{type(model).__name__} gives logits of shape {tuple(logits[-1].shape)}"
            raise TypeError(f"{found}: expected a classifier, a row for each text")
    return torch.cat(logits)[order.argsort()]
