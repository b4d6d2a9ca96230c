"""Figures of chapter 9: every mark is a number of the result in its row, arcs are the largest scores, bad results are refused."""

from __future__ import annotations

import copy
import itertools
import random
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import attattr
from attattr import Attribution, Trigger
from attattr.data import TASKS, paper
from attattr.figures import attack_figure, defence_figure, trigger_figure
from attattr.figures.triggers import OTHER, TRIGGER, strongest_links, trigger_places
from attattr.triggers import insert

KINDS = ("by attention", "random words", "frequent words", "other places", "other segment")
DRAWN = ("random words", "frequent words", "other places")


def table2(task: str, seed: int) -> dict:
    """A made result of the form that `reproduce table2` writes, every number another."""
    generator = random.Random(seed)
    counts = dict(zip(TASKS[task].labels, (120, 140, 90), strict=False))
    numbers = iter(generator.sample(range(1000, 9000), 500))
    pairs, measured = len(TASKS[task].columns) == 2, []
    for name in counts:
        for rank in (3, 1, 2):
            tokens = [f"word{next(numbers)}" for _ in range(rank)]
            trigger = {"tokens": tokens, "positions": [0.25] * rank, "segments": [int(pairs)] * rank, "score": 0.1, "label": "other"}
            for kind in ("chosen", *(kind for kind in KINDS if kind != "other segment" or pairs)):
                for draw in range(3 if kind in DRAWN else 1):
                    after = next(numbers) / 10000
                    line = {"class": name, "rank": rank, "kind": kind, "draw": draw, "after": after}
                    line |= {"after_interval": [round(after - 0.05, 4), round(after + 0.07, 4)]}
                    measured.append(line | ({"trigger": trigger} if kind in ("chosen", "by attention") else {"words": tokens}))
    return {
        "rows": counts,
        "baseline": {name: {"accuracy": 0.91, "interval": [0.87, 0.94]} for name in counts},
        "chosen_on_reported_rows": {
            name: [{"tokens": ["seen"]} | {other: next(numbers) / 10000 for other in counts} for _ in range(3)] for name in counts
        },
        "measured": measured,
    }


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    return {task: table2(task, seed) for seed, task in enumerate(("mnli", "sst2", "mrpc", "rte"))}


def windows(figure: go.Figure) -> list[dict]:
    (menu,) = figure.layout.updatemenus
    return [button.args[0] for button in menu.buttons]


def seen(figure: go.Figure, window: dict) -> list[tuple[str, str, float, list]]:
    """What is drawn in the rows of one task: the row's label, the class above it, accuracy, and what stands under the pointer."""
    low, high = sorted(window["yaxis.range"])
    labels = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    (heads,) = [trace for trace in figure.data if trace.mode == "text"]
    found = []
    for trace in figure.data:
        for x, y, told in zip(trace.x, trace.y, trace.customdata or (), strict=False):
            if trace.mode == "markers" and low <= y <= high:
                head = max((at, text) for at, text in zip(heads.y, heads.text, strict=True) if at <= y)[1]
                found.append((labels[y], head.removeprefix("<b>").split(",")[0], x, [trace.name, *told]))
    return found


def test_every_measured_accuracy_stands_in_the_row_of_its_class_and_kind(results):
    figure = attack_figure(results, paper("table2"))
    rows = {"other places": "same, other places", "other segment": "same, other text", "by attention": "chosen by attention"}
    for window, (task, result) in zip(windows(figure), results.items(), strict=True):
        marks = seen(figure, window)
        for line in result["measured"]:
            tokens = line.get("words") or line["trigger"]["tokens"]
            label = ", ".join(tokens)[:10] if line["kind"] == "chosen" else rows.get(line["kind"], line["kind"])
            count = round(line["after"] * result["rows"][line["class"]])
            (mark,) = [m for m in marks if m[0].startswith(label) and m[1:3] == (line["class"], line["after"])]
            assert mark[3][1:4] == [", ".join(tokens), count, result["rows"][line["class"]]]
        for name, lines in result["chosen_on_reported_rows"].items():
            flattered = {m[2] for m in marks if m[:2] == ("chosen on these rows", name) and m[3][1] == "seen"}
            assert flattered == {line[name] for line in lines}
        theirs = sorted(m[2] for m in marks if "paper" in (m[3][0] or ""))
        rows_of = ("baseline", "trigger1", "trigger2", "trigger3")
        assert theirs == sorted(round(share / 100, 4) for row in rows_of for share in paper("table2")[task][row].values())


def test_the_three_stand_in_order_with_their_interval_and_the_papers_beside_them(results):
    figure = attack_figure({"rte": results["rte"]}, paper("table2"))
    assert not figure.layout.updatemenus
    (ours,) = [trace for trace in figure.data if trace.name and trace.name.startswith("chosen on other rows")]
    (theirs,) = [trace for trace in figure.data if trace.name and trace.name.startswith("the paper's")]
    assert "open" in theirs.marker.symbol
    lines = {(line["class"], line["rank"]): line for line in results["rte"]["measured"] if line["kind"] == "chosen"}
    for number, name in enumerate(TASKS["rte"].labels):
        for rank in (1, 2, 3):
            place = 3 * number + rank - 1
            assert ours.x[place] == lines[name, rank]["after"]
            low, high = lines[name, rank]["after_interval"]
            assert (ours.x[place] - ours.error_x.arrayminus[place], ours.x[place] + ours.error_x.array[place]) == pytest.approx((low, high))
            beside = dict(zip(theirs.y, theirs.x, strict=True))[ours.y[place]]
            assert beside == pytest.approx(paper("table2")["rte"][f"trigger{rank}"][name] / 100)
            assert "text 2 at 0.25" in ours.customdata[place][4]


def test_means_bands_and_words_are_those_of_the_marks(results):
    figure = attack_figure({"sst2": results["sst2"]})
    assert not any(trace.name and "paper" in trace.name and trace.visible for trace in figure.data)
    (bars,) = [trace for trace in figure.data if trace.name == "mean of the row"]
    wanted = []
    for name in TASKS["sst2"].labels:
        wanted.append(np.mean([line[name] for line in results["sst2"]["chosen_on_reported_rows"][name]]))
        for kind in ("by attention", "other places", "frequent words", "random words"):
            wanted.append(np.mean([m["after"] for m in results["sst2"]["measured"] if (m["class"], m["kind"]) == (name, kind)]))
    assert bars.x == pytest.approx(wanted, abs=1e-4)
    band = figure.data[0]
    assert set(band.x) - {None} == {0.87, 0.94}
    alt = figure.layout.meta["alt"]
    assert f"random words at the same places {wanted[4]:.1%}" in alt
    assert "negative, 120 rows: 91.0% without a trigger" in alt
    assert "the paper's model: 92.79%, then 54.95%, 59.68%, 70.50%." in attack_figure(results, paper("table2")).layout.meta["alt"]


def test_the_figures_are_small_described_and_fit_a_telephone(results):
    figure = attack_figure(results, paper("table2"))
    assert len(figure.to_json()) < 60_000
    assert len(defence_figure(closed()).to_json()) < 30_000
    for one in (figure, defence_figure(closed())):
        assert "min_width" not in one.layout.meta and one.layout.width is None
    ranges = [sorted(window["yaxis.range"]) for window in windows(figure)]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    assert list(figure.layout.yaxis.range) == windows(figure)[0]["yaxis.range"]
    assert figure.layout.height == windows(figure)[0]["height"] > windows(figure)[1]["height"]


def damaged(result: dict, part: str) -> dict:
    result = copy.deepcopy(result)
    if part == "rank":
        result["measured"] = [line for line in result["measured"] if (line["kind"], line["rank"]) != ("chosen", 2)]
    elif part == "baseline of a class":
        del result["baseline"]["neutral"]
    elif part == "flattered":
        del result["chosen_on_reported_rows"]["neutral"]
    elif part in result:
        del result[part]
    else:
        result["measured"] = [line for line in result["measured"] if line["kind"] != part]
    return result


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("measured", "'mnli' has no 'measured'"),
        ("rank", r"ranks \[1, 3\] for class 'entailment': expected 1 to 3"),
        ("other segment", "nothing measured 'other segment' for class 'entailment'"),
        ("random words", "nothing measured 'random words'"),
        ("baseline of a class", "nothing measured 'baseline' for class 'neutral'"),
        ("flattered", "nothing measured 'on these rows' for class 'neutral'"),
    ],
)
def test_incomplete_results_are_refused(results, part, message):
    with pytest.raises(ValueError, match=message):
        attack_figure({"mnli": damaged(results["mnli"], part)})


def test_no_result_no_such_task_and_another_paper_are_refused(results):
    with pytest.raises(ValueError, match="no results to draw"):
        attack_figure({})
    with pytest.raises(ValueError, match="unknown task 'cola'"):
        attack_figure({"cola": {}})
    with pytest.raises(ValueError, match="paper's numbers have no task 'rte'"):
        attack_figure({"rte": results["rte"]}, {"mnli": {}})
    with pytest.raises(ValueError, match="have no 'trigger1' of class 'entailment'"):
        attack_figure({"rte": results["rte"]}, {"rte": {"baseline": {"entailment": 1}}})


def closed() -> dict:
    """A made result of the form that `reproduce defence` writes."""
    generator, lines = random.Random(3), []
    for order in ("carriers", "random 0", "random 1"):
        for count in (8, 0, 1, 2, 4):
            if count or order == "carriers":
                shares = {part: round(generator.random(), 4) for part in ("negative", "positive")}
                attacked = {name: [round(share * third, 4) for third in (0.2, 0.5, 0.8)] for name, share in shares.items()}
                heads = [[place % 3, 7 - place] for place in range(count)]
                lines.append({"order": order, "closed": count, "heads": heads, "clean": shares, "attacked": attacked})
    return {"texts": 77, "closed": lines}


def test_the_defence_shows_each_class_and_their_mean():
    result = closed()
    figure = defence_figure(result)
    (menu,) = figure.layout.updatemenus
    of = {(line["order"], line["closed"]): line for line in result["closed"]}
    for button, names in zip(menu.buttons, (("negative", "positive"), ("negative",), ("positive",)), strict=True):
        traces = [trace for trace, shown in zip(figure.data, button.args[0]["visible"], strict=True) if shown]
        assert len(traces) == 6

        def values(order, state, names=names):
            lines = [of.get((order, count), of["carriers", 0]) for count in (0, 1, 2, 4, 8)]
            return np.array([np.mean([np.mean(line[state][name]) for name in names]) for line in lines])

        for state, start in (("clean", "no trigger"), ("attacked", "with a trigger")):
            (ours,) = [t for t in traces if t.name == f"{start}, heads that carry triggers closed"]
            (other,) = [t for t in traces if t.name == f"{start}, random heads closed"]
            assert ours.y == pytest.approx(values("carriers", state), abs=1e-4)
            assert other.y == pytest.approx((values("random 0", state) + values("random 1", state)) / 2, abs=1e-4)
            band = traces[traces.index(other) - 1]
            assert band.y[:5] == pytest.approx(np.maximum(values("random 0", state), values("random 1", state)), abs=1e-4)
            assert ours.customdata[0] == "no head" and ours.customdata[2] == "layer 0, head 7<br>layer 1, head 6"
    last = np.mean(of["carriers", 8]["attacked"]["positive"])
    assert (
        f"positive, with a trigger: {np.mean(of['carriers', 0]['attacked']['positive']):.1%}, with 8 heads closed {last:.1%}"
        in (figure.layout.meta["alt"])
    )


def test_a_defence_without_control_or_with_a_gap_is_refused():
    with pytest.raises(ValueError, match="expected 'carriers'"):
        defence_figure({"texts": 1})
    for gone, message in ((("random 0", "random 1"), "random ones"), (("carriers",), "'carriers', from no head")):
        result = closed()
        result["closed"] = [line for line in result["closed"] if line["order"] not in gone]
        with pytest.raises(ValueError, match=message):
            defence_figure(result)
    result = closed()
    result["closed"] = [line for line in result["closed"] if (line["order"], line["closed"]) != ("random 1", 4)]
    with pytest.raises(ValueError, match=r"'random 1' has \[0, 1, 2, 8\] heads closed"):
        defence_figure(result)


def attribution(tokens: tuple[str, ...], label: str, seed: int) -> Attribution:
    """A made attribution with two layers of three heads."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, len(tokens), len(tokens), generator=generator) * 0.1 - 0.07
    target = ("negative", "positive").index(label)
    chances = torch.tensor([0.2, 0.8] if target else [0.7, 0.3])
    layers = torch.zeros(2)
    return Attribution(
        scores, scores.abs(), tokens, " ".join(tokens), target, label, chances, layers, layers, layers, layers.int(), "riemann", 1e-2
    )


NOT_AT = Trigger(("not", "at"), (0.5, 1.0), (0, 0), 0.1, "negative")
BEFORE = ("[CLS]", "a", "warm", "film", "[SEP]")
AFTER = ("[CLS]", "a", "not", "warm", "film", "at", "[SEP]")


@pytest.fixture
def pair() -> tuple[Attribution, Attribution]:
    return attribution(BEFORE, "positive", 1), attribution(AFTER, "negative", 2)


def test_the_places_of_a_trigger_are_where_insert_puts_it():
    _, tokenizer = attattr.load("rte")
    texts = [("a warm film is shown", "the film is not cold ."), ("rain", "it rains"), ("one two three four five six seven", "no")]
    generator = random.Random(5)
    for text in texts:
        for size in (1, 2, 3, 4):
            where = [generator.choice((0.0, 0.3, 0.5, 0.77, 1.0)) for _ in range(size)]
            trigger = Trigger(("zebra",) * size, tuple(where), tuple(generator.randint(0, 1) for _ in where), 0.1, "entailment")
            ids = insert(tokenizer, text, trigger, 512).columns["input_ids"]
            tokens = tuple(tokenizer.convert_ids_to_tokens(ids))
            before = attribution(tuple(tokenizer.convert_ids_to_tokens(tokenizer(*text)["input_ids"])), "negative", 0)
            found = trigger_places(before, attribution(tokens, "negative", 0), trigger)
            assert found == tuple(place for place, token in enumerate(tokens) if token == "zebra")


def test_links_are_the_largest_scores_of_any_layer_and_head(pair):
    after = pair[1]
    every = {}
    for layer, head, query, key in np.ndindex(*after.scores.shape):
        score = float(after.scores[layer, head, query, key])
        every[query, key] = max(every.get((query, key), (-9,)), (score, layer, head))
    wanted = sorted(every.items(), key=lambda item: -item[1][0])
    assert [((link.query, link.key), (link.score, link.layer, link.head)) for link in strongest_links(after, 12)] == wanted[:12]
    assert len(strongest_links(after, 999)) == sum(score > 0 for score, *_ in every.values()) < 49


def test_arcs_join_the_rows_of_their_tokens_and_have_the_triggers_colour_if_they_touch_it(pair):
    before, after = pair
    figure = trigger_figure(before, after, NOT_AT, count=8)
    rows = {place: AFTER.index(token) for place, token in enumerate(BEFORE)}
    hits = 0
    for axis, att, at in (("x", before, rows), ("x2", after, {place: place for place in range(7)})):
        arcs = [trace for trace in figure.data if trace.xaxis == axis and trace.mode == "lines"]
        links = strongest_links(att, 8)
        assert len(arcs) == len(links) == 8
        for arc, link in zip(reversed(arcs), links, strict=True):  # the strongest on top
            assert (arc.y[0], arc.y[-1]) == pytest.approx((at[link.query], at[link.key]), abs=1e-3)
            assert arc.x[0] == arc.x[-1] == pytest.approx(0, abs=1e-3) and max(arc.x) > 0
            touching = axis == "x2" and bool({link.query, link.key} & {2, 5})
            assert arc.line.color == (TRIGGER if touching else OTHER)
            assert f"{att.tokens[link.query]} reads {att.tokens[link.key]}<br>{link.score:+.3f}" in arc.hovertemplate
            hits += touching
        assert arcs[-1].line.width == max(arc.line.width for arc in arcs)
    assert 0 < hits < 8
    assert any(f"{hits} of 8 touch the trigger" in note.text for note in figure.layout.annotations)
    assert sorted(shape.y0 + 0.5 for shape in figure.layout.shapes) == [2, 5]
    words = next(list(trace.text) for trace in figure.data if trace.xaxis == "x3" and trace.mode == "text")
    assert words == ["[CLS]", "a", "<b>not</b>", "warm", "film", "<b>at</b>", "[SEP]"]
    bars = [trace for trace in figure.data if isinstance(trace, go.Bar)]
    assert [list(bar.x) for bar in bars] == [[0.2, 0.8], [0.7, 0.3]]
    assert list(bars[0].customdata) == ["negative", "positive"]


def test_the_alternative_text_says_how_much_rests_on_the_trigger(pair):
    before, after = pair
    alt = trigger_figure(before, after, NOT_AT).layout.meta["alt"]
    assert "from positive (p = 0.800) to negative (p = 0.700)" in alt
    own = torch.tensor([token in ("not", "at") for token in AFTER])
    positive = after.scores.clamp_min(0).sum((0, 1))
    share = float((positive * (own[:, None] | own[None])).sum() / positive.sum())
    assert f"of the sum of all positive scores {share:.0%}" in alt
    assert f"of all connections, {(49 - 25) / 49:.0%} do" in alt
    hits = sum(bool({link.query, link.key} & {2, 5}) for link in strongest_links(after, 10))
    assert re.search(rf"Of the 10 connections .* {hits} touch them", alt)


def test_texts_that_do_not_belong_together_and_wrong_classes_are_refused(pair):
    before, after = pair
    with pytest.raises(ValueError, match="expected the attributions of one text"):
        trigger_figure(before, before, NOT_AT)
    with pytest.raises(ValueError, match="expected the attributions of one text"):
        trigger_figure(before, after, Trigger(("not", "at"), (0.5, 1.0), (1, 1), 0.1, "negative"))
    with pytest.raises(ValueError, match=r"classes \['positive', 'negative'\]: expected 2"):
        trigger_figure(before, after, NOT_AT, classes=("positive", "negative"))
    with pytest.raises(ValueError, match="count=0"):
        trigger_figure(before, after, NOT_AT, count=0)


def test_the_committed_results_are_drawn_whole_and_small():
    results = {task: attattr.result(f"table2-{task}") for task in TASKS}
    figure = attack_figure(results, paper("table2"))
    assert len(figure.to_json()) < 60_000
    for window, result in zip(windows(figure), results.values(), strict=True):
        drawn = [(head, x) for _, head, x, told in seen(figure, window) if told[0] and told[0].startswith("chosen on other rows")]
        wanted = [(line["class"], line["after"]) for line in result["measured"] if line["kind"] == "chosen"]
        assert sorted(drawn) == sorted(wanted)
    for task in ("mnli", "sst2"):
        assert len(defence_figure(attattr.result(f"defence-{task}")).to_json()) < 40_000


def test_mnli_entailment_loses_forty_points_under_the_best_trigger():
    result = attattr.result("table2-mnli")
    (best,) = [line for line in result["measured"] if (line["class"], line["kind"], line["rank"]) == ("entailment", "chosen", 1)]
    assert result["baseline"]["entailment"]["accuracy"] - best["after"] >= 0.4
