"""What the papers say, in ``data/paper/``: word for word, each claim met in a chapter, each result there."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pandas
import pytest
from docutils.nodes import make_id

import attattr
from attattr.book.results import name_of
from attattr.data import TASKS, data_folder, read_split

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import size

ROOT = Path(__file__).parent.parent
TEXTS = {"hao2020": "attattr-arxiv-v1.md", "hao2021": "attattr-aaai-digest-zh.txt", "abnar2020": "attention-flow-digest.txt"}
PAPERS = next((folder for folder in (ROOT.parent / "shared" / "papers", Path("/work/shared/papers")) if folder.is_dir()), None)
PLANNED = {"13-beyond-bert", "14-the-paper-reproduced", "15-your-own-model"}  # until they are there
CHAPTERS = {path.stem for path in (ROOT / "book").glob("*.ipynb")} | PLANNED
RULES = {"equal", "interval", "below", "above", "not behind", "rising", "high r", "no r", "none"}  # chapter 14 says what each asks
RESULTS = {name_of(path) for folder in ("results", "paper") for path in (data_folder() / folder).glob("*.json")}
CLAIMS, VALUES, CODE, TABLE1, TABLE2 = (attattr.result(f"paper-{name}") for name in ("claims", "values", "code", "table1", "table2"))
QUOTES = [(claim.paper, claim.claim) for claim in CLAIMS.itertuples()] + [(value.paper, value.said) for value in VALUES.itertuples()]


def plain(text):
    """A text without the space and the marks that tell nothing: who prints a quote may set both as he likes."""
    return re.sub(r"[\s*`]+", "", text)


def sections(chapter):
    """The headings of a chapter as addresses on its page; None of one that is still to come."""
    path = ROOT / "book" / f"{chapter}.ipynb"
    if not path.is_file():
        return None
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    written = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {make_id(title) for title in re.findall(r"^##+ (.*)", written, re.MULTILINE)}


@pytest.fixture(scope="module")
def texts():
    if PAPERS is None:
        pytest.skip("no texts of the papers beside this checkout")
    return {paper: plain((PAPERS / name).read_text(encoding="utf-8")) for paper, name in TEXTS.items()}


@pytest.mark.parametrize(("paper", "quote"), QUOTES, ids=[f"{paper}: {quote[:50]}" for paper, quote in QUOTES])
def test_a_quote_is_in_the_paper_word_for_word(texts, paper, quote):
    words = ".{0,2000}".join(map(re.escape, plain(quote).split("…")))
    assert re.search(words, texts[paper], re.DOTALL)


def test_a_quote_with_another_word_would_be_noticed(texts):
    assert plain("in practice, we set $m$ to 20") not in texts["hao2020"]


def test_every_claim_is_met_in_a_chapter_and_rests_on_results_that_are_there():
    assert len(CLAIMS) > 150
    assert not CLAIMS.duplicated(["paper", "place", "claim"]).any()
    assert set(CLAIMS.paper) == set(TEXTS)
    assert set(CLAIMS.found) == {"same", "partly", "differs", "not testable"}
    assert set(CLAIMS.kind) == {"finding", "method", "setting", "figure", "table", "background"}
    for claim in CLAIMS.itertuples():
        assert claim.met and {place.split("#")[0] for place in claim.met} <= CHAPTERS, claim
        assert set(claim.results) <= RESULTS, claim


def test_every_link_to_a_section_leads_to_a_heading():
    for place in [*CLAIMS.met.explode(), *CODE.met.explode()]:
        chapter, _, section = place.partition("#")
        assert chapter in CHAPTERS
        assert (not section and chapter in PLANNED) or section in sections(chapter), place


def test_every_part_of_the_paper_has_its_claims():
    places = " ".join(CLAIMS[CLAIMS.paper == "hao2020"].place)
    for part in ["abstract", "§1", "§2", "§3.1", "§3.2", "§4", "§4.1", "§4.2", "§5", "§5.1", "§5.2", "§5.3", "§6"]:
        assert re.search(rf"{part}(?![.\d])", places), part
    for part in [*(f"Eq. {n}" for n in range(1, 7)), *(f"Fig. {n}" for n in range(1, 8)), "Algorithm 1", "Table 1", "Table 2"]:
        assert part in places, part


def test_a_reason_is_sentences_without_measured_numbers():
    """What was measured is read from the results when a page is built: a number typed here would grow old."""
    for why in [*CLAIMS.why, *VALUES.why, TABLE1.attrs["why"], *TABLE2.attrs["why"].values()]:
        assert why.endswith((".", "?")) and not re.search(r"\d[.]\d|%", why.replace("§5.3", "")), why


def test_what_lies_beside_a_value_of_the_paper_can_be_found():
    for value in VALUES.itertuples():
        assert set(value.results) <= RESULTS and value.rule in RULES
        assert bool(value.results) == pandas.notna(value.where) == pandas.notna(value.of) == (value.rule not in ("equal", "none"))
        assert pandas.notna(value.than) == (value.rule in ("below", "above", "not behind"))
        assert pandas.notna(value.value) == (value.rule in ("equal", "interval"))
        for name in value.results:
            table = attattr.result(name)
            for query in filter(pandas.notna, (value.where, value.than)):
                found = table.query(query)
                assert pandas.notna(found[value.of]).any() and pandas.notna(found[value.of]).all(), (name, query)
            assert pandas.isna(value.each) or value.each in table


def test_what_a_rule_can_judge_is_among_the_claims():
    """So that an outcome by hand and one by rule can be laid side by side."""
    claims = [plain(claim) for claim in CLAIMS.claim]
    for value in VALUES[~VALUES.rule.isin(["equal", "none"])].itertuples():
        assert any(plain(value.said) in claim for claim in claims), value.said


def test_where_paper_and_code_disagree_all_three_sides_are_told():
    assert not CODE.duplicated(["paper", "item"]).any()
    for row in CODE.itertuples():
        assert row.paper in TEXTS and row.met
        assert all(side.endswith(".") for side in (row.said, row.code, row.ours)), row


def test_the_triggers_of_the_paper_are_three_a_class_and_short():
    assert len(TABLE1) == 3 * TABLE1.groupby(["task", "class"]).ngroups == 15
    assert all(label in TASKS[task].labels for task, label in zip(TABLE1.task, TABLE1["class"], strict=True))
    assert TABLE1.tokens.str.len().max() == VALUES[VALUES.what == "tokens of a trigger at most"].value.item()
    shared = TABLE1[TABLE1.tokens.str.join(" ") == "floods Iowa ice Florida"]
    assert list(shared["class"]) == ["entailment", "neutral"]


def test_the_tables_of_the_paper_are_in_its_text(texts):
    for row in TABLE1.itertuples():
        assert plain("{" + ", ".join(row.tokens) + "}") in texts["hao2020"]
    cells = (PAPERS / TEXTS["hao2020"]).read_text(encoding="utf-8").split("contra-\tentail-")[1].split("Table 2:")[0]
    printed = [float(number) for number in re.findall(r"-?\d+\.\d+", cells)]
    assert sorted(printed) == sorted(TABLE2.percent)


@pytest.fixture(scope="module")
def chapter14():
    """What the cells of chapter 14 compute, without its figures and its model."""
    names = [
        "imports",
        "ex-number-outcome-solution",
        "ex-over-tasks-solution",
        "ex-does-not-follow-solution",
        "read",
        "judge",
        "records",
        "fig6-records",
        "tables",
        "points",
        "counts",
        "controls",
        "orders",
        "words-code",
        "table1",
        "table2",
        "shares",
        "shown-code",
        "size-numbers",
        "conclude-table",
    ]
    cells = json.loads((ROOT / "book" / "14-the-paper-reproduced.ipynb").read_text(encoding="utf-8"))["cells"]
    found, frames = {}, {}
    for cell in cells:
        if cell["id"] in names:
            exec("".join(cell["source"]), found)
            frames[cell["id"]] = pandas.DataFrame(found.get("frame")).T
    return found | {"frames": frames}


def test_chapter_14_says_in_words_what_its_cells_compute(chapter14):
    outcomes = chapter14["outcomes"].merge(VALUES[["rule", "what"]], left_on="value", right_index=True)
    outcomes = outcomes[outcomes["size"] == "6 layers"]
    orders = outcomes[outcomes.rule.isin(["below", "above", "not behind"])]
    counts = chapter14["frames"]["orders"]
    first, second = (counts[counts.index.str.match(rf"{name}.*\)(, 6 layers)?$")] for name in ("Hao", "Abnar"))
    assert (first.same > first.statements / 2).all(), "its orders mostly hold"
    assert len(second) and (second.differs == second.statements).all(), "its order of methods is not found"
    for use in ("attribution's choice is better", "edges of the graph", "with random words", "heads pruned", "five points of Taylor"):
        assert (orders[orders.what.str.contains(use)].outcome == "same").all(), use
    told = chapter14["records"].merge(VALUES[["value", "place"]].rename(columns={"value": "number"}), left_on="value", right_index=True)
    stars = told[told.place.eq("§5.2, Fig. 5") & told.number.notna()]
    assert len(stars) == 4 and (100 * stars.ours < stars.number).all(), "both of ours are lower, at either size"
    stars = told[told.place.eq("§5.1, Fig. 3") & told.number.notna()]
    assert stars[["task", "key"]].drop_duplicates().shape[0] == 3 * len(TASKS), "each task, three readings"
    met = stars[100 * stars.ours >= stars.number]
    assert met[["task", "key"]].to_numpy().tolist() == [["SST-2", "right"]], "where the curve of attribution meets the star"
    end = {size: attattr.result(f"{size}fig5-mnli").query("measure == 'accuracy' and rate == 0.9") for size in ("", "base/")}
    small, large = (found.groupby("method").value.mean() for found in end.values())
    assert small["taylor"] <= small["random"] < small["attribution"], "at 90 %, Taylor is not above the random order"
    assert max(large["taylor"], large["attribution"]) <= large["random"], "in twelve layers, attribution is not, either"


def test_chapter_14_says_in_words_what_its_controls_give(chapter14):
    assert chapter14["points"].holds.mean() < 0.5, "levels mostly differ"
    assert 0.4 < chapter14["inside"].mean() < 0.6, "with both errors, about half are the same"
    control = chapter14["frames"]["controls"]
    reached = control["at least ours"].str.rstrip("%").apply(pandas.to_numeric, errors="coerce") / 100
    assert reached["classes shuffled"] < 0.15, "few among all classes"
    assert 0.2 < reached["classes shuffled within tasks"] < 0.5, "about a third within the tasks"
    assert control.same["ours"] / 2 < control.same["no attack"] < control.same["ours"], "not far below"
    assert control.r["random words"] > 0.9 * control.r["ours"], "nearly the same"
    assert control.r["classes shuffled within tasks"] < 0.8 * control.r["random words"], "lower"


def test_chapter_14_concludes_no_more_than_its_comparisons_show(chapter14):
    uses, tested = chapter14["frames"]["conclude-table"], chapter14["tested"]
    hold, of = (uses.hold.str.split(" of ").str[place].astype(int) for place in (0, 1))
    assert (uses.clearly <= hold).all() and uses["smallest margin"].str.fullmatch(r"[+−]0\.\d\d ± 0\.\d\d").all()
    by_set = uses.index.str.startswith("Order by the set")
    assert (hold == of)[by_set].all() and (uses.clearly > of / 2)[by_set].all(), "clear on most tasks"
    half = uses.index.str.startswith("Half of the heads")
    assert (uses.clearly <= of / 2)[half].all(), "clear on few of the tasks"
    assert (hold == of)[half].tolist() == [True, False], "not on each task in twelve layers"
    of_task = tested[tested.what.str.contains("half of the heads pruned")].set_index(["size", "task"]).ours
    by_chance = tested[tested.what.eq("in random order")].set_index(["size", "task"]).ours
    assert len(by_chance) >= len(TASKS) and (by_chance < of_task).all(), "in a random order the cost is larger on each task"


def test_chapter_14_counts_the_triggers_that_share_a_word_where_they_were_mined(chapter14):
    shared = chapter14["frames"]["table1"].T.filter(like="shared").stack().dropna()
    assert len(shared) == 5 + 5 and shared[shared != "none"].tolist() == ["not"]


def test_the_rows_of_a_class_are_those_of_the_development_sets():
    folder = next((path for path in (ROOT.parent / "shared" / "glue", Path("/work/shared/glue")) if path.is_dir()), None)
    for task, of_class in TABLE2.attrs["dev_rows"].items():
        rows = attattr.result(f"accuracy-{task}").query("split == 'dev'")["rows"]
        assert (rows == sum(of_class.values())).all(), task
        if folder is not None:
            assert Counter(row["label"] for row in read_split(TASKS[task], folder)) == of_class, task


def test_two_entries_of_table_2_are_no_shares_of_their_rows(chapter14):
    items = " ".join(chapter14["items"])
    assert len(chapter14["items"]) == 2 and "MNLI entailment, trigger 2: 1.83" in items and "RTE not entailment, trigger 2: 62.50" in items
    wrong = chapter14["does_not_follow_solution"]
    of_class = TABLE2.pivot(index=["task", "class"], columns="trigger", values="percent")
    for entry in (("mnli", "entailment"), ("rte", "not_entailment")):
        own, rows = of_class.loc[entry], TABLE2.attrs["dev_rows"][entry[0]][entry[1]]
        for share in chapter14["nearest"](own["trigger 2"], rows):
            three = [own["trigger 1"], share, own["trigger 3"]]
            assert wrong([own["no trigger"]], [three], [own["average change"]]) == [0], "the change would not follow from it either"


def test_chapter_14_says_what_changes_with_size(chapter14):
    changed, every = chapter14["changed"], chapter14["judged_in_both"]
    second = changed.claim.str.contains("flow is ahead of rollout")
    assert changed.key[second].tolist() == ["blank-out", "input gradient"] and changed["12 layers"][second].all()
    ranks = chapter14["tested"].query("size == '12 layers'").set_index(["what", "key"])
    assert (ranks.loc[changed.claim[second].iloc[0], ["ours", "than"]] < 0).all(axis=None), "both are negative"
    changed, every = changed[~second], every.drop(index=list(changed.value[second]), level="value")
    assert len(changed) < len(every) / 2 and not changed["12 layers"].any(), "all that change hold in six layers, and not in twelve"
    asked = {
        "by attribution: within five": ["MRPC"],
        "with the largest attribution kept": ["SST-2"],
        "removed: more than half": ["SST-2", "MNLI"],
    }
    asked |= {"in the second layer": ["SST-2"], "SST-2 with a sentence-pair task": ["RTE and SST-2", "SST-2 and MRPC"]}
    asked |= {"two sentence-pair tasks": ["MNLI and RTE"], "with the first trigger": ["MNLI"]}
    assert changed.key[changed.claim.str.contains("removed: more than half")].tolist() == ["example", "set"]
    assert {what: changed.task[changed.claim.str.contains(what)].tolist() for what in asked} == asked
    assert len(changed) == sum(map(len, asked.values()))
    entries = chapter14["cells"].pivot(index=["name", "trigger"], columns="size", values="holds").dropna().astype(bool)
    other_way = entries["6 layers"] & ~entries["12 layers"]
    assert (len(entries), (~entries["6 layers"] & entries["12 layers"]).sum(), other_way.sum()) == (25, 9, 6)
    cells = chapter14["cells"].query("size == '12 layers'").set_index(["name", "trigger"])
    assert cells.ours["MNLI entailment", "trigger 1"].round(1) == 3.0 and cells.rows["MNLI entailment", "trigger 1"] == 67
    r = attattr.result("size").query("place == '§5.2, Fig. 6'").set_index("task").base.round(2)
    of_sst2 = r[r.index.str.contains("sst2")]
    assert r["mnli and rte"] == 0.59 and (of_sst2.min(), of_sst2.max()) == (0.6, 0.83)


def test_the_table_of_sizes_is_what_the_results_give_now():
    table = attattr.result("size")
    again = pandas.DataFrame(size.compared(), columns=table.columns)
    pandas.testing.assert_frame_equal(again, table, check_dtype=False)
    assert set(table.paper) & set(VALUES.said) and not table[["claim", "small", "base", "paper"]].isna().any(axis=None)
