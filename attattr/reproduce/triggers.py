"""Adversarial triggers: mined in the training split, ranked on a selection of it, measured on the validation split (chapter 9).

Three disjoint sets of rows, where the paper seems to have chosen on those that it reports; what that flatters is measured too.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..attribution import class_names
from ..data import examples, lexicon, texts
from ..encoding import Text, length_limit
from ..heads import checked_rows, prune_heads
from ..pretrained import load
from ..triggers import SHORTLIST, VALUES, Trigger, attribute_attacked, candidates, compared, insert, predicted, shortlisted
from .running import Run, partial_file, resumable

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POOL = {"rte": 1500, "mrpc": 1500}  # rows of the training split where texts are long; elsewhere 3,000, as in the paper
SELECTION = 300
CHUNK = 50  # rows mined between two entries of the partial file
TOP = 3
DRAWS = 3  # of every random control
COMMON = 30  # how many of the most frequent words the control of frequent words draws from
GATED = (1, 2, 4, 8)  # heads that the defence closes


def pool_and_selection(run: Run) -> tuple[Dataset, Dataset]:
    """Two disjoint parts of the training split: where triggers are mined, and where they are ranked."""
    rows = examples(run.task, source=run.data, split="train")
    order = random.Random(run.seed).sample(range(len(rows)), len(rows))
    selection = min(SELECTION, len(rows) // 5)
    return rows.select(order[selection : selection + POOL.get(run.task, 3000)]), rows.select(order[:selection])


def sentiment_words(run: Run) -> dict[str, frozenset[str]] | None:
    """For SST-2 the opinion lexicon, that of the data folder if it has one; the paper filters no other task."""
    if run.task != "sst2":
        return None
    folder = Path(run.data) / "lexicon"
    return lexicon(folder if folder.is_dir() else "own")


def table1(run: Run) -> dict[str, Any]:
    """The candidates of up to 3,000 training rows, and what each does to the rows of a selection (the paper's Table 1, before any choice).

    By attribution, and, as a rival, by attention; the rows of the validation split are not touched.
    """
    model, tokenizer = load(run.task)
    pool, selection = pool_and_selection(run)
    words = sentiment_words(run)
    shown = checked_rows(model, pool)[0]

    def mine(job: tuple[str, int]) -> dict[str, Any]:
        values, at = job
        found = candidates(model, tokenizer, shown[at : at + CHUNK], values=values, exclude=words)
        return {"values": values, "found": [asdict(one) for one in found if one is not None]}

    jobs = [(values, at) for values in VALUES for at in range(0, len(shown), CHUNK)]
    lines = resumable(partial_file("table1", run, "pool"), f"table1 {run.task}: pool", jobs, mine)
    names = class_names(model)
    tried = [
        (values, trigger)
        for values in VALUES
        for trigger in shortlisted([read(one) for line in lines if line["values"] == values for one in line["found"]], names, SHORTLIST)
    ]
    texts_there, labels = checked_rows(model, selection)
    clean = predicted(model, tokenizer, texts_there)

    def rank(job: tuple[str, Trigger]) -> dict[str, Any]:
        values, trigger = job
        hit = compared(names, torch.tensor(labels), clean, predicted(model, tokenizer, texts_there, trigger))
        return {"values": values} | asdict(trigger) | {"accuracy": shares(hit.after), "flip_rate": shares(hit.flip_rate)}

    ranked = resumable(partial_file("table1", run, "selection"), f"table1 {run.task}: selection", tried, rank)
    before = compared(names, torch.tensor(labels), clean, clean)
    mined = {values: sum(len(line["found"]) for line in lines if line["values"] == values) for values in VALUES}
    return {
        "pool": {"rows": len(shown), "candidates": mined, "excluded_words": sum(map(len, words.values())) if words else 0},
        "selection": {"rows": before.rows, "accuracy": shares(before.before)},
        "candidates": ranked,
    }


def read(line: dict[str, Any]) -> Trigger:
    """A trigger from a line of JSON."""
    return Trigger(tuple(line["tokens"]), tuple(line["positions"]), tuple(line["segments"]), line["score"], line["label"])


def shares(of_class: dict[str, float]) -> dict[str, float]:
    """Shares to four digits."""
    return {name: round(share, 4) for name, share in of_class.items()}


def chosen(mined: dict[str, Any], name: str, values: str = "attribution") -> list[Trigger]:
    """The triggers that leave the least of a class's accuracy on the selection, the best first."""
    tried = [line for line in mined["candidates"] if line["values"] == values]
    if len(tried) < TOP:
        raise ValueError(f"table1 found {len(tried)} candidates by {values}: expected at least {TOP}; mine more rows")
    return [read(line) for line in sorted(tried, key=lambda line: (line["accuracy"][name], -line["score"]))[:TOP]]


def mined_before(run: Run) -> dict[str, Any]:
    """What `table1` found, which the other results start from; it must be of the same model."""
    path = run.output / f"table1-{run.task}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: run `reproduce table1 --task {run.task}` first")
    mined = json.loads(path.read_text(encoding="utf-8"))
    if mined["provenance"]["model"] != run.model:
        raise ValueError(
            f"{path} is of another model, {mined['provenance']['model'][:12]}…: run `reproduce table1 --task {run.task}` again"
        )
    return mined


def table2(run: Run) -> dict[str, Any]:
    """Accuracy of each class under the triggers chosen against it, with the controls that the paper lacks (its Table 2).

    Controls, all at the same places in the same rows of the class: random words, frequent words; the same words in the same order
    at random places of the same segment, or in the other one; the best by attention; and the best three had they been chosen on
    the reported rows themselves.
    """
    model, tokenizer = load(run.task)
    mined = mined_before(run)
    names = class_names(model)
    shown, labels = reported(run, model)
    gold = torch.tensor(labels)
    clean = predicted(model, tokenizer, shown)
    common, any_word = vocabulary(tokenizer, texts(pool_and_selection(run)[0]))
    pairs = isinstance(shown[0], tuple)

    def measured(trigger: Trigger, index: Sequence[int]) -> dict[str, Any]:
        then = predicted(model, tokenizer, [shown[i] for i in index], trigger)
        hit = compared(names, gold[list(index)], clean[list(index)], then)
        parts: dict[str, dict[str, Any]] = {
            "after": hit.after,
            "after_interval": hit.after_interval,
            "flip_rate": hit.flip_rate,
            "flip_interval": hit.flip_interval,
        }
        return {name: {part: rounded(values[name]) for part, values in parts.items() if name in values} for name in hit.rows}

    def everywhere(line: dict[str, Any]) -> dict[str, Any]:
        after = measured(read(line), range(len(shown)))
        return {"tokens": line["tokens"]} | {name: found["after"] for name, found in after.items()}

    by_attribution = [line for line in mined["candidates"] if line["values"] == "attribution"]
    all_lines = resumable(partial_file("table2", run, "candidates"), f"table2 {run.task}: candidates", by_attribution, everywhere)

    jobs = [
        (name, rank, kind, draw)
        for name in names
        for rank in range(TOP)
        for kind in ("chosen", "by attention", "random words", "frequent words", "other places", "other segment")
        for draw in range(DRAWS if kind in ("random words", "frequent words", "other places") else 1)
        if kind != "other segment" or pairs
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
        found = {"class": name, "rank": rank + 1, "kind": kind, "draw": draw} | measured(trigger, of_class(labels, names.index(name)))[name]
        return found | ({"trigger": asdict(trigger)} if kind in ("chosen", "by attention") else {"words": list(trigger.tokens)})

    lines = resumable(partial_file("table2", run, "controls"), f"table2 {run.task}: controls", jobs, control)
    before = compared(names, gold, clean, clean)
    return {
        "rows": before.rows,
        "baseline": {
            name: {"accuracy": rounded(before.before[name]), "interval": rounded(before.after_interval[name])} for name in before.rows
        },
        "chosen_on_reported_rows": {name: sorted(all_lines, key=lambda line: line[name])[:TOP] for name in before.rows},
        "measured": lines,
    }


def elsewhere(trigger: Trigger, generator: random.Random) -> Trigger:
    """The same words at random places of their segments, in the same order."""
    order = sorted(range(len(trigger.tokens)), key=lambda t: trigger.positions[t])
    places = sorted(generator.random() for _ in order)
    return replace(trigger, positions=tuple(places[order.index(t)] for t in range(len(order))))


def of_class(labels: Sequence[int], label: int) -> list[int]:
    """Which rows have the label."""
    return [i for i, own in enumerate(labels) if own == label]


def rounded(value: Any) -> Any:
    """A share, or an interval of shares, to four digits."""
    return round(value, 4) if isinstance(value, float) else [round(end, 4) for end in value]


def reported(run: Run, model: PreTrainedModel) -> tuple[list[Text], list[int]]:
    """Rows of the validation split, and their labels."""
    rows = examples(run.task, source=run.data)
    return checked_rows(model, rows.select(random.Random(run.seed).sample(range(len(rows)), run.rows or len(rows))))


def vocabulary(tokenizer: PreTrainedTokenizerBase, shown: Sequence[Text]) -> tuple[list[str], list[str]]:
    """The most frequent whole words of some texts, and every one that occurs five times or more."""
    counts: Counter[str] = Counter()
    for text in shown:
        for part in text if isinstance(text, tuple) else (text,):
            counts.update(token for token in tokenizer.tokenize(part) if token.isalpha())
    return [word for word, _ in counts.most_common(COMMON)], sorted(word for word, times in counts.items() if times >= 5)


def defence(run: Run) -> dict[str, Any]:
    """Close the heads that carry the triggers: what is won under attack and lost without one (our own; not in the paper).

    Heads are ordered on the selection by their attribution to the first trigger of each class, for the wrong class that it
    brings about; accuracy is measured on the validation split, with random heads as the control.
    """
    model, tokenizer = load(run.task)
    mined = mined_before(run)
    names = class_names(model)
    selection, gold_there = checked_rows(model, pool_and_selection(run)[1])
    shown, labels = reported(run, model)
    there = [name for number, name in enumerate(names) if number in labels]

    def carried(name: str) -> dict[str, Any]:
        trigger = chosen(mined, name)[0]
        index = of_class(gold_there, names.index(name))
        flipped = predicted(model, tokenizer, [selection[i] for i in index], trigger) != names.index(name)
        total: Tensor | float = 0.0
        hits = [i for i, wrong in zip(index, flipped.tolist(), strict=True) if wrong][:20]
        for i in hits:
            att = attribute_attacked(model, tokenizer, selection[i], trigger, tolerance=5e-2)
            own = torch.zeros(len(att.tokens), dtype=torch.bool)
            own[list(insert(tokenizer, selection[i], trigger, length_limit(model, tokenizer)).places)] = True
            total = total + (att.scores.clamp_min(0) * (own[:, None] | own[None])).sum((-2, -1))
        return {"class": name, "texts": len(hits), "carried": (total / len(hits)).tolist() if isinstance(total, Tensor) else None}

    lines = resumable(partial_file("defence", run, "heads"), f"defence {run.task}: heads", names, carried)
    carriers = [torch.tensor(line["carried"]) for line in lines if line["carried"] is not None]
    if not carriers:
        raise ValueError(f"no trigger flips a row of the selection of {run.task!r}: there is nothing to defend against")
    mean = torch.stack(carriers).mean(0)
    orders = {"carriers": mean.flatten().argsort(descending=True).tolist()}
    for draw in range(DRAWS):
        orders[f"random {draw}"] = random.Random(run.seed + draw).sample(range(mean.numel()), mean.numel())
    jobs = [("carriers", 0)] + [(order, count) for count in GATED for order in orders]

    def close(job: tuple[str, int]) -> dict[str, Any]:
        order, count = job
        keep = torch.ones(mean.numel(), dtype=torch.bool)
        keep[orders[order][:count]] = False
        attacked = {}
        with prune_heads(model, keep.reshape(mean.shape)):
            right = predicted(model, tokenizer, shown) == torch.tensor(labels)
            for name in there:
                own = [shown[i] for i in of_class(labels, names.index(name))]
                hits = [predicted(model, tokenizer, own, trigger) == names.index(name) for trigger in chosen(mined, name)]
                attacked[name] = [rounded(float(hit.double().mean())) for hit in hits]
        clean = {name: rounded(float(right[of_class(labels, names.index(name))].double().mean())) for name in there}
        heads = [divmod(head, mean.shape[1]) for head in orders[order][:count]]
        return {"order": order, "closed": count, "heads": heads, "clean": clean, "attacked": attacked}

    closed = resumable(partial_file("defence", run, "closed"), f"defence {run.task}: closed", jobs, close)
    carried_by = [[float(f"{value:.3g}") for value in row] for row in mean.tolist()]
    return {"texts": len(shown), "carried": carried_by, "of_class": {line["class"]: line["texts"] for line in lines}, "closed": closed}
