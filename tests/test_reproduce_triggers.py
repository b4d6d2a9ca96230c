"""Tables 1 and 2 with the model replaced by a rule: who is chosen on which rows, what the controls change, and going on after a kill."""

import json
import random
from dataclasses import asdict

import pytest
import torch

from attattr.reproduce import Run, reproduce, triggers
from attattr.triggers import Inserted, Trigger

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

    def predicted(model, tokenizer, shown, trigger=None):
        seen["predicted"].append((trigger, list(shown)))
        number = [int(text.split()[0][1:]) for text in shown]
        flips = WORDS.index(trigger.tokens[0]) + 1 if trigger and trigger.tokens[0] in WORDS else 0
        return torch.tensor([0 if n % 2 and flips and n % flips == 0 else n % 2 for n in number])

    monkeypatch.setattr(triggers, "candidates", candidates)
    monkeypatch.setattr(triggers, "predicted", predicted)
    monkeypatch.setattr(triggers, "CHUNK", 10)
    monkeypatch.setattr(triggers, "SELECTION", 10)
    return seen


def test_three_disjoint_sets_of_rows_and_a_kill(run, asked):
    with pytest.raises(KeyboardInterrupt):
        reproduce("table1", run)
    mined = json.loads(reproduce("table1", run).read_text())
    pool = set(asked["mined"])
    assert len(asked["mined"]) == 2 * 50 + 10  # by attribution and by attention; ten once more, which the kill had lost
    assert len(pool) == 50
    tried = {text for _, shown in asked["predicted"] for text in shown}
    assert len(tried) == 10
    assert not tried & pool
    assert mined["pool"]["rows"] == 50
    assert {line["values"] for line in mined["candidates"]} == {"attribution", "attention"}

    asked["predicted"].clear()
    found = json.loads(reproduce("table2", run).read_text())
    shown = {text for _, shown in asked["predicted"] for text in shown}
    assert all(text.startswith("d") for text in shown)
    best = min((line for line in mined["candidates"] if line["values"] == "attribution"), key=lambda line: line["accuracy"]["positive"])
    first = next(line for line in found["measured"] if (line["class"], line["rank"], line["kind"]) == ("positive", 1, "chosen"))
    assert first["trigger"]["tokens"] == best["tokens"]  # chosen on the selection, not on what is reported
    size = WORDS.index(best["tokens"][0]) + 1
    positive = range(1, 20, 2)
    assert first["after"] == pytest.approx(sum(n % size > 0 for n in positive) / 10)
    assert found["baseline"]["positive"]["accuracy"] == 1.0
    flattered = found["chosen_on_reported_rows"]["positive"][0]["positive"]
    own = [line["tokens"][0] for line in mined["candidates"] if line["values"] == "attribution"]
    assert flattered == min(sum(n % (WORDS.index(word) + 1) > 0 for n in positive) / 10 for word in own)
    assert flattered <= first["after"]


def test_controls_change_one_thing_each(run, asked):
    asked["killed"] = True
    reproduce("table1", run)
    asked["predicted"].clear()
    found = json.loads(reproduce("table2", run).read_text())
    kinds = {line["kind"] for line in found["measured"]}
    assert kinds == {"chosen", "by attention", "random words", "frequent words", "other places"}  # one sentence: no other segment
    of = {kind: [line for line in found["measured"] if line["kind"] == kind and line["class"] == "positive"] for kind in kinds}
    assert len(of["random words"]) == triggers.TOP * triggers.DRAWS
    chosen = {line["rank"]: line["trigger"] for line in of["chosen"]}
    used = {(trigger.tokens, trigger.positions) for trigger, _ in asked["predicted"] if trigger is not None}
    for line in of["random words"] + of["frequent words"]:
        assert (tuple(line["words"]), tuple(chosen[line["rank"]]["positions"])) in used
    for line in of["other places"]:
        assert line["words"] == chosen[line["rank"]]["tokens"]
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
    monkeypatch.setattr(triggers, "attribute_attacked", lambda *_, **__: Carried)
    monkeypatch.setattr(triggers, "insert", lambda *_: Inserted({}, (1,), False))
    monkeypatch.setattr(triggers, "chosen", lambda *_: [Trigger(("river",), (0.5,), (0,), 0.1, "negative")] * 3)
    real = triggers.prune_heads
    monkeypatch.setattr(triggers, "prune_heads", lambda model, keep: (closed.append((~keep).nonzero().tolist()), real(model, keep))[1])
    found = json.loads(reproduce("defence", run).read_text())
    assert found["closed"][0]["closed"] == 0
    first = next(line for line in found["closed"] if line["order"] == "carriers" and line["closed"] == 1)
    assert first["heads"] == [[2, 7]]
    assert [[2, 7]] in closed
    assert {line["order"] for line in found["closed"]} == {"carriers", "random 0", "random 1", "random 2"}
    assert first["clean"] == {"negative": 1.0, "positive": 1.0}
    assert len(first["attacked"]["positive"]) == triggers.TOP


def test_a_trigger_survives_json():
    trigger = Trigger(("with", "math"), (0.5, 1.0), (1, 1), 0.25, "neutral")
    assert triggers.read(json.loads(json.dumps(asdict(trigger)))) == trigger


def test_other_places_keep_the_order_of_the_words():
    trigger = Trigger(("c", "a", "b"), (0.9, 0.1, 0.5), (1, 0, 1), 0.2, "positive")
    drawn = [triggers.elsewhere(trigger, random.Random(draw)) for draw in range(50)]
    assert len({one.positions for one in drawn}) == 50
    for one in drawn:
        assert one.positions[1] < one.positions[2] < one.positions[0]
        assert (one.tokens, one.segments) == (trigger.tokens, trigger.segments)
