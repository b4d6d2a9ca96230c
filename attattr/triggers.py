"""Adversarial triggers: word patterns that a model leans on, mined by attribution and inserted elsewhere (Hao et al., §5.3).

Where the paper and the authors' code differ, or say nothing, each choice is named in the docstring that makes it. What a
trigger does is never read off the rows that it was chosen on: candidates come from a pool, are ranked on a selection, and
measured on other rows (`attack`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from .attribution import Attribution, attribute_batch, check_target, class_names, integrate, warn_if_uncertified
from .encoding import Batch, Text, batches, check_texts, encode, grouped, length_limit
from .heads import checked_rows
from .quadrature import AUTO_STEPS, rule
from .tap import evaluating, finite, record

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCORES = ("maximum", "top-two")
VALUES = ("attribution", "attention")
STEPS = 3  # of Gauss-Legendre, as for the importance of heads
SHORTLIST = 24  # candidates of each class, those with the largest scores, that are tried on the selection
SECOND = 0.2  # the authors' code takes the second connection along if it has at least this share of the first
TOKENS_PER_PASS = 256


@dataclass(frozen=True)
class Trigger:
    """Up to four tokens, and where they stood: each is inserted at the same relative position of the same segment.

    Raises ``ValueError`` if it has no token, a position outside 0 to 1, or not one position and segment for each token.
    """

    tokens: tuple[str, ...]  # as the tokenizer writes them; "##fies" goes on from the token before
    positions: tuple[float, ...]  # k / n for the k-th of the n tokens of its segment: the last is at 1
    segments: tuple[int, ...]  # 0 for the first sentence, 1 for the second
    score: float
    label: str  # the class predicted where it was mined, and so the one that it should bring about

    def __post_init__(self) -> None:
        if not self.tokens or not len(self.tokens) == len(self.positions) == len(self.segments):
            sizes = f"{len(self.tokens)} tokens, {len(self.positions)} positions and {len(self.segments)} segments"
            raise ValueError(f"a trigger of {sizes}: expected one position and one segment for each token, and at least one token")
        if not all(0 <= position <= 1 for position in self.positions):
            raise ValueError(f"positions {list(self.positions)}: expected numbers from 0 to 1, relative to the length of the segment")


@dataclass(frozen=True)
class Attack:
    """What a trigger does to labelled rows, class by class. Classes without rows (or none right at first) are left out."""

    before: dict[str, float]  # accuracy
    after: dict[str, float]  # accuracy with the trigger inserted, over the same rows (the paper's Table 2)
    flip_rate: dict[str, float]  # share of the rows first right that are wrong with the trigger
    after_interval: dict[str, tuple[float, float]]  # Wilson's, 95 %
    flip_interval: dict[str, tuple[float, float]]
    rows: dict[str, int]
    truncated: int  # rows whose text had to be shortened for the trigger to fit


def mine_triggers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    selection: Dataset | None = None,
    top: int = 3,
    score: str = "maximum",
    values: str = "attribution",
    exclude: Mapping[str, Collection[str]] | Collection[str] | None = None,
    word_pieces: bool = True,
    classes: Sequence[str] | None = None,
    shortlist: int = SHORTLIST,
    progress: bool = False,
) -> list[Trigger]:
    """Word patterns that carry the model's decisions, the most damaging first (§5.3).

    Every row of the pool gives one candidate (see `candidates`). Those of each class predicted are ordered by score, and the
    ``shortlist`` best are tried on the rows of the selection that are of other classes: a trigger ranks by the share of those
    first right that it flips. Measure it with `attack`, on rows that are in neither.

    Args:
        rows: the pool; the paper takes 3,000 rows of the training split. Its gold labels are not used.
        selection: rows with gold labels to rank on; None: every fifth row of ``rows`` is held out for it, and gives no candidate.
        top: how many triggers for each class predicted.
        score, values, exclude, word_pieces: see `candidates`.
        classes: names of the classes to find triggers for; None: all of the model's.
        progress: show progress bars.

    Raises:
        ValueError: an empty pool or selection, or one without the rows that are needed; an empty lexicon; an unknown option.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> rows = attattr.examples("sst2").select(range(12))
    >>> found = mine_triggers(model, tokenizer, rows, top=1, shortlist=2)
    >>> [trigger.label for trigger in found]
    ['negative', 'positive']
    """
    names = class_names(model)
    wanted = list(names if classes is None else classes)
    for name in wanted:
        if name not in names:
            raise ValueError(f"unknown class {name!r}: expected some of {names}")
    if top < 1 or shortlist < top:
        raise ValueError(f"top={top} of a shortlist of {shortlist}: expected at least 1, and a shortlist no shorter")
    if selection is None:
        if len(rows) < 2:
            raise ValueError(f"{len(rows)} rows: expected at least 2, a pool and a held-out selection; or pass selection=ROWS")
        selection, rows = rows.select(range(0, len(rows), 5)), rows.select([i for i in range(len(rows)) if i % 5])
    shown, labels = checked_rows(model, selection)
    found = candidates(model, tokenizer, checked_rows(model, rows)[0], score, values, exclude, word_pieces, progress)
    chosen = shortlisted([one for one in found if one is not None], wanted, shortlist)
    clean = predicted(model, tokenizer, shown)
    flips: dict[Trigger, float] = {}
    for trigger in tqdm(chosen, desc="rank triggers", unit="trigger", disable=not progress):
        others = [i for i, label in enumerate(labels) if names[label] != trigger.label and clean[i] == label]
        if not others:
            raise ValueError(f"no row of the selection is of another class than {trigger.label!r} and decided right: expected some")
        attacked = predicted(model, tokenizer, [shown[i] for i in others], trigger)
        flips[trigger] = float((attacked != clean[others]).double().mean())
    return [
        trigger for name in wanted for trigger in sorted([t for t in chosen if t.label == name], key=lambda t: (-flips[t], -t.score))[:top]
    ]


def shortlisted(found: Sequence[Trigger], wanted: Sequence[str], count: int) -> list[Trigger]:
    """The ``count`` candidates with the largest scores of each class, those that say the same only once; the first of equals first."""
    kept: dict[tuple, Trigger] = {}
    for trigger in sorted(found, key=lambda one: -one.score):
        kept.setdefault((trigger.label, trigger.tokens, trigger.segments), trigger)
    of_class = {name: [trigger for trigger in kept.values() if trigger.label == name] for name in wanted}
    empty = [name for name in wanted if not of_class[name]]
    if empty:
        raise ValueError(f"no row of the pool gives a trigger for the class {empty[0]!r}: pass more rows, or classes without it")
    return [trigger for name in wanted for trigger in of_class[name][:count]]


def candidates(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    shown: Sequence[Text],
    score: str = "maximum",
    values: str = "attribution",
    exclude: Mapping[str, Collection[str]] | Collection[str] | None = None,
    word_pieces: bool = True,
    progress: bool = False,
) -> list[Trigger | None]:
    """One trigger from each text: the tokens of the strongest connections behind the decision; None where nothing may be taken.

    As in the authors' code: the head with the largest single value in any layer, its two largest connections (the second only
    if it has a fifth of the first), their tokens without special ones: one to four.

    Args:
        score: ``"maximum"``, the largest value (paper), or ``"top-two"``, the sum of both (the authors' code).
        values: ``"attribution"`` for the predicted class (Eq. 4), or, as a rival, ``"attention"``.
        exclude: words that no connection may touch, or a lexicon as `attattr.lexicon` gives it. Whole words are compared, also
            those that the tokenizer cuts into pieces.
        word_pieces: whether a connection may touch a piece of a word.

    Raises:
        ValueError: an empty lexicon, an unknown option, an empty text, one that is too long.
    """
    for name, value, known in (("score", score, SCORES), ("values", values, VALUES)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(map(repr, known))}")
    words = excluded(exclude)
    found: list[Trigger | None] = [None] * len(shown)
    with tqdm(total=len(shown), desc=f"mine by {values}", unit="text", disable=not progress) as bar, torch.inference_mode(False):
        for batch in batches(model, tokenizer, check_texts(list(shown))[0], TOKENS_PER_PASS):
            recording = record(model, batch.inputs)
            decided = recording.logits.argmax(-1)
            if values == "attribution":
                strength = integrate(model, recording, decided, [rule("gauss-legendre", STEPS)], 0.5).scores
            else:
                strength = torch.stack(recording.attention, 1).float()
            for b, number in enumerate(batch.index):
                length = batch.lengths[b]
                may = allowed(tokenizer, shown[number], words, word_pieces)
                label = class_names(model)[int(decided[b])]
                found[number] = strongest(tokenizer, shown[number], batch, b, strength[b, :, :, :length, :length].cpu(), may, score, label)
            bar.update(len(batch.index))
    return found


def excluded(exclude: Mapping[str, Collection[str]] | Collection[str] | None) -> frozenset[str]:
    """The words of a lexicon, of both polarities, lower-case."""
    if exclude is None:
        return frozenset()
    if isinstance(exclude, str):
        raise TypeError(f"exclude={exclude!r}: expected a collection of words, or a lexicon as attattr.lexicon gives it")
    words = [word for some in exclude.values() for word in some] if isinstance(exclude, Mapping) else list(exclude)
    if not words:
        raise ValueError("an empty lexicon: expected words to exclude, or None to exclude none")
    return frozenset(word.lower() for word in words)


def allowed(tokenizer: PreTrainedTokenizerBase, text: Text, words: frozenset[str], word_pieces: bool) -> Bool[Tensor, "N N"]:
    """Which connections may enter a trigger: none that touches an excluded word, none between special tokens alone."""
    parts = text if isinstance(text, tuple) else (text,)
    encoding = tokenizer(*parts, return_offsets_mapping=True)
    spans: dict[tuple, list[tuple[int, int]]] = {}
    for key, span in zip(zip(encoding.sequence_ids(), encoding.word_ids(), strict=True), encoding["offset_mapping"], strict=True):
        spans.setdefault(key, []).append(span)
    barred, special = [], []
    for part, word in zip(encoding.sequence_ids(), encoding.word_ids(), strict=True):
        special.append(part is None)
        own = spans[part, word]
        written = "" if part is None else parts[part][own[0][0] : own[-1][1]].strip().lower()
        barred.append(part is not None and (written in words or (len(own) > 1 and not word_pieces)))
    free, ordinary = ~torch.tensor(barred), ~torch.tensor(special)
    return free[:, None] & free[None] & (ordinary[:, None] | ordinary[None])


def strongest(
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    batch: Batch,
    b: int,
    strength: Float[Tensor, "L H N N"],
    may: Bool[Tensor, "N N"],
    score: str,
    label: str,
) -> Trigger | None:
    """The trigger of one text from the values of its connections."""
    open_ones = strength.masked_fill(~may, -torch.inf).flatten(2).flatten(0, 1)
    best, where = open_ones[open_ones.amax(1).argmax()].topk(min(2, may.numel()))
    if not best[0] > 0:
        return None
    taken = where[: 2 if len(best) > 1 and best[1] >= SECOND * best[0] else 1].tolist()
    parts = encode(tokenizer, text).sequence_ids()
    members = sorted({i for flat in taken for i in divmod(flat, len(may)) if parts[i] is not None})
    of_part = {part: [i for i, other in enumerate(parts) if other == part] for part in {parts[i] for i in members}}
    value = float(best[: len(taken)].sum() if score == "top-two" else best[0])
    return Trigger(
        tokens=tuple(batch.tokens[b][i] for i in members),
        positions=tuple((of_part[parts[i]].index(i) + 1) / len(of_part[parts[i]]) for i in members),
        segments=tuple(parts[i] for i in members),
        score=float(f"{value:.5g}"),  # the rest depends on the batch
        label=label,
    )


@dataclass(frozen=True)
class Inserted:
    """The tokens of a text with a trigger among them."""

    columns: dict[str, list[int]]  # the model's inputs: ids, segments, mask
    places: tuple[int, ...]  # where the trigger's tokens stand
    shortened: bool  # the text lost tokens


def insert(tokenizer: PreTrainedTokenizerBase, text: Text, trigger: Trigger, limit: int) -> Inserted:
    """Put a trigger into a text, which may then have ``limit`` tokens.

    As in the authors' code, a token goes to place round(relative position · new length) of its segment, or to the next free one;
    positions are counted anew. A place that rounds to 0, in theirs outside the sentence, is the first here; and where they cut
    what is too long after the insertion, perhaps the trigger, here the longer segment of the text loses its last tokens before.

    Raises:
        ValueError: a token that the tokenizer does not know, or a special one; a segment that the text does not have; a
            trigger that leaves no room for the text.
    """
    encoded = encode(tokenizer, text)
    parts = encoded.sequence_ids()
    new_ids = trigger_ids(tokenizer, trigger)
    own = {part: [i for i, other in enumerate(parts) if other == part] for part in range(2 if isinstance(text, tuple) else 1)}
    unknown = [segment for segment in trigger.segments if segment not in own]
    if unknown:
        raise ValueError(f"the trigger {trigger.tokens} has a token in segment {unknown[0]!r}, but the text has segments {list(own)}")
    surplus = len(parts) + len(new_ids) - limit
    if surplus > sum(map(len, own.values())) - len(own):
        raise ValueError(f"a trigger of {len(new_ids)} tokens leaves no room for a text: the model takes at most {limit} tokens")
    for _ in range(surplus):
        max(own.values(), key=len).pop()
    order = arranged(parts, own, trigger)
    like = [at if at >= 0 else own[trigger.segments[-1 - at]][0] for at in order]  # whose segment and mask each token has
    columns = {name: [values[at] for at in like] for name, values in encoded.items()}
    columns["input_ids"] = [encoded["input_ids"][at] if at >= 0 else new_ids[-1 - at] for at in order]
    return Inserted(columns, tuple(place for place, at in enumerate(order) if at < 0), surplus > 0)


def arranged(parts: Sequence[int | None], own: Mapping[int, Sequence[int]], trigger: Trigger) -> list[int]:
    """The order of a text's tokens, by their old places, with token t of the trigger written as -1 - t.

    Args:
        parts: the segment of each token of the text; None for a special one.
        own: the places of each segment's tokens that are kept.
    """
    order: list[int] = []
    for place, part in enumerate(parts):
        if part is None:
            order.append(place)
        elif place == own[part][0]:  # the whole segment is written where its first token stands
            order += merged(own[part], [t for t, segment in enumerate(trigger.segments) if segment == part], trigger)
    return order


def merged(own: Sequence[int], new: Sequence[int], trigger: Trigger) -> list[int]:
    """The places of a segment's own tokens, with token t of the trigger written as -1 - t at its relative position."""
    size = len(own) + len(new)
    order = sorted(new, key=lambda t: trigger.positions[t])
    places: list[int] = []
    for t in order:
        places.append(max(1, round(size * trigger.positions[t]), places[-1] + 1 if places else 1))
    # What went past the end, because its place was taken, moves back to it.
    taken = {min(place, size - len(order) + 1 + number): -1 - t for number, (place, t) in enumerate(zip(places, order, strict=True))}
    rest = iter(own)
    return [taken[place] if place in taken else next(rest) for place in range(1, size + 1)]


def trigger_ids(tokenizer: PreTrainedTokenizerBase, trigger: Trigger) -> list[int]:
    """The ids of a trigger's tokens, all known and none special."""
    ids = tokenizer.convert_tokens_to_ids(list(trigger.tokens))
    for token, number in zip(trigger.tokens, ids, strict=True):
        if number is None or number == tokenizer.unk_token_id or number in tokenizer.all_special_ids:
            raise ValueError(f"the tokenizer has no ordinary token {token!r}: expected one of its own, as it writes them")
    return ids


def inserted(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, shown: Sequence[Text], trigger: Trigger | None
) -> tuple[list[Batch], int]:
    """Texts with a trigger (or none) as batches, and how many had to be shortened."""
    if trigger is None:
        return batches(model, tokenizer, shown, 2 * TOKENS_PER_PASS), 0
    found = [insert(tokenizer, text, trigger, length_limit(model, tokenizer)) for text in shown]
    return grouped(model, tokenizer, [one.columns for one in found], 2 * TOKENS_PER_PASS), sum(one.shortened for one in found)


def predicted(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, shown: Sequence[Text], trigger: Trigger | None = None
) -> Int[Tensor, " B"]:
    """The class predicted for each text, with a trigger inserted if one is given."""
    return decisions(model, inserted(model, tokenizer, shown, trigger)[0])


def decisions(model: PreTrainedModel, given: Sequence[Batch]) -> Int[Tensor, " B"]:
    """The class predicted for each text of some batches, in the order of the texts."""
    found = torch.zeros(sum(len(batch.index) for batch in given), dtype=torch.long)
    for batch in given:
        with evaluating(model), torch.no_grad():
            found[list(batch.index)] = finite(model, model(**batch.inputs).logits).argmax(-1).cpu()
    return found


def attack(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, trigger: Trigger) -> Attack:
    """Insert a trigger into every row: accuracy of each class before and after, and the share of right answers that flip (§5.3, Table 2).

    Raises:
        ValueError: no rows, an unknown label, a trigger that no row can hold (see `insert`).

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> rows = attattr.examples("sst2").select(range(8))
    >>> hit = attack(model, tokenizer, rows, Trigger(("never",), (0.5,), (0,), 0.0, "negative"))
    >>> sorted(hit.before) == sorted(hit.after)
    True
    """
    shown, labels = checked_rows(model, rows)
    attacked, shortened = inserted(model, tokenizer, shown, trigger)
    first, then = predicted(model, tokenizer, shown), decisions(model, attacked)
    return compared(class_names(model), torch.tensor(labels), first, then, shortened)


def compared(
    names: Sequence[str], gold: Int[Tensor, " B"], first: Int[Tensor, " B"], then: Int[Tensor, " B"], truncated: int = 0
) -> Attack:
    """The `Attack` that two lists of predictions for the same rows make."""
    from scipy.stats import binomtest

    def interval(hits: int, of: int) -> tuple[float, float]:
        found = binomtest(hits, of).proportion_ci(0.95, "wilson")
        return float(found.low), float(found.high)

    parts: dict[str, dict[str, Any]] = {field.name: {} for field in fields(Attack) if field.name != "truncated"}
    for number, name in enumerate(names):
        mine = gold == number
        count, right, still = int(mine.sum()), int((mine & (first == gold)).sum()), int((mine & (then == gold)).sum())
        if count:
            parts["rows"][name], parts["before"][name], parts["after"][name] = count, right / count, still / count
            parts["after_interval"][name] = interval(still, count)
        if right:
            flipped = int((mine & (first == gold) & (then != gold)).sum())
            parts["flip_rate"][name], parts["flip_interval"][name] = flipped / right, interval(flipped, right)
    return Attack(**parts, truncated=truncated)


def attribute_attacked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    trigger: Trigger,
    target: str | int = "predicted",
    tolerance: float = 1e-2,
) -> Attribution:
    """`attattr.attribute` of a text with a trigger inserted, at the tokens themselves: word pieces, too, stay where they were put."""
    names = class_names(model)
    check_target(target, names)
    (shown,), _ = check_texts([text])
    (batch,), _ = inserted(model, tokenizer, [shown], trigger)
    special = set(tokenizer.all_special_ids)
    runs = groupby(batch.inputs["input_ids"][0].tolist(), key=lambda token: token in special)
    written = tuple(tokenizer.decode(list(run)) for is_special, run in runs if not is_special)
    spelled: Text = written if isinstance(text, tuple) and len(written) == 2 else " ".join(written)
    rules = [rule("gauss-legendre", count) for count in AUTO_STEPS]
    with torch.inference_mode(False):
        ((_, found),) = attribute_batch(model, batch, [spelled], target, names, "gauss-legendre", rules, tolerance)
    warn_if_uncertified([found], tolerance)
    return found
