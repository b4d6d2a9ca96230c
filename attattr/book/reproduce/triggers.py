"""Adversarial triggers: mined in the training split, ranked on a selection of it, measured on the validation split (chapter 9).

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

from ...batches import Dataset, Text, Tokenizer, predict, texts_and_labels, texts_of
from ...data import examples, lexicon
from ...decision import class_names
from ...heads import prune_heads
from ...pretrained import load
from ...triggers import SHORTLIST, VALUES, Attack, Trigger, attack, attack_of, attribute_attacked, candidates, predict_attacked, shortlisted
from ..results import read_result, trigger_of
from .heads import grid_rows
from .running import Measured, Rows, Run, drawn, partial_file, resumable, rounded, sample

POOL = {"rte": 1500, "mrpc": 1500}  # rows of the training split where texts are long; elsewhere 3,000, as in the paper
SELECTION = 300
CHUNK = 50  # rows mined between two entries of the partial file
TOP = 3
DRAWS = 3  # of every random control
COMMON = 30  # how many of the most frequent words the control of frequent words draws from
GATED = (1, 2, 4, 8)  # heads that the defence closes


def pool_and_selection(run: Run) -> tuple[Dataset, Dataset]:
    """Two disjoint parts of the training split: where triggers are mined, and where they are ranked."""
    rows = sample(examples(run.task, source=run.data, split="train"), None, random.Random(run.seed))
    selection = min(SELECTION, len(rows) // 5)
    pool = range(selection, min(selection + POOL.get(run.task, 3000), len(rows)))
    return rows.select(pool), rows.select(range(selection))


def sentiment_words(run: Run) -> dict[str, frozenset[str]] | None:
    """For SST-2 the opinion lexicon, that of the data folder if it has one; the paper filters no other task."""
    if run.task != "sst2":
        return None
    folder = Path(run.data) / "lexicon"
    return lexicon(folder if folder.is_dir() else "own")


def table1(run: Run) -> Measured:
    """The candidates of up to 3,000 training rows, and what each does to the rows of a selection (the paper's Table 1, before any choice).

    By attribution, and, as a rival, by attention; the rows of the validation split are not touched.
    """
    model, tokenizer = load(run.task)
    pool, selection = pool_and_selection(run)
    words = sentiment_words(run)
    texts = texts_and_labels(model, pool)[0]

    def mine(job: tuple[str, int]) -> dict[str, Any]:
        values, at = job
        found = candidates(model, tokenizer, texts[at : at + CHUNK], values=values, exclude=words)
        return {"values": values, "found": [asdict(one) for one in found if one is not None]}

    jobs = [(values, at) for values in VALUES for at in range(0, len(texts), CHUNK)]
    lines = resumable(partial_file("table1", run, "pool"), f"table1 {run.task}: pool", jobs, mine)
    mined = {values: [trigger_of(one) for line in lines if line["values"] == values for one in line["found"]] for values in VALUES}
    names = class_names(model)
    tried = [(values, trigger) for values in VALUES for trigger in shortlisted(mined[values], names, SHORTLIST)]
    there, gold = texts_and_labels(model, selection)
    clean = predict(model, tokenizer, there).argmax(-1)

    def rank(job: tuple[int, tuple[str, Trigger]]) -> Rows:
        number, (values, trigger) = job
        hit = attack(model, tokenizer, selection, trigger, clean)
        return [
            {"candidate": number, "mined_by": values} | asdict(trigger) | row for row in class_rows(hit, ("rows", "accuracy", "flip_rate"))
        ]

    ranked = resumable(partial_file("table1", run, "selection"), f"table1 {run.task}: selection", list(enumerate(tried)), rank)
    whole = class_rows(attack_of(names, torch.tensor(gold), clean, clean), ("rows", "accuracy", "flip_rate"))
    counts = {values: len(found) for values, found in mined.items()}
    excluded = sum(map(len, words.values())) if words else 0
    about = {"pool": {"rows": len(texts), "candidates": counts, "excluded_words": excluded}}
    return [*whole, *(row for of_trigger in ranked for row in of_trigger)], about


def class_rows(hit: Attack, columns: Sequence[str]) -> Rows:
    """What an attack did to each class, as rows of a table with these columns."""
    rows = []
    for name in hit.rows:
        low, high = hit.after_interval[name]
        flip_low, flip_high = hit.flip_interval.get(name, (None, None))
        found = {"rows": hit.rows[name], "accuracy": rounded(hit.after[name]), "low": rounded(low), "high": rounded(high)}
        found |= {"flip_rate": rounded(hit.flip_rate.get(name)), "flip_low": rounded(flip_low), "flip_high": rounded(flip_high)}
        rows.append({"class": name} | {column: found[column] for column in columns})
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
    if mined.attrs["model"] != run.model:
        raise ValueError(f"{path} is of another model, {mined.attrs['model'][:12]}…: run `reproduce table1 --task {run.task}` again")
    return mined


def table2(run: Run) -> Measured:
    """Accuracy of each class under the triggers chosen against it, with the controls that the paper lacks (its Table 2).

    Controls, all at the same places in the same rows of the class: random words, frequent words; the same words in the same order
    at random places of the same segment, or in the other one; the best by attention; and the best three had they been chosen on
    the reported rows themselves.
    """
    model, tokenizer = load(run.task)
    mined = mined_before(run)
    names = class_names(model)
    reported = drawn(run)
    texts, labels = texts_and_labels(model, reported)
    clean = predict(model, tokenizer, texts).argmax(-1)
    common, any_word = vocabulary(tokenizer, texts_of(pool_and_selection(run)[0]))
    every = ("rows", "accuracy", "low", "high", "flip_rate", "flip_low", "flip_high")

    def everywhere(trigger: Trigger) -> Rows:
        rows = class_rows(attack(model, tokenizer, reported, trigger, clean), ("rows", "accuracy"))
        return [{"kind": "chosen on these rows", "draw": 0, "tokens": trigger.tokens} | row for row in rows]

    one_class = mined[(mined.mined_by == "attribution") & (mined["class"] == names[0])]
    by_attribution = [trigger_of(row) for row in one_class.to_dict("records")]
    of_all = resumable(partial_file("table2", run, "candidates"), f"table2 {run.task}: candidates", by_attribution, everywhere)
    there = [name for number, name in enumerate(names) if number in labels]
    on_these: Rows = []
    for against in there:
        best = sorted(of_all, key=lambda rows, name=against: next(row["accuracy"] for row in rows if row["class"] == name))[:TOP]  # type: ignore[misc]
        on_these += [{"against": against, "rank": rank} | row for rank, rows in enumerate(best, 1) for row in rows]

    jobs = [
        (name, rank, kind, draw)
        for name in there
        for rank in range(TOP)
        for kind in ("chosen", "by attention", "random words", "frequent words", "other places", "other segment")
        for draw in range(DRAWS if kind in ("random words", "frequent words", "other places") else 1)
        if kind != "other segment" or isinstance(texts[0], tuple)
    ]

    def control(job: tuple[str, int, str, int]) -> dict[str, Any]:
        name, rank, kind, draw = job
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
        (row,) = class_rows(attack(model, tokenizer, reported.select(index), trigger, clean[index]), every)
        about = asdict(trigger) if kind in ("chosen", "by attention") else {"tokens": trigger.tokens}
        return {"against": name, "rank": rank + 1, "kind": kind, "draw": draw} | row | about

    lines = resumable(partial_file("table2", run, "controls"), f"table2 {run.task}: controls", jobs, control)
    untouched = class_rows(attack_of(names, torch.tensor(labels), clean, clean), ("rows", "accuracy", "low", "high"))
    untouched = [{"against": row["class"], "kind": "no trigger", "draw": 0, "tokens": []} | row for row in untouched]
    return [*untouched, *on_these, *lines], {}


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
    counts: Counter[str] = Counter()
    for text in texts:
        for part in text if isinstance(text, tuple) else (text,):
            counts.update(token for token in tokenizer.tokenize(part) if token.isalpha())
    return [word for word, _ in counts.most_common(COMMON)], sorted(word for word, times in counts.items() if times >= 5)


def defence(run: Run) -> Measured:
    """Close the heads that carry the triggers: what is won under attack and lost without one (our own; not in the paper).

    Heads are ordered on the selection by their attribution to the first trigger of each class, for the wrong class that it
    brings about; accuracy is measured on the validation split, with random heads as the control. Rank 0 is accuracy without a trigger.
    """
    model, tokenizer = load(run.task)
    mined = mined_before(run)
    names = class_names(model)
    selection = pool_and_selection(run)[1]
    reported = drawn(run)
    texts, labels = texts_and_labels(model, reported)

    def carried(name: str) -> dict[str, Any]:
        trigger = chosen(mined, name)[0]
        there, gold = texts_and_labels(model, selection)
        own = [there[i] for i in of_class(gold, names.index(name))]
        flipped = predict_attacked(model, tokenizer, own, trigger) != names.index(name)
        of_texts = []
        for place in flipped.nonzero()[:20, 0].tolist():
            att, places = attribute_attacked(model, tokenizer, own[place], trigger, tolerance=5e-2)
            away = [token for token in range(len(att.tokens)) if token not in places]
            positive = att.scores.clamp_min(0)
            of_texts.append(positive.sum((-2, -1)) - positive[..., away, :][..., away].sum((-2, -1)))  # what touches the trigger
        return {"class": name, "texts": len(of_texts), "carried": torch.stack(of_texts).mean(0).tolist() if of_texts else None}

    lines = resumable(partial_file("defence", run, "heads"), f"defence {run.task}: heads", names, carried)
    carriers = [torch.tensor(line["carried"]) for line in lines if line["carried"] is not None]
    if not carriers:
        raise ValueError(f"no trigger flips a row of the selection of {run.task!r}: there is nothing to defend against")
    mean = torch.stack(carriers).mean(0)
    orders = {("carriers", 0): mean.flatten().argsort(descending=True).tolist()}
    for draw in range(DRAWS):
        orders["random", draw] = random.Random(run.seed + draw).sample(range(mean.numel()), mean.numel())
    jobs = [("carriers", 0, 0), *((*which, count) for count in GATED for which in orders)]

    def close(job: tuple[str, int, int]) -> Rows:
        order, draw, count = job
        heads = orders[order, draw][:count]
        keep = torch.ones(mean.numel(), dtype=torch.bool)
        keep[heads] = False
        common = {"measure": "accuracy", "order": order, "draw": draw, "closed": count}
        common["heads"] = [divmod(head, mean.shape[1]) for head in heads]
        rows: Rows = []
        with prune_heads(model, keep.reshape(mean.shape)):
            for number in sorted(set(labels)):
                own = [texts[i] for i in of_class(labels, number)]
                predictions = [predict(model, tokenizer, own).argmax(-1)]
                predictions += [predict_attacked(model, tokenizer, own, trigger) for trigger in chosen(mined, names[number])]
                for rank, predicted in enumerate(predictions):
                    share = rounded(float((predicted == number).double().mean()))
                    rows.append(common | {"class": names[number], "rank": rank, "value": share})
        return rows

    closed = resumable(partial_file("defence", run, "closed"), f"defence {run.task}: closed", jobs, close)
    carried_by = grid_rows({"measure": "carried"}, mean, "value")
    about = {"texts": len(texts), "flipped": {line["class"]: line["texts"] for line in lines}}
    return [*carried_by, *(row for rows in closed for row in rows)], about
