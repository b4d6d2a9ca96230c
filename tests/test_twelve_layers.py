"""What the chapters say of the models of twelve layers, against their results in ``data/results/base/``."""

from itertools import combinations, product

import numpy
import pandas

import attattr
from attattr.data import TASKS


def test_chapter_3_says_of_twelve_layers_what_the_results_give():
    found = pandas.concat(attattr.result(f"base/certificate-{task}") for task in ("sst2", "mnli"))
    auto, six = found[found.rule == "auto"], found[found.rule == "gauss-legendre 6"]
    auto = auto.assign(certified=auto.certified.astype(bool))
    assert (six.error <= 0.01).groupby(six.task).mean().round(2).to_dict() == {"sst2": 0.92, "mnli": 0.86}
    coarse = six[six.error > 0.01].layer.value_counts()
    assert coarse.sum() == 107 and coarse[[11, 1, 0]].tolist() == [56, 37, 7]
    off = auto[auto.error > 0.01]
    assert (len(auto), len(off), auto.groupby("task").text.nunique().sum()) == (960, 17, 80)
    assert auto[~auto.certified].groupby("task").text.nunique().sum() == 11
    refused, passed = off[~off.certified], off[off.certified]
    assert refused.layer.value_counts().to_dict() == {1: 8, 0: 1} and (refused.evaluations == 63).all()
    assert len(passed) == 8 and (passed.error.min().round(3), passed.error.max().round(3)) == (0.011, 0.027)
    below = (auto.reported < auto.error).groupby(auto.task).mean().round(3)
    assert below.to_dict() == {"sst2": 0.023, "mnli": 0.071}


def test_chapter_5_says_of_the_heads_of_twelve_layers_what_the_results_give():
    accuracy, tasks = {}, ("sst2", "mnli")
    for task in tasks:
        found = attattr.result(f"base/fig3-{task}")
        accuracy[task] = (100 * found.groupby(["scope", "by", "first", "removed"]).accuracy.agg(["min", "max"])).round(1)
        largest, smallest = (accuracy[task]["min"]["set", "attribution", first] for first in ("largest", "smallest"))
        by_chance = accuracy[task].loc["set", "random", "largest"]
        assert (largest < by_chance["min"])[{"sst2": range(1, 10), "mnli": range(2, 9)}[task]].all(), "falls faster than the band"
        assert smallest[10] - by_chance["max"][10] == {"sst2": 14, "mnli": 11.5}[task] and largest[2] < by_chance["min"][2]
        attention = accuracy[task]["min"]["set", "attention", "smallest"][10] - by_chance["max"][10]
        assert attention == {"sst2": 1.5, "mnli": -2}[task], "above the best random order, and below it"
        assert by_chance["min"][0] - by_chance["min"][2] == {"sst2": 2.5, "mnli": 7.5}[task], "what a random order costs"
    left = {
        task: {scope: of["min"][scope, "attribution", "smallest"] for scope in ("example", "right", "predicted")}
        for task, of in accuracy.items()
    }
    assert {task: (of["example"].max() - of["example"][0], of["example"].idxmax()) for task, of in left.items()} == {
        "sst2": (3.5, 7),
        "mnli": (16, 4),
    }
    assert {task: [of["example"][10], of["right"][10].round()] for task, of in left.items()} == {"sst2": [88.5, 89], "mnli": [59, 63]}
    assert all(of["predicted"][10] < of["predicted"][0] for of in left.values()), "without the label, two heads do worse than all"
    assert accuracy["mnli"]["min"]["set", "attribution", "largest"][[0, 2]].tolist() == [80, 59], "21 points"


def test_chapter_5_says_of_the_edges_of_twelve_layers_what_the_results_give():
    at = {task: attattr.result(f"base/edges-{task}").set_index("tau").loc[0.4].set_index(["left", "graph"]) for task in ("sst2", "mnli")}
    kept, cut = ({task: found.loc[left] for task, found in at.items()} for left in ("only these", "all but these"))
    drawn, positive, admitted, like = "attribution", "positive", "admitted", "positive, admitted"
    share, sizes, of_admitted, leads = {}, {}, {}, {}
    for task in at:
        for test, sign in ((kept[task].probability, 1), (cut[task].probability, -1)):
            assert (sign * test[drawn] > sign * test[["attention", "random", "positive", "anywhere"]]).all(), "better than its rivals"
        lead = kept[task].probability[drawn] - kept[task].probability[positive]
        assert lead < kept[task].error[[drawn, positive]].min(), "less than one standard error"
        left = cut[task].probability
        share[task] = round((left[positive] - left["random"]) / (left[drawn] - left["random"]), 2)
        sizes[task], leads[task] = round(left[positive] - left[drawn], 2), round(lead, 2)
        of_admitted[task] = [round(abs(p[admitted] - p[like]), 2) for p in (kept[task].probability, left)]
    assert share == {"sst2": 0.74, "mnli": 0.7}, "signs: three quarters, seven tenths"
    assert sizes == {"sst2": 0.1, "mnli": 0.12} and leads == {"sst2": 0.02, "mnli": 0.0}
    assert of_admitted == {"sst2": [0.12, 0.06], "mnli": [0.06, 0.04]}
    rules = ["midpoint, admitted", "gradient, admitted", "admitted", "20 steps, admitted", "midpoint", "attribution"]
    left = {task: cut[task].probability[rules].map("{:.2f}".format).tolist() for task in at}
    assert left == {"sst2": ["0.46", "0.51", "0.37", "0.38", "0.63", "0.43"], "mnli": ["0.31", "0.37", "0.26", "0.26", "0.44", "0.29"]}
    mnli = attattr.result("base/edges-mnli")
    full, none = (mnli.set_index("left").probability[left] for left in ("all", "none"))
    dark = mnli[(mnli.left == "all but these") & mnli.graph.isin([drawn, admitted])]
    assert (full.round(2), none.round(2)) == (0.94, 0.33) and (dark.probability < none).all(), "under the dotted line at every τ"
    only = mnli[mnli.left == "only these"].set_index(["graph", "tau"])[["edges", "probability"]].round(2)
    points = [only.loc[point].tolist() for point in ((drawn, 0.05), (admitted, 0.2), (admitted, 0.05))]
    assert points == [[268.6, 0.36], [201.9, 0.57], [775.8, 0.88]]


def test_chapter_8_says_of_twelve_layers_what_the_results_give():
    importance = {}
    for task in TASKS:
        found = attattr.result(f"base/fig5-{task}", "importance").query("method == 'attribution'")
        models = [found.pivot_table("value", "layer", "head").to_numpy()]
        if task in ("rte", "mrpc"):
            models.append(attattr.result(f"base/fig6-{task}").pivot_table("importance", "layer", "head").to_numpy())
            last = numpy.corrcoef(*(model[11] for model in models))[0, 1]
            assert round(last, 2) == {"rte": 0.8, "mrpc": 0.9}[task], "two trainings, the last layer"
        importance[task] = sum(models) / len(models)
    for layers, of_pairs, with_sst2 in ((12, (0.55, 0.86), (0.57, 0.81)), (11, (0.51, 0.69), (0.33, 0.59))):
        r = {}
        for pair in combinations(TASKS, 2):
            r[pair] = round(numpy.corrcoef(*(importance[task][:layers].flatten() for task in pair))[0, 1], 2)
        single = [value for pair, value in r.items() if "sst2" in pair]
        double = [value for pair, value in r.items() if "sst2" not in pair]
        assert ((min(double), max(double)), (min(single), max(single))) == (of_pairs, with_sst2)


def test_chapter_9_says_of_twelve_layers_what_the_results_give():
    cost, spread = {}, {}
    for folder, task in product(("", "base/"), ("sst2", "mnli")):
        found = attattr.result(f"{folder}table2-{task}").query("`class` == against")
        for label, own in found.groupby("class"):
            none, chosen = own[own.kind == "no trigger"].iloc[0], own[own.kind == "chosen"]
            left = {"best": chosen[chosen["rank"] == 1], "three": chosen, "random": own[own.kind == "random words"]}
            cost[folder, label] = {name: round(100 * (none.accuracy - some.accuracy.mean())) for name, some in left.items()}
            best = left["best"].iloc[0]
            spread[folder, label] = 50 * numpy.hypot(none.high - none.low, best.high - best.low)  # half an interval of the fall, in points
    assert cost["base/", "negative"] == {"best": 10, "three": 12, "random": 1}
    assert cost["base/", "positive"] == {"best": 14, "three": 19, "random": 4}
    assert cost["", "negative"] == {"best": 29, "three": 14, "random": 2}
    assert cost["", "positive"] == {"best": 35, "three": 30, "random": 4}
    three = {folder: [cost[folder, label]["three"] for label in TASKS["mnli"].labels] for folder in ("", "base/")}
    assert three == {"": [72, 36, 25], "base/": [74, 50, 27]}
    assert [cost["base/", label]["random"] for label in TASKS["mnli"].labels] == [31, 0, 6] and cost["", "entailment"]["random"] == 29
    assert (cost["base/", "neutral"]["best"], cost["", "neutral"]["best"]) == (63, 39)
    assert numpy.hypot(spread["", "neutral"], spread["base/", "neutral"]) < 63 - 39, "this difference is clear"
    assert numpy.hypot(spread["", "neutral"], spread["base/", "neutral"]) > 50 - 36, "that of the best three is at the limit"
    mnli = attattr.result("base/table2-mnli").query("`class` == against and kind == 'chosen'")
    best = mnli[mnli["rank"] == 1].set_index("class").tokens
    assert best["entailment"] == best["neutral"] == ["1974", "1965"]


def test_chapter_10_says_of_twelve_layers_what_the_results_give():
    mined, twins = attattr.result("base/table1-sst2"), attattr.result("base/controls-sst2", "selection").query("kind == 'random words'")
    before, costs = mined[mined.candidate.isna()].accuracy.mean(), []
    for tried in (mined, twins):
        against = tried[(tried.mined_by == "attribution") & (tried.label != tried["class"])]
        costs.append(round(100 * (before - against.groupby("class").accuracy.mean().mean()), 1))
    assert costs == [12.6, 2.1]
    left = attattr.result("base/table2-sst2").query("`class` == against").pivot_table("accuracy", "class", "kind")
    chosen = attattr.result("base/controls-sst2", "reported").query("`class` == against and kind == 'random words'")
    left = left.join(chosen.pivot_table("accuracy", "class", "mined_by"))
    cost = (100 * -left.sub(left["no trigger"], axis=0)).round().astype(int)
    assert cost["chosen"].to_dict() == {"negative": 12, "positive": 19} and cost["other places"].to_dict() == {
        "negative": 7,
        "positive": 13,
    }
    assert cost["attribution"].to_dict() == {"negative": 11, "positive": 8} and cost["attention"]["positive"] == 23
    words = chosen[(chosen.mined_by == "attention") & (chosen["class"] == "positive")].tokens.explode()
    assert {"not", "none", "without"} <= set(words)


def test_chapter_10_says_of_mnli_in_twelve_layers_what_the_results_give():
    table2 = attattr.result("base/table2-mnli").query("`class` == against")
    controls = attattr.result("base/controls-mnli", "reported").query("`class` == against and overlap.isna()")
    left = table2.pivot_table("accuracy", "class", "kind")
    rivals = controls.pivot_table("accuracy", "class", ["mined_by", "kind"])
    before, classes = left["no trigger"], ["entailment", "neutral", "contradiction"]
    cost = {name: (100 * (before - of)).round()[classes].tolist() for name, of in {**left, **rivals}.items()}
    assert cost["chosen"] == [74, 50, 27] and cost["attribution", "random words"] == [68, 8, 17]
    half = (
        pandas.concat([table2[table2.kind == "chosen"], controls[controls.kind == "random words"]])
        .groupby("class")
        .apply(lambda of: numpy.hypot(*(of[of.kind == kind].eval("high - low").mean() / 2 for kind in ("chosen", "random words"))))
    )
    ahead = rivals["attribution", "random words"] - left["chosen"]
    assert (ahead > half)[classes].tolist() == [False, True, False], "clearly ahead against neutral alone"
    assert cost["by attention"] == [58, 9, 10] and cost["attention", "random words"] == [58, 9, 7], "no more than their twins"
    assert cost["attribution", "both texts"] == [-7, 8, 10]
    flattery = (100 * (left["chosen"] - left["chosen on these rows"])).round()
    assert flattery[classes].tolist() == [0, 1, 4]
    half = (table2.high - table2.low) / 2
    assert 0.1 < half[(table2["class"] == "neutral") & (table2.kind == "chosen")].max() < 0.12 and half.max() < 0.13
    mined, rivals = attattr.result("base/table1-mnli"), attattr.result("base/controls-mnli", "selection").query("kind == 'random words'")
    before, costs = mined[mined.candidate.isna()].accuracy.mean(), {}
    for name, tried in (("mined", mined), ("twins", rivals)):
        against = tried[tried.label != tried["class"]]
        of_method = before - against.groupby(["mined_by", "class"]).accuracy.mean().groupby("mined_by").mean()
        costs[name] = (100 * of_method).round(1).to_dict()
    assert costs == {"mined": {"attribution": 18.3, "attention": 4.0}, "twins": {"attribution": 12.3, "attention": 5.0}}


def test_chapter_12_says_of_twelve_layers_what_the_results_give():
    found = attattr.result("base/flow-correlations-sst2")
    rho = found[(found.measure == "correlation") & (found.reading == "row") & (found.against == "blank-out")]
    assert rho.sort_values("value").method.iloc[-1] == "gradient" and rho.texts.max() == 60
    best = rho.groupby("method").value.max().round(2)
    assert (best["gradient"], best["attribution, all layers"]) == (0.39, 0.34)
    masked = found[found.measure == "comprehensiveness"].set_index("method")
    assert masked.value.idxmax() == "integrated gradients"
    assert masked.low["integrated gradients"] < masked.high[["attribution, all layers", "blank-out"]].min(), "intervals that overlap"
    raw = masked.loc["raw attention"]
    assert raw.low < masked.value["random"] < raw.high and (masked.high[["rollout", "flow"]] < raw.low).all()
    three = found[(found.measure == "correlation") & found.method.isin(["raw attention", "rollout", "flow"])]
    of = three.groupby(["reading", "against", "method"])
    assert (of.value.max().loc["row", ["blank-out", "input gradient"], ["rollout", "flow"]] < 0).all(), "in every layer"
    best = three.loc[of.value.idxmax()].set_index(["reading", "against", "method"])
    ahead = best.value.unstack().eval("flow > `raw attention`")
    assert ahead[ahead].index.tolist() == [("max", "input gradient")], "one of four pairs"
    flow, raw = (best.loc["max", "input gradient", method] for method in ("flow", "raw attention"))
    assert (flow.layer, flow.value.round(2), raw.layer, raw.value.round(2)) == (2, 0.36, 9, 0.28) and flow.low < raw.high
