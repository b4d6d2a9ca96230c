"""Adversarial triggers: word patterns that a model leans on, mined by attribution and inserted elsewhere (Hao et al., §5.3).

Where the paper and the authors' code differ, or say nothing, each choice is named in the docstring that makes it. What a
trigger does is never read off the rows that it was chosen on: candidates come from a pool, are ranked on a selection, and
measured on other rows (`attack`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor
from tqdm.auto import tqdm

from .attribution import Options, attribute, attribute_batches
from .batches import Model, Rows, Text, Tokenizer, check_texts, encode, forward, grouped, length_limit, predict, texts_and_labels, words_of
from .connections import Attribution, one_text, strongest_connections
from .data import one_of
from .decision import class_names
from .quadrature import rules_of

SCORES = ("maximum", "top-two")
VALUES = ("attribution", "attention")
STEPS = 3  # of Gauss-Legendre, as for the importance of heads
CHUNK = 64  # texts whose attributions are held at once
SHORTLIST = 24  # candidates of each class, those with the largest scores, that are tried on the selection
SECOND = 0.2  # the authors' code takes the second connection along if it has at least this share of the first


@dataclass(frozen=True)
class Trigger:
    """Up to four tokens, and where they stood: each is inserted at the same relative position of the same segment.

    Raises ``ValueError`` if it has no token, a position outside 0 to 1, or not one position and segment for each token.
    """

    tokens: tuple[str, ...]  #: as the tokenizer writes them; "##fies" goes on from the token before
    positions: tuple[float, ...]  #: of each, its number in its segment, from 1, over the length of the segment, so the last is at 1
    segments: tuple[int, ...]  #: 0 for the first sentence, 1 for the second
    score: float  #: of its largest connection
    label: str  #: the class predicted where it was mined, and so the one that it should bring about

    def __post_init__(self) -> None:
        if not self.tokens or not len(self.tokens) == len(self.positions) == len(self.segments):
            raise ValueError(f"{vars(self)}: expected one position and one segment for each token, and at least one token")
        if not all(0 <= position <= 1 for position in self.positions):
            raise ValueError(f"positions {list(self.positions)}: expected numbers from 0 to 1, relative to the length of the segment")


@dataclass(frozen=True)
class Attack:
    """What a trigger does to labelled rows, class by class. Classes without rows (or none right at first) are left out."""

    before: dict[str, float]  #: accuracy
    after: dict[str, float]  #: accuracy with the trigger inserted, over the same rows (the paper's Table 2)
    flip_rate: dict[str, float]  #: share of the rows first right that are wrong with the trigger
    after_interval: dict[str, tuple[float, float]]  #: Wilson's, 95 %
    flip_interval: dict[str, tuple[float, float]]  #: Wilson's, 95 %
    rows: dict[str, int]  #: how many there were
    truncated: int  #: rows whose text had to be shortened for the trigger to fit


def mine_triggers(
    model: Model,
    tokenizer: Tokenizer,
    rows: Rows,
    selection: Rows | None = None,
    top: int = 3,
    score: str = "maximum",
    values: str = "attribution",
    exclude: Mapping[str, Collection[str]] | Collection[str] | None = None,
    word_pieces: bool = True,
    classes: Sequence[str] | None = None,
    shortlist: int = SHORTLIST,
    progress: bool = False,
    **reading: Any,
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
        reading: how rows are read, as for `attattr.head_importance`.

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
        one_of("class", name, names)
    if top < 1 or shortlist < top:
        raise ValueError(f"top={top} of a shortlist of {shortlist}: expected at least 1, and a shortlist no shorter")
    pool, gold = texts_and_labels(model, tokenizer, rows, **reading)
    if selection is not None:
        texts, labels = texts_and_labels(model, tokenizer, selection, **reading)
    elif len(pool) < 2:
        raise ValueError(f"{len(pool)} rows: expected at least 2, a pool and a held-out selection; or pass selection=ROWS")
    else:
        texts, labels, pool = pool[::5], gold[::5], [text for i, text in enumerate(pool) if i % 5]
    found = candidates(model, tokenizer, pool, score, values, exclude, word_pieces, progress)
    chosen = shortlisted([one for one in found if one is not None], wanted, shortlist)
    clean = predict(model, tokenizer, texts).argmax(-1)
    flips: dict[Trigger, float] = {}
    for trigger in tqdm(chosen, desc="rank triggers", unit="trigger", disable=not progress):
        others = [i for i, label in enumerate(labels) if names[label] != trigger.label and clean[i] == label]
        if not others:
            raise ValueError(f"no row of the selection is of another class than {trigger.label!r} and decided right: expected some")
        then = predict_attacked(model, tokenizer, [texts[i] for i in others], trigger)
        flips[trigger] = float((then != clean[others]).double().mean())
    return shortlisted(chosen, wanted, top, lambda one: (flips[one], one.score))


def shortlisted(
    found: Sequence[Trigger], wanted: Sequence[str], count: int, value: Callable[[Trigger], Any] = attrgetter("score")
) -> list[Trigger]:
    """The ``count`` candidates of largest value of each class, those that say the same only once; the first of equals first."""
    kept: dict[tuple, Trigger] = {}
    for trigger in sorted(found, key=value, reverse=True):
        kept.setdefault((trigger.label, trigger.tokens, trigger.segments), trigger)
    of_class = {name: [trigger for trigger in kept.values() if trigger.label == name] for name in wanted}
    empty = [name for name in wanted if not of_class[name]]
    if empty:
        raise ValueError(f"no row of the pool gives a trigger for the class {empty[0]!r}: pass more rows, or classes without it")
    return [trigger for name in wanted for trigger in of_class[name][:count]]


def candidates(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[Text],
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
    one_of("score", score, SCORES)
    one_of("values", values, VALUES)
    words, given = excluded(exclude), check_texts(texts)[0]
    found: list[Trigger | None] = []
    for at in tqdm(range(0, len(given), CHUNK), desc=f"mine by {values}", unit=f"{CHUNK} texts", disable=not progress):
        for att in attribute(model, tokenizer, given[at : at + CHUNK], steps=STEPS if values == "attribution" else 1):
            strength = one_text(att).scores if values == "attribution" else att.attention
            may = allowed(tokenizer, att.text, words, word_pieces)
            found.append(candidate(tokenizer, att, strength.masked_fill(~may, -torch.inf), score))
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


def allowed(tokenizer: Tokenizer, text: Text, words: frozenset[str], word_pieces: bool) -> Bool[Tensor, "N N"]:
    """Which connections may enter a trigger: none that touches an excluded word, none between special tokens alone."""
    encoded = encode(tokenizer, text)
    special = torch.tensor([segment is None for segment in encoded.sequence_ids()])
    found = words_of(tokenizer, text, encoded.tokens())
    of_tokens = found["word_of"]
    closed = [found["words"][word].lower() in words or (of_tokens.count(word) > 1 and not word_pieces) for word in of_tokens]
    barred = torch.tensor(closed) & ~special
    return ~(barred[:, None] | barred | (special[:, None] & special))


def candidate(tokenizer: Tokenizer, att: Attribution, strength: Float[Tensor, "L H N N"], score: str) -> Trigger | None:
    """The trigger of one text from the values of its connections, -inf for those that may not be taken."""
    ranked = strongest_connections(strength, strength.numel())
    if not len(ranked) or ranked.score[0] <= 0:
        return None
    two = ranked[(ranked["layer"] == ranked["layer"][0]) & (ranked["head"] == ranked["head"][0])].head(2)
    taken = two[two.score >= SECOND * two.score[0]]
    encoded = encode(tokenizer, att.text)
    segments = encoded.sequence_ids()
    members = [place for place in sorted({*taken["query"], *taken["key"]}) if segments[place] is not None]
    value = float(taken.score.sum() if score == "top-two" else two.score[0])
    return Trigger(
        tokens=tuple(encoded.tokens()[place] for place in members),
        positions=tuple(segments[: place + 1].count(segments[place]) / segments.count(segments[place]) for place in members),
        segments=tuple(segments[place] for place in members),
        score=float(f"{value:.5g}"),  # the rest depends on the batch
        label=att.label,
    )


def insert(
    tokenizer: Tokenizer, text: Text, trigger: Trigger, limit: int, row: int = 0
) -> tuple[dict[str, list[int]], tuple[int, ...], bool]:
    """Put a trigger into a text, which may then have ``limit`` tokens: the model's inputs, the trigger's places, whether the text was cut.

    As in the authors' code, a token goes to place round(relative position · new length) of its segment, or to the next free one;
    positions are counted anew. A place that rounds to 0, in theirs outside the sentence, is the first here; and where they cut
    what is too long after the insertion, perhaps the trigger, here the longer segment of the text loses its last tokens before.

    Raises:
        ValueError: a token that the tokenizer does not know, or a special one; a segment that the text does not have; a
            trigger that leaves no room for the text.
    """
    encoded = encode(tokenizer, text, row)
    length = len(encoded["input_ids"])
    runs = [(segment, [place for place, _ in run]) for segment, run in groupby(enumerate(encoded.sequence_ids()), key=itemgetter(1))]
    own = {segment: run for segment, run in runs if segment is not None}
    new_ids = tokenizer.convert_tokens_to_ids(list(trigger.tokens))
    for token, number, segment in zip(trigger.tokens, new_ids, trigger.segments, strict=True):
        if number is None or number == tokenizer.unk_token_id or number in tokenizer.all_special_ids:
            raise ValueError(f"the tokenizer has no ordinary token {token!r}: expected one of its own, as it writes them")
        if segment not in own:
            raise ValueError(f"the trigger {trigger.tokens} has a token in segment {segment!r}, but the text has segments {list(own)}")
    surplus = length + len(new_ids) - limit
    if surplus > sum(map(len, own.values())) - len(own):
        raise ValueError(f"a trigger of {len(new_ids)} tokens leaves no room for a text: the model takes at most {limit} tokens")
    for _ in range(surplus):
        max(own.values(), key=len).pop()
    firsts = [own[segment][0] for segment in trigger.segments]  # a token of the trigger has the segment and mask of its neighbours
    for segment, run in own.items():
        new = sorted((position, length + t) for t, position in enumerate(trigger.positions) if trigger.segments[t] == segment)
        place, size = 0, len(run) + len(new)
        for position, entry in new:
            place = max(place + 1, round(size * position))
            run.insert(place - 1, entry)  # beyond the end, as the place before it was taken: at the end
    order = [entry for _, run in runs for entry in run]  # places in the text; from its length on, in the trigger
    columns = {name: [*values, *(values[place] for place in firsts)] for name, values in encoded.items()}
    columns["input_ids"] = [*encoded["input_ids"], *new_ids]
    moved = {name: [values[at] for at in order] for name, values in columns.items()}
    return moved, tuple(place for place, at in enumerate(order) if at >= length), surplus > 0


def attacked(model: Model, tokenizer: Tokenizer, texts: Sequence[Text], trigger: Trigger) -> tuple[Int[Tensor, " B"], int]:
    """The class predicted for each text with a trigger inserted, and how many had to be shortened."""
    limit = length_limit(model, tokenizer)
    found = [insert(tokenizer, text, trigger, limit, row) for row, text in enumerate(texts)]
    logits = forward(model, grouped(model, tokenizer, [columns for columns, _, _ in found]))
    return logits.argmax(-1), sum(shortened for _, _, shortened in found)


def predict_attacked(model: Model, tokenizer: Tokenizer, texts: Sequence[Text], trigger: Trigger) -> Int[Tensor, " B"]:
    """The class predicted for each text with a trigger inserted."""
    return attacked(model, tokenizer, texts, trigger)[0]


def attack(
    model: Model, tokenizer: Tokenizer, rows: Rows, trigger: Trigger, predicted: Int[Tensor, " B"] | None = None, **reading: Any
) -> Attack:
    """Insert a trigger into every row: accuracy of each class before and after, and the share of right answers that flip (§5.3, Table 2).

    Args:
        predicted: the classes predicted without the trigger, where they are known already.
        reading: how rows are read, as for `attattr.head_importance`.

    Raises:
        ValueError: no rows, an unknown label, a trigger that no row can hold (see `insert`).

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> rows = attattr.examples("sst2").select(range(8))
    >>> hit = attack(model, tokenizer, rows, Trigger(("never",), (0.5,), (0,), 0.0, "negative"))
    >>> sorted(hit.before) == sorted(hit.after)
    True
    """
    texts, labels = texts_and_labels(model, tokenizer, rows, **reading)
    then, shortened = attacked(model, tokenizer, texts, trigger)
    first = predict(model, tokenizer, texts).argmax(-1) if predicted is None else predicted
    return attack_of(class_names(model), torch.tensor(labels), first, then, shortened)


def attack_of(
    names: Sequence[str], gold: Int[Tensor, " B"], first: Int[Tensor, " B"], then: Int[Tensor, " B"], truncated: int = 0
) -> Attack:
    """The `Attack` that two lists of predictions for the same rows make."""
    parts: dict[str, dict[str, Any]] = {field.name: {} for field in fields(Attack) if field.name != "truncated"}
    for number, name in enumerate(names):
        right, still = (first == gold)[gold == number], (then == gold)[gold == number]
        if len(right):
            parts["rows"][name], parts["before"][name] = len(right), share(right)[0]
            parts["after"][name], parts["after_interval"][name] = share(still)
        if right.any():
            parts["flip_rate"][name], parts["flip_interval"][name] = share(~still[right])
    return Attack(**parts, truncated=truncated)


def share(hits: Bool[Tensor, " B"]) -> tuple[float, tuple[float, float]]:
    """The share of rows that are hits, and its 95 % interval, Wilson's."""
    found = binomtest(int(hits.sum()), len(hits))
    low, high = found.proportion_ci(0.95, "wilson")
    return float(found.statistic), (float(low), float(high))


def attribute_attacked(
    model: Model, tokenizer: Tokenizer, text: Text, trigger: Trigger, target: Any = "predicted", tolerance: float = 1e-2
) -> tuple[Attribution, tuple[int, ...]]:
    """`attattr.attribute` of a text with a trigger inserted, and the places of the trigger's tokens.

    Word pieces, too, stay where they were put: the text is not written and cut into tokens again.
    """
    (whole,), _ = check_texts([text])
    columns, places, _ = insert(tokenizer, whole, trigger, length_limit(model, tokenizer))
    runs = groupby(columns["input_ids"], key=set(tokenizer.all_special_ids).__contains__)
    written = tuple(tokenizer.decode(list(run)) for is_special, run in runs if not is_special)
    spelled: Text = written if isinstance(text, tuple) and len(written) == 2 else " ".join(written)
    given = grouped(model, tokenizer, [columns])
    (att,) = attribute_batches(model, tokenizer, given, [spelled], target, Options(rules_of(None, "auto"), tolerance))
    return att, places
