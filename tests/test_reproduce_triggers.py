"""Tables 1 and 2 with the model replaced by a rule: who is chosen on which rows, what the controls change, and going on after a kill."""

import json
import random
from dataclasses import asdict

import pytest
import torch

from attattr.batches import texts_of
from attattr.book.reproduce import Run, reproduce, triggers
from attattr.book.results import read_result, result, trigger_of
from attattr.triggers import Trigger, attack_of

WORDS = ["river", "stone", "ladder", "window", "garden", "copper", "engine", "basket"]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "SST-2"
    folder.mkdir()
    for name, count in (("train.tsv", 60), ("dev.tsv", 20)):
        rows = [f"{name[0]}{n} {WORDS[n % 8]} and {WORDS[n % 5]} .\t{('negative', 'positive')[n % 2]}" for n in range(count)]
        (folder / name).write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    return Run(task="sst2", data=tmp_path, rows=None, seed=0, output=tmp_path / "results")


@pytest.fixture
def asked(monkeypatch):
    """Every text mined or predicted. A trigger of the word number k flips positive rows if their own number is a multiple of k + 1."""
    seen = {"mined": [], "predicted": [], "killed": False}

    def candidates(model, tokenizer, shown, values="attribution", exclude=None):
        assert exclude is not None  # SST-2 goes by the lexicon
        seen["mined"] += shown
        if len(seen["mined"]) == 20 and not seen["killed"]:
            seen["killed"] = True
            raise KeyboardInterrupt
        word = WORDS[len(seen["mined"]) // 10 % 8]
        label = ("negative", "positive")[len(seen["mined"]) // 10 % 2]
        return [None] * (len(shown) - 1) + [Trigger((word,), (0.5,), (0,), 0.1 if values == "attribution" else 1.0, label)]

    def decided(texts, trigger=None):
        seen["predicted"].append((trigger, list(texts)))
        number = [int(text.split()[0][1:]) for text in texts]
        flips = WORDS.index(trigger.tokens[0]) + 1 if trigger and trigger.tokens[0] in WORDS else 0
        return torch.tensor([0 if n % 2 and flips and n % flips == 0 else n % 2 for n in number])

    def attack(model, tokenizer, rows, trigger, predicted):
        return attack_of(["negative", "positive"], torch.tensor(rows["label"]), predicted, decided(texts_of(rows), trigger))

    monkeypatch.setattr(triggers, "candidates", candidates)
    monkeypatch.setattr(triggers, "predict", lambda model, tokenizer, texts: torch.nn.functional.one_hot(decided(texts), 2))
    monkeypatch.setattr(triggers, "predict_attacked", lambda model, tokenizer, texts, trigger: decided(texts, trigger))
    monkeypatch.setattr(triggers, "attack", attack)
    monkeypatch.setattr(triggers, "CHUNK", 10)
    monkeypatch.setattr(triggers, "SELECTION", 10)
    return seen


def test_three_disjoint_sets_of_rows_and_a_kill(run, asked):
    with pytest.raises(KeyboardInterrupt):
        reproduce("table1", run)
    mined = read_result(reproduce("table1", run))
    pool = set(asked["mined"])
    assert len(asked["mined"]) == 2 * 50 + 10  # by attribution and by attention; ten once more, which the kill had lost
    assert len(pool) == 50
    tried = {text for _, texts in asked["predicted"] for text in texts}
    assert len(tried) == 10
    assert not tried & pool
    assert mined.attrs["pool"]["rows"] == 50
    assert set(mined.mined_by.dropna()) == {"attribution", "attention"}
    assert set(mined[mined.mined_by.isna()].accuracy) == {1.0}  # without a trigger

    asked["predicted"].clear()
    found = read_result(reproduce("table2", run))
    texts = {text for _, texts in asked["predicted"] for text in texts}
    assert all(text.startswith("d") for text in texts)
    own = mined[(mined.mined_by == "attribution") & (mined["class"] == "positive")]
    best = own.sort_values("accuracy", kind="stable").iloc[0]
    of_positive = found[(found.against == "positive") & (found["class"] == "positive")]
    first = of_positive[(of_positive["rank"] == 1) & (of_positive.kind == "chosen")].iloc[0]
    assert first.tokens == best.tokens  # chosen on the selection, not on what is reported
    size = WORDS.index(best.tokens[0]) + 1
    positive = range(1, 20, 2)
    assert first.accuracy == pytest.approx(sum(n % size > 0 for n in positive) / 10)
    assert set(of_positive[of_positive.kind == "no trigger"].accuracy) == {1.0}
    flattered = of_positive[of_positive.kind == "chosen on these rows"].accuracy.min()
    assert flattered == min(sum(n % (WORDS.index(tokens[0]) + 1) > 0 for n in positive) / 10 for tokens in own.tokens)
    assert flattered <= first.accuracy


def test_controls_change_one_thing_each(run, asked):
    asked["killed"] = True
    reproduce("table1", run)
    asked["predicted"].clear()
    found = read_result(reproduce("table2", run))
    kinds = {"chosen", "by attention", "random words", "frequent words", "other places"}  # one sentence: no other segment
    assert set(found.kind) == kinds | {"no trigger", "chosen on these rows"}
    own = found[(found.against == "positive") & found.kind.isin(kinds)]
    assert (own.kind == "random words").sum() == triggers.TOP * triggers.DRAWS
    chosen = {line["rank"]: line for line in own[own.kind == "chosen"].to_dict("records")}
    used = {(trigger.tokens, trigger.positions) for trigger, _ in asked["predicted"] if trigger is not None}
    for line in own[own.kind.isin(("random words", "frequent words"))].to_dict("records"):
        assert (tuple(line["tokens"]), tuple(chosen[line["rank"]]["positions"])) in used
    for line in own[own.kind == "other places"].to_dict("records"):
        assert line["tokens"] == chosen[line["rank"]]["tokens"]
    moved = [positions for tokens, positions in used if list(tokens) == chosen[1]["tokens"] and positions != (0.5,)]
    assert len(set(moved)) >= triggers.DRAWS


def test_results_that_start_from_table1_want_it_and_of_the_same_model(run, asked):
    with pytest.raises(FileNotFoundError, match="run `reproduce table1 --task sst2` first"):
        reproduce("table2", run)
    asked["killed"] = True
    path = reproduce("table1", run)
    mined = json.loads(path.read_text())
    mined["provenance"]["model"] = "another"
    path.write_text(json.dumps(mined))
    with pytest.raises(ValueError, match="is of another model, another"):
        reproduce("defence", run)


def test_the_defence_closes_the_heads_that_carry(run, asked, monkeypatch):
    asked["killed"] = True
    reproduce("table1", run)
    closed = []

    class Carried:
        tokens = ("[CLS]", "river", "other")
        scores = torch.zeros(6, 12, 3, 3)

    Carried.scores[2, 7, 0, 1] = 0.5  # to the trigger
    Carried.scores[3, 3, 0, 2] = 0.9  # not to the trigger
    Carried.scores[4, 1, 1, 2] = -0.9  # against the decision
    monkeypatch.setattr(triggers, "attribute_attacked", lambda *_, **__: (Carried, (1,)))
    monkeypatch.setattr(triggers, "chosen", lambda *_: [Trigger(("river",), (0.5,), (0,), 0.1, "negative")] * 3)
    real = triggers.prune_heads
    monkeypatch.setattr(triggers, "prune_heads", lambda model, keep: (closed.append((~keep).nonzero().tolist()), real(model, keep))[1])
    path = reproduce("defence", run)
    found = read_result(path, "accuracy")
    assert found.closed[0] == 0
    first = found[(found.order == "carriers") & (found.closed == 1)]
    assert first.heads.tolist() == [[[2, 7]]] * 2 * (1 + triggers.TOP)
    assert [[2, 7]] in closed
    assert set(zip(found.order, found.draw, strict=True)) == {("carriers", 0), ("random", 0), ("random", 1), ("random", 2)}
    assert set(first[first["rank"] == 0].value) == {1.0}  # without a trigger
    assert sorted(first[first["class"] == "positive"]["rank"]) == list(range(triggers.TOP + 1))
    carried = read_result(path, "carried")
    assert len(carried) == 72
    assert carried.loc[carried.value.idxmax(), ["layer", "head"]].tolist() == [2, 7]


def test_a_trigger_survives_json():
    trigger = Trigger(("with", "math"), (0.5, 1.0), (1, 1), 0.25, "neutral")
    assert trigger_of(json.loads(json.dumps(asdict(trigger)))) == trigger


def test_other_places_keep_the_order_of_the_words():
    trigger = Trigger(("c", "a", "b"), (0.9, 0.1, 0.5), (1, 0, 1), 0.2, "positive")
    drawn = [triggers.elsewhere(trigger, random.Random(draw)) for draw in range(50)]
    assert len({one.positions for one in drawn}) == 50
    for one in drawn:
        assert one.positions[1] < one.positions[2] < one.positions[0]
        assert (one.tokens, one.segments) == (trigger.tokens, trigger.segments)


def test_mnli_entailment_loses_forty_points_under_the_best_trigger():
    table = result("table2-mnli")
    own = table[(table.against == "entailment") & (table["class"] == "entailment")]
    best = own[(own.kind == "chosen") & (own["rank"] == 1)].accuracy.item()
    assert own[own.kind == "no trigger"].accuracy.item() - best >= 0.4
