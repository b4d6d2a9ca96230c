"""Tables 1 and 2 with the model replaced by a rule: who is chosen on which rows, what the controls change, and going on after a kill."""

import json
import random
from dataclasses import asdict

import pandas
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
    monkeypatch.setitem(triggers.SELECTION, "small", 10)
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

    chosen_on = read_result(path, "accuracy on the selection")
    assert len(chosen_on) == len(found)
    assert chosen_on.heads.tolist() == found.heads.tolist()


PAIRS = [  # word overlap of the second text with the first: all, half, none
    ("a boat passes the bridge", "the boat passes"),
    ("a boat passes the bridge", "the boat never sinks"),
    ("a boat passes the bridge", "nobody slept"),
]


@pytest.fixture
def of_pairs(tmp_path, monkeypatch):
    """A run on pairs with a model that says entailment unless the second text has *ladder*, or *stone* before *river*."""
    (tmp_path / "RTE").mkdir()
    for name, count in (("train.tsv", 60), ("dev.tsv", 12)):
        rows = [(*PAIRS[n % 3], ("entailment", "not_entailment")[n % 2]) for n in range(count)]
        lines = ["sentence1\tsentence2\tlabel", *("\t".join(row) for row in rows)]
        (tmp_path / "RTE" / name).write_text("\n".join(lines) + "\n")
    found = [(("river", "stone"), (1, 1)), (("stone", "river"), (1, 1)), (("copper",), (1,)), (("ladder", "ladder"), (1, 0))]
    mined = [
        {"candidate": number, "mined_by": values, "class": name, "label": "entailment", "tokens": list(tokens), "segments": list(at)}
        | {"positions": [0.25, 0.5][: len(tokens)], "score": 1 - number / 10, "rows": 10, "accuracy": number / 10, "flip_rate": 0.5}
        for values in ("attribution", "attention")
        for number, (tokens, at) in enumerate(found)
        for name in ("entailment", "not_entailment")
    ]
    seen = []

    def decided(texts, trigger=None):
        own = sorted(zip(trigger.positions, trigger.tokens, trigger.segments, strict=True)) if trigger else []
        second = [token for _, token, segment in own if segment == 1]
        seen.append((trigger, list(texts)))
        return torch.full((len(texts),), int("ladder" in second or second[:2] == ["stone", "river"]))

    def attack(model, tokenizer, rows, trigger, predicted):
        names = ["entailment", "not_entailment"]
        return attack_of(names, torch.tensor(rows["label"]), predicted, decided(texts_of(rows), trigger))

    monkeypatch.setattr(triggers, "mined_before", lambda run: pandas.DataFrame(mined))
    monkeypatch.setattr(triggers, "predict", lambda model, tokenizer, texts: torch.nn.functional.one_hot(decided(texts), 2))
    monkeypatch.setattr(triggers, "predict_attacked", lambda model, tokenizer, texts, trigger: decided(texts, trigger))
    monkeypatch.setattr(triggers, "attack", attack)
    return Run(task="rte", data=tmp_path, rows=None, seed=0, output=tmp_path / "results"), seen


def test_twins_have_the_places_of_the_candidates_and_are_chosen_on_the_selection(of_pairs):
    run, seen = of_pairs
    found = read_result(reproduce("controls", run), "selection")
    twins = found[(found.kind == "random words") & (found["class"] == "entailment")]
    assert twins.groupby("mined_by").candidate.apply(list).to_dict() == {"attribution": [0, 1, 2, 3], "attention": [0, 1, 2, 3]}
    assert [len(tokens) for tokens in twins.tokens] == [2, 2, 1, 2] * 2
    assert twins.segments.tolist() == [[1, 1], [1, 1], [1], [1, 0]] * 2
    assert all(one[0] == one[1] for one in twins[twins.candidate == 3].tokens)  # the same word in both texts, as in the candidate
    known = {word for pair in PAIRS for text in pair for word in text.split()}
    assert {word for tokens in twins.tokens for word in tokens} <= known
    other = found[(found.kind == "other order") & (found["class"] == "entailment")].set_index("candidate")
    assert other.tokens.to_dict() == {0: ["stone", "river"], 1: ["river", "stone"]}  # one word of a text has no order
    assert other.accuracy.to_dict() == {0: 0.0, 1: 1.0}
    again = read_result(reproduce("controls", run), "selection")
    assert again.tokens.tolist() == found.tokens.tolist()
    assert all(len(texts) in (12, 6) for _, texts in seen)  # the whole selection, or the rows of one class


def test_the_reported_controls_change_one_thing_each_and_are_told_apart_by_overlap(of_pairs):
    run, _ = of_pairs
    found = read_result(reproduce("controls", run), "reported")
    own = found[(found.against == "entailment") & (found["class"] == "entailment")]
    assert set(own["class"]) == {"entailment"}
    whole = own[own.overlap.isna()].set_index(["kind", "rank"])
    assert whole.loc[("no trigger", 1), "accuracy"] == 1
    assert whole.loc["chosen"].accuracy.tolist() == [1.0, 0.0, 1.0]  # river stone, stone river, copper
    assert whole.loc["other order"].accuracy.tolist() == [0.0, 1.0]
    assert whole.loc["both texts"].tokens.tolist()[2] == ["copper", "copper"]
    assert whole.loc["both texts"].segments.tolist()[2] == [0, 1]
    assert sorted(whole.loc["random words"].mined_by) == ["attention"] * 3 + ["attribution"] * 3
    by_overlap = own[(own.kind == "chosen") & (own["rank"] == 2)].dropna(subset="overlap").set_index("overlap")
    assert by_overlap.rows.to_dict() == {0.0: 2, 0.5: 2, 0.75: 2}
    assert set(by_overlap.flip_rate) == {1.0}


def test_words_in_both_texts_and_backwards():
    trigger = Trigger(("c", "a", "b"), (0.9, 0.1, 0.5), (1, 0, 1), 0.2, "positive")
    assert triggers.backwards(trigger).tokens == ("b", "a", "c")
    both = triggers.in_both(trigger)
    places = sorted(zip(both.segments, both.positions, both.tokens, strict=True))
    assert places == [(0, 0.1, "a"), (0, 0.5, "b"), (0, 0.9, "c"), (1, 0.1, "a"), (1, 0.5, "b"), (1, 0.9, "c")]
    assert triggers.in_both(both) == both


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
