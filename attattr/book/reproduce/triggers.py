"""Adversarial triggers: mined in the training split, ranked on a selection of it, measured on the validation split (chapters 9 and 10).

Three disjoint sets of rows, where the paper seems to have chosen on those that it reports; what that flatters is measured too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas
import torch

from ...batches import Dataset, Model, Text, Tokenizer, predict, texts_and_labels, texts_of
from ...data import examples, lexicon
from ...decision import class_names
from ...heads import prune_heads
from ...triggers import (
    SHORTLIST,
    VALUES,
    Attack,
    Trigger,
    attack,
    attack_of,
    attribute_attacked,
    candidates,
    excluded,
    predict_attacked,
    shortlisted,
)
from ..results import read_result, trigger_of
from .heads import grid_rows
from .running import CHUNK, Measured, Rows, Run, drawn, resumable, rounded, sample

POOL = {"small": 3000, "base": 750}  # rows of the training split, 3,000 in the paper; the large model takes about 13 times as long
LONG = ("rte", "mrpc")  # tasks of long texts, where the pool is half of that
SELECTION = {"small": 300, "base": 150}
TOP = 3
DRAWS = 3  # of every random control
KINDS = {"chosen": 1, "by attention": 1, "random words": DRAWS, "frequent words": DRAWS, "other places": DRAWS, "other segment": 1}
COMMON = 30  # how many of the most frequent words the control of frequent words draws from
OVERLAPS = (0.0, 0.25, 0.5, 0.75)  # where the bands begin that tell pairs apart by the words that the second text takes from the first
GATED = (1, 2, 4, 8)  # heads that the defence closes
CARRYING = 20  # flipped texts of each class that say which


def pool_and_selection(run: Run) -> tuple[Dataset, Dataset]:
    """Two disjoint parts of the training split: where triggers are mined, and where they are ranked."""
    rows = sample(examples(run.task, source=run.data, split="train"), None, random.Random(run.seed))
    selection = min(SELECTION[run.size], len(rows) // 5)
    pool = range(selection, min(selection + POOL[run.size] // (2 if run.task in LONG else 1), len(rows)))
    return rows.select(pool), rows.select(range(selection))


def sentiment_words(run: Run) -> dict[str, frozenset[str]] | None:
    """For SST-2 the opinion lexicon, that of the data folder if it has one; the paper filters no other task."""
    if run.task != "sst2":
        return None
    folder = Path(run.data) / "lexicon"
    return lexicon(folder if folder.is_dir() else "own")


def table1(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """The candidates of up to 3,000 training rows, and what each does to the rows of a selection (the paper's Table 1, before any choice).

    By attribution, and, as a rival, by attention; the rows of the validation split are not touched.
    """
    pool, selection = pool_and_selection(run)
    words = sentiment_words(run)
    texts = texts_and_labels(model, tokenizer, pool)[0]

    def mine(values: str, at: int) -> Rows:
        found = candidates(model, tokenizer, texts[at : at + CHUNK], values=values, exclude=words)
        return [asdict(one) for one in found if one is not None]

    jobs = [(values, at) for values in VALUES for at in range(0, len(texts), CHUNK)]
    mined: dict[str, list[Trigger]] = {values: [] for values in VALUES}
    for (values, _), found in zip(jobs, resumable(run, "pool", jobs, mine), strict=True):
        mined[values] += map(trigger_of, found)
    names = class_names(model)
    tried = [(values, trigger) for values in VALUES for trigger in shortlisted(mined[values], names, SHORTLIST)]
    there, gold = texts_and_labels(model, tokenizer, selection)
    clean = predict(model, tokenizer, there).argmax(-1)

    def rank(values: str, trigger: Trigger) -> Rows:
        rows = class_rows(attack(model, tokenizer, selection, trigger, clean), "accuracy", "flip_rate")
        return [{"mined_by": values} | asdict(trigger) | row for row in rows]

    ranked = resumable(run, "selection", tried, rank)
    whole = class_rows(attack_of(names, torch.tensor(gold), clean, clean), "accuracy", "flip_rate")
    counts = {values: len(found) for values, found in mined.items()}
    excluded = sum(map(len, words.values())) if words else 0
    about = {"pool": {"rows": len(texts), "candidates": counts, "excluded_words": excluded}}
    return whole + [{"candidate": number} | row for number, rows in enumerate(ranked) for row in rows], about


def class_rows(hit: Attack, *columns: str) -> Rows:
    """What an attack did to each class, as rows of a table with these columns."""
    rows = []
    for name in hit.rows:
        low, high = hit.after_interval[name]
        flip_low, flip_high = hit.flip_interval.get(name, (None, None))
        found: dict[str, float | None] = {"accuracy": hit.after[name], "low": low, "high": high}
        found |= {"flip_rate": hit.flip_rate.get(name), "flip_low": flip_low, "flip_high": flip_high}
        rows.append({"class": name, "rows": hit.rows[name]} | {column: rounded(found[column]) for column in columns})
    return rows


def chosen(mined: pandas.DataFrame, name: str, values: str = "attribution") -> list[Trigger]:
    """The triggers that leave the least of a class's accuracy on the selection, the best first."""
    tried = mined[(mined.mined_by == values) & (mined["class"] == name)]
    if len(tried) < TOP:
        raise ValueError(f"table1 found {len(tried)} candidates by {values}: expected at least {TOP}; mine more rows")
    best = tried.sort_values(["accuracy", "score"], ascending=[True, False], kind="stable").head(TOP)
    return [trigger_of(row) for row in best.to_dict("records")]


def mined_before(run: Run) -> pandas.DataFrame:
    """What `table1` found, which the other results start from; it must be of the same model."""
    path = run.output / f"table1-{run.task}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: run `reproduce table1 --task {run.task}` first")
    mined = read_result(path)
    if mined.attrs["model"] != run.weights:
        raise ValueError(f"{path} is of another model, {mined.attrs['model'][:12]}…: run `reproduce table1 --task {run.task}` again")
    return mined


def table2(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """Accuracy of each class under the triggers chosen against it, with the controls that the paper lacks (its Table 2).

    Controls, all at the same places in the same rows of the class: random words, frequent words; the same words in the same order
    at random places of the same segment, or in the other one; the best by attention; and the best three had they been chosen on
    the reported rows themselves.
    """
    mined = mined_before(run)
    names = class_names(model)
    reported = drawn(run)
    texts, labels = texts_and_labels(model, tokenizer, reported)
    clean = predict(model, tokenizer, texts).argmax(-1)
    common, any_word = vocabulary(tokenizer, texts_of(pool_and_selection(run)[0]))
    hit = attack_of(names, torch.tensor(labels), clean, clean)
    none = {"kind": "no trigger", "draw": 0, "tokens": []}
    untouched = [{"against": row["class"]} | none | row for row in class_rows(hit, "accuracy", "low", "high")]

    def everywhere(trigger: Trigger) -> dict[str, dict[str, Any]]:
        rows = class_rows(attack(model, tokenizer, reported, trigger, clean), "accuracy")
        return {row["class"]: {"kind": "chosen on these rows", "draw": 0, "tokens": trigger.tokens} | row for row in rows}

    one_class = mined[(mined.mined_by == "attribution") & (mined["class"] == names[0])]
    of_all = resumable(run, "candidates", [(trigger_of(row),) for row in one_class.to_dict("records")], everywhere)
    on_these: Rows = []
    for against in hit.rows:
        best = sorted(of_all, key=lambda rows: rows[against]["accuracy"])[:TOP]
        on_these += [{"against": against, "rank": rank} | row for rank, rows in enumerate(best, 1) for row in rows.values()]

    kinds = {kind: draws for kind, draws in KINDS.items() if kind != "other segment" or isinstance(texts[0], tuple)}
    jobs = [(name, rank, kind, draw) for name in hit.rows for rank in range(TOP) for kind in kinds for draw in range(kinds[kind])]

    def control(name: str, rank: int, kind: str, draw: int) -> dict[str, Any]:
        generator = random.Random(f"{run.seed} {name} {rank} {kind} {draw}")
        trigger = chosen(mined, name, "attention" if kind == "by attention" else "attribution")[rank]
        words = {"random words": any_word, "frequent words": common}.get(kind)
        if words:
            trigger = replace(trigger, tokens=tuple(generator.choices(words, k=len(trigger.tokens))))
        if kind == "other places":
            trigger = elsewhere(trigger, generator)
        if kind == "other segment":
            trigger = replace(trigger, segments=tuple(1 - segment for segment in trigger.segments))
        index = of_class(labels, names.index(name))
        of_trigger = attack(model, tokenizer, reported.select(index), trigger, clean[index])
        (row,) = class_rows(of_trigger, "accuracy", "low", "high", "flip_rate", "flip_low", "flip_high")
        about = asdict(trigger) if kind in ("chosen", "by attention") else {"tokens": trigger.tokens}
        return {"against": name, "rank": rank + 1, "kind": kind, "draw": draw} | row | about

    return [*untouched, *on_these, *resumable(run, "controls", jobs, control)], {}


def controls(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """What `table2` leaves open: random triggers that were chosen as the mined ones were, the order of the words, word matching.

    Every candidate of `table1` has a random twin: as many words of the pool at the same places, for SST-2 none of sentiment. The
    twins are ranked on the selection, and with them the candidates by attribution with their words in reverse order. On the reported
    rows: the three chosen against each class, as they are, in reverse order, and with their words in both texts of a pair; and the
    three twins chosen, of the candidates by attribution and of those by attention. Of pairs, once more by the overlap of the texts.
    """
    mined = mined_before(run)
    names = class_names(model)
    pool, selection = pool_and_selection(run)
    lexicon_words = excluded(sentiment_words(run))
    words = [word for word in vocabulary(tokenizer, texts_of(pool))[1] if word not in lexicon_words]
    one_class = mined[mined.candidate.notna() & (mined["class"] == names[0])].to_dict("records")
    tried = [("random words", row["mined_by"], int(row["candidate"]), twin(run, row, words)) for row in one_class]
    own = [row for row in one_class if row["mined_by"] == "attribution" and backwards(trigger_of(row)) != trigger_of(row)]
    tried += [("other order", row["mined_by"], int(row["candidate"]), backwards(trigger_of(row))) for row in own]
    there = predict(model, tokenizer, texts_of(selection)).argmax(-1)

    def rank(kind: str, values: str, candidate: int, trigger: Trigger) -> Rows:
        about = {"measure": "selection", "kind": kind, "mined_by": values, "candidate": candidate} | asdict(trigger)
        return [about | row for row in class_rows(attack(model, tokenizer, selection, trigger, there), "accuracy", "flip_rate")]

    ranked = [row for rows in resumable(run, "twins", tried, rank) for row in rows]
    twins = pandas.DataFrame([row for row in ranked if row["kind"] == "random words"])
    texts, labels = texts_and_labels(model, tokenizer, drawn(run))
    clean = predict(model, tokenizer, texts).argmax(-1)
    pairs = isinstance(texts[0], tuple)
    bands = [overlap_band(tokenizer, text) if isinstance(text, tuple) else None for text in texts]
    kinds = [("no trigger", None), ("chosen", "attribution"), *(("random words", values) for values in VALUES)]
    kinds += [("other order", "attribution"), *([("both texts", "attribution")] if pairs else [])]
    changed = {"other order": backwards, "both texts": in_both}
    present = [name for number, name in enumerate(names) if number in labels]
    jobs = [(name, kind, values, rank) for name in present for kind, values in kinds for rank in range(TOP if values else 1)]

    def measure(name: str, kind: str, values: str | None, rank: int) -> Rows:
        index = of_class(labels, names.index(name))
        about: dict[str, Any] = {"measure": "reported", "against": name, "rank": rank + 1, "kind": kind, "mined_by": values}
        then = clean[index]
        if values:
            trigger = chosen(twins if kind == "random words" else mined, name, values)[rank]
            other = changed.get(kind, replace)(trigger)
            if kind in changed and other == trigger:
                return []  # a single word has no order
            about |= asdict(other)
            then = predict_attacked(model, tokenizer, [texts[i] for i in index], other)
        rows: Rows = []
        for band in (None, *OVERLAPS) if pairs else (None,):
            within = [n for n, i in enumerate(index) if band in (None, bands[i])]
            hit = attack_of(names, torch.tensor(labels)[index][within], clean[index][within], then[within])
            found = class_rows(hit, "accuracy", "low", "high", "flip_rate", "flip_low", "flip_high")
            rows += [about | {"overlap": band} | row for row in found]
        return rows

    measured = resumable(run, "reported", jobs, measure)
    return ranked + [row for rows in measured for row in rows], {"words": len(words)}


def twin(run: Run, row: dict[str, Any], words: Sequence[str]) -> Trigger:
    """A candidate's places, with words drawn by chance; one that stands twice in the candidate stands twice here."""
    generator = random.Random(f"{run.seed} twin {row['candidate']:.0f}")
    drawn_for = {token: generator.choice(words) for token in dict.fromkeys(row["tokens"])}
    return replace(trigger_of(row), tokens=tuple(drawn_for[token] for token in row["tokens"]))


def backwards(trigger: Trigger) -> Trigger:
    """The same places, with the words of each segment in reverse order."""
    tokens = list(trigger.tokens)
    for segment in set(trigger.segments):
        own = sorted((t for t, at in enumerate(trigger.segments) if at == segment), key=lambda t: trigger.positions[t])
        for place, word in zip(own, reversed(own), strict=True):
            tokens[place] = trigger.tokens[word]
    return replace(trigger, tokens=tuple(tokens))


def in_both(trigger: Trigger) -> Trigger:
    """The same words at the same places of both texts of a pair; as it is if both have them all."""
    places = dict(zip(zip(trigger.tokens, trigger.segments, strict=True), trigger.positions, strict=True))
    mirrored = {(token, 1 - segment): position for (token, segment), position in places.items()} | places
    if len(mirrored) == len(places):
        return trigger
    tokens, segments = zip(*mirrored, strict=True)
    return replace(trigger, tokens=tokens, positions=tuple(mirrored.values()), segments=segments)


def overlap_band(tokenizer: Tokenizer, pair: tuple[str, str]) -> float:
    """The band of a pair: where the share of the second text's different tokens that the first has, too, lies; without punctuation."""
    first, second = ({token for token in tokenizer.tokenize(part) if token.lstrip("#").isalnum()} for part in pair)
    share = len(first & second) / max(len(second), 1)
    return max(least for least in OVERLAPS if least <= share)


def elsewhere(trigger: Trigger, generator: random.Random) -> Trigger:
    """The same words at random places of their segments, in the same order."""
    order = sorted(range(len(trigger.tokens)), key=lambda t: trigger.positions[t])
    places = sorted(generator.random() for _ in order)
    return replace(trigger, positions=tuple(places[order.index(t)] for t in range(len(order))))


def of_class(labels: Sequence[int], label: int) -> list[int]:
    """Which rows have the label."""
    return [i for i, own in enumerate(labels) if own == label]


def vocabulary(tokenizer: Tokenizer, texts: Sequence[Text]) -> tuple[list[str], list[str]]:
    """The most frequent whole words of some texts, and every one that occurs five times or more."""
    parts = [part for text in texts for part in (text if isinstance(text, tuple) else (text,))]
    counts = Counter(token for part in parts for token in tokenizer.tokenize(part) if token.isalpha())
    return [word for word, _ in counts.most_common(COMMON)], sorted(word for word, times in counts.items() if times >= 5)


def defence(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """Close the heads that carry the triggers: what is won under attack and lost without one (our own; not in the paper).

    Heads are ordered on the selection by their attribution to the first trigger of each class, for the wrong class that it
    brings about; accuracy is measured on the validation split, with random heads as the control, and once more on the selection,
    where the number of heads can be chosen. Rank 0 is accuracy without a trigger.
    """
    mined = mined_before(run)
    names = class_names(model)
    selected, gold = texts_and_labels(model, tokenizer, pool_and_selection(run)[1])
    texts, labels = texts_and_labels(model, tokenizer, drawn(run))
    measured_on = {"accuracy": (texts, labels), "accuracy on the selection": (selected, gold)}

    flipped: list[tuple[str, Text]] = []
    for number, name in enumerate(names):
        own = [selected[i] for i in of_class(gold, number)]
        places = (predict_attacked(model, tokenizer, own, chosen(mined, name)[0]) != number).nonzero()[:CARRYING, 0].tolist()
        flipped += [(name, own[place]) for place in places]
    if not flipped:
        raise ValueError(f"no trigger flips a row of the selection of {run.task!r}: there is nothing to defend against")

    def carried(name: str, text: Text) -> list[Any]:
        att, places = attribute_attacked(model, tokenizer, text, chosen(mined, name)[0], tolerance=5e-2)
        away = [token for token in range(len(att.tokens)) if token not in places]
        positive = att.scores.clamp_min(0)
        return (positive.sum((-2, -1)) - positive[..., away, :][..., away].sum((-2, -1))).tolist()  # what touches it

    lines = resumable(run, "heads", flipped, carried)
    of_classes = {name: [line for (own, _), line in zip(flipped, lines, strict=True) if own == name] for name in names}
    mean = torch.stack([torch.tensor(values).mean(0) for values in of_classes.values() if values]).mean(0)
    orders = {("carriers", 0): mean.flatten().argsort(descending=True).tolist()}
    for draw in range(DRAWS):
        orders["random", draw] = random.Random(run.seed + draw).sample(range(mean.numel()), mean.numel())
    jobs = [("carriers", 0, 0), *((*which, count) for count in GATED for which in orders)]

    def close(order: str, draw: int, count: int) -> Rows:
        heads = orders[order, draw][:count]
        keep = torch.tensor([head not in heads for head in range(mean.numel())])
        common = {"order": order, "draw": draw, "closed": count, "heads": [divmod(head, mean.shape[1]) for head in heads]}
        rows: Rows = []
        with prune_heads(model, keep.reshape(mean.shape)):
            for measure, (given, known) in measured_on.items():
                for number in sorted(set(known)):
                    own = [given[i] for i in of_class(known, number)]
                    predictions = [predict(model, tokenizer, own).argmax(-1)]
                    predictions += [predict_attacked(model, tokenizer, own, trigger) for trigger in chosen(mined, names[number])]
                    for rank, predicted in enumerate(predictions):
                        share = rounded(float((predicted == number).double().mean()))
                        rows.append(common | {"measure": measure, "class": names[number], "rank": rank, "value": share})
        return rows

    closed = resumable(run, "closed", jobs, close)
    about = {"texts": len(texts), "flipped": {name: len(values) for name, values in of_classes.items()}}
    return grid_rows({"measure": "carried"}, value=mean) + [row for rows in closed for row in rows], about
