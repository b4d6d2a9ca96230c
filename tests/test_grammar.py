"""The grammar of figures: that the numbers given are the numbers drawn, and that words stand where they belong, also in a browser."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas
import plotly
import plotly.express as px
import plotly.graph_objects as go
import pytest
import torch
from conftest import ROOT

from attattr.book.pages import BUNDLE, PageRenderer
from attattr.figures import grammar

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TABLE = pandas.DataFrame(
    {
        "rule": ["paper", "random", "paper", "random"],
        "steps": [1, 1, 2, 2],
        "error": [0.4, 0.9, 0.1, 0.8],
        "low": [0.3, 0.7, 0.0, 0.6],
        "high": [0.6, 1.0, 0.2, 0.9],
    }
)
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PAGE = """<!doctype html><meta charset="utf-8"><div class="plotly-figure"><div class="plotly-canvas"></div>
<script type="application/json">{figure}</script></div><script src="file://{plotly}"></script><script src="file://{draw}"></script>"""


def line(y: list[float], **layout: object) -> go.Figure:
    return go.Figure(go.Scatter(x=[0, 1], y=y), layout=layout)


def frame_numbers(figure: go.Figure, key: str) -> list[list[float]]:
    return [list(frame.data[0][key]) for frame in figure.frames]


# how things look


def test_names_are_never_told_apart_by_colour_alone() -> None:
    names = [*grammar.LOOKS, "one", "two", "three"]
    for shown in (["attribution", "attention", "attention, same heads", "random"], ["attention", "one", "two", "three"], names[3:]):
        kinds = grammar.looks(shown)
        assert len({(kinds["line_dash_map"][name], kinds["symbol_map"][name]) for name in shown}) == len(shown)
        assert list(kinds["color_discrete_map"]) == shown


def test_a_known_name_looks_the_same_in_every_figure() -> None:
    alone, among = grammar.looks(["random"]), grammar.looks(["one", "random", "attention"])
    assert all(alone[kind]["random"] == among[kind]["random"] for kind in alone)


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_words_is_refused(alt: str) -> None:
    with pytest.raises(ValueError, match="alternative text"):
        grammar.page(go.Figure(), alt, 300)


def test_a_page_carries_its_words_height_and_width() -> None:
    figure = grammar.page(line([1, 2]), "Two points.", 300, min_width=700, showlegend=False)
    assert figure.layout.meta == {"alt": "Two points.", "min_width": 700}
    assert (figure.layout.height, figure.layout.showlegend, figure.layout.dragmode) == (300, False, False)


# tokens


def test_tokens_stand_at_their_own_places_whatever_they_say() -> None:
    tokens = ["it", "won", "3", "to", "2"]
    axis = grammar.token_axis(tokens, tickangle=-60)
    assert (axis["type"], axis["tickvals"], axis["ticktext"], axis["tickangle"]) == ("linear", [0, 1, 2, 3, 4], tokens, -60)


def test_tokens_are_shown_as_they_are_and_equal_ones_are_kept_apart() -> None:
    tokens = ["<s>", "a", "<br>", "&amp;", "a", "</s>"]
    labels = grammar.token_labels(tokens)
    assert [unescape(label) for label in labels] == ["<s>", "a ·1", "<br>", "&amp;", "a ·4", "</s>"]
    assert not any("<" in label for label in labels)


# builders


def test_a_heat_map_holds_the_numbers_in_whole_per_cents_of_its_limit() -> None:
    values = torch.tensor([[0.5, -0.25, 0.0], [2.0, -3.0, 1.0]])
    map_ = grammar.heat(values, ["a", "b"], ["x", "y", "x"], limit=2.0, diverging=True)
    assert np.array_equal(map_.z, [[25, -12, 0], [100, -100, 50]])
    assert map_.z.dtype == np.int8
    assert (map_.zmin, map_.zmax, list(map_.colorbar.ticktext)) == (-100, 100, ["-2", "-1", "0", "1", "2"])
    assert map_.hovertext.tolist() == [["a → x ·0", "a → y", "a → x ·2"], ["b → x ·0", "b → y", "b → x ·2"]]
    assert map_.hovertemplate.startswith("%{hovertext}: %{z} % of 2")


def test_a_heat_map_of_shares_begins_at_zero_and_one_of_nothing_is_blank() -> None:
    assert grammar.heat([[0.3]], ["a"], ["b"]).zmin == 0
    nothing = grammar.heat(np.zeros((2, 2)), limit=0.0, diverging=True)
    assert not nothing.z.any()
    assert nothing.hoverinfo == "skip"


@pytest.mark.parametrize(("values", "match"), [([[np.nan]], "1 numbers of a heat map are not finite"), ([[1.0, 2.0]], r"\(1, 2\)")])
def test_numbers_that_make_no_heat_map_are_refused(values: list, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        grammar.heat(values, ["a"], ["b"])


def test_a_curve_draws_each_line_with_its_band() -> None:
    figure = grammar.curve(TABLE, "steps", "error", "rule", "low", "high")
    bands, lines = figure.data[:2], figure.data[2:]
    assert [(line.name, list(line.x), list(line.y)) for line in lines] == [("paper", [1, 2], [0.4, 0.1]), ("random", [1, 2], [0.9, 0.8])]
    assert [list(band.y) for band in bands] == [[0.6, 0.2, 0.0, 0.3], [1.0, 0.9, 0.6, 0.7]]
    assert [list(band.x) for band in bands] == [[1, 2, 2, 1]] * 2
    assert lines[0].customdata.tolist() == [[0.3, 0.6], [0.0, 0.2]]
    assert [band.legendgroup for band in bands] == [line.legendgroup for line in lines]
    assert lines[1].line.color == grammar.CONTROL


def test_a_curve_without_a_band_is_a_line_only() -> None:
    figure = grammar.curve(TABLE, "steps", "error", "rule")
    assert [list(line.y) for line in figure.data] == [[0.4, 0.1], [0.9, 0.8]]


def test_what_was_measured_once_has_no_band_beside_what_has_one() -> None:
    once = TABLE.rule == "paper"
    table = TABLE.assign(low=TABLE.low.where(~once, TABLE.error), high=TABLE.high.where(~once, TABLE.error))
    band, first, second = grammar.curve(table, "steps", "error", "rule", "low", "high").data
    assert (band.legendgroup, first.name, second.name) == ("random", "paper", "random")
    assert first.customdata is None and "customdata" not in first.hovertemplate


@pytest.mark.parametrize("by", ["rule", None])
def test_dots_stand_in_the_order_of_the_table_with_their_intervals(by: str | None) -> None:
    table = TABLE.assign(task=["2", "10", "10", "2"])
    figure = grammar.dots(table, "error", "task", "low", "high", by)
    drawn = {
        (task, round(x, 6)): (round(x - minus, 6), round(x + plus, 6))
        for trace in figure.data
        for task, x, plus, minus in zip(trace.y, trace.x, trace.error_x.array, trace.error_x.arrayminus, strict=True)
    }
    rows = zip(table["task"], table["error"], zip(table["low"], table["high"], strict=True), strict=True)
    assert drawn == {(task, x): interval for task, x, interval in rows}
    assert figure.layout.yaxis.type == "category"
    assert list(figure.layout.yaxis.categoryarray) == ["2", "10"]
    assert [(note.text, note.y) for note in figure.layout.annotations] == [("2", 0), ("10", 1)]


# figures joined


def test_a_menu_shows_one_figure_at_a_time_with_its_own_layout() -> None:
    one = grammar.page(line([1, 2]).add_scatter(y=[3], visible="legendonly"), "Up.", 300)
    two = grammar.page(line([5, 4]), "Down.", 400, min_width=600)
    figure = grammar.choose({"first": one, "second": two}, "Show", active=1)
    assert [list(trace.y) for trace in figure.data] == [[1, 2], [3], [5, 4]]
    (menu,) = figure.layout.updatemenus
    assert [(button.label, button.args[0]["visible"], button.args[1]) for button in menu.buttons] == [
        ("first", [True, "legendonly", False], {"height": 300}),
        ("second", [False, False, True], {"height": 400}),
    ]
    assert ([trace.visible for trace in figure.data], menu.active, menu.name) == ([False, False, True], 1, "Show")
    assert figure.layout.height == 400
    assert figure.layout.meta == {"alt": "first: Up. second: Down.", "min_width": 600}


def test_one_figure_needs_no_menu() -> None:
    assert not grammar.choose({"only": line([1, 2])}, "Show").layout.updatemenus


def test_a_slider_moves_through_whole_figures_by_what_differs() -> None:
    same = go.Scatter(y=[7], name="same")
    figures = {str(top): line([0, top], yaxis_range=[0, top]).add_trace(same) for top in (1, 2, 3)}
    figure = grammar.slide(figures, "Top:", active=2)
    assert frame_numbers(figure, "y") == [[0, 1], [0, 2], [0, 3]]
    assert [(frame.name, frame.traces) for frame in figure.frames] == [("1", (0,)), ("2", (0,)), ("3", (0,))]
    assert [list(frame.layout.yaxis.range) for frame in figure.frames] == [[0, 1], [0, 2], [0, 3]]
    assert list(figure.data[0].y) == [0, 3]
    (slider,) = figure.layout.sliders
    assert [(step.label, list(step.args[0])) for step in slider.steps] == [("1", ["1"]), ("2", ["2"]), ("3", ["3"])]
    assert (slider.active, slider.currentvalue.prefix) == (2, "Top: ")


def test_figures_of_plotly_express_can_slide_words_and_all() -> None:
    tables = {str(n): TABLE.assign(rule=[f"{word} {n}" for word in "abcd"]) for n in (1, 2)}
    figure = grammar.slide({name: px.bar(table, x="rule", y="error", hover_data=["rule", "low"]) for name, table in tables.items()}, "n:")
    assert frame_numbers(figure, "x") == [["a 1", "b 1", "c 1", "d 1"], ["a 2", "b 2", "c 2", "d 2"]]


def test_a_menu_swaps_what_lines_hold_and_the_slider_that_reveals_them_stays() -> None:
    def view(sign: int) -> go.Figure:
        drawn = [(go.Scatter(y=[sign * rank]), range(rank, 3)) for rank in range(3)]
        return grammar.reveal(drawn, ["one", "two", "three"], "How many:", active=1)

    figure = grammar.swap({"plus": view(1), "minus": view(-1)}, "Show", active=1)
    assert [trace.y[0] for trace in figure.data] == [0, -1, -2]
    assert [trace.visible for trace in figure.data] == [True, True, False]
    assert [[trace.y[0] for trace in frame.data] for frame in figure.frames] == [[1, 2], [-1, -2]]  # the first is 0 in both
    assert all("visible" not in trace.to_plotly_json() for frame in figure.frames for trace in frame.data)
    assert [step.args[0]["visible"] for step in figure.layout.sliders[0].steps] == [[True] * n + [False] * (3 - n) for n in (1, 2, 3)]
    assert [(button.label, *button.args[0]) for button in figure.layout.updatemenus[0].buttons] == [("plus", "plus"), ("minus", "minus")]


@pytest.mark.parametrize("join", [grammar.choose, grammar.slide, grammar.swap])
def test_figures_that_cannot_be_joined_are_refused(join: object) -> None:
    sliding = grammar.slide({"a": line([1, 2]), "b": line([2, 1])}, "n:")
    with pytest.raises(ValueError, match="0 figures"):
        join({}, "Show")
    with pytest.raises(ValueError, match="frames of its own"):
        join({"a": sliding}, "Show")


def test_each_way_of_joining_refuses_what_it_cannot_do() -> None:
    revealed = [grammar.reveal([(go.Scatter(), [0])], labels, "n:") for labels in (["a"], ["b"])]
    with pytest.raises(ValueError, match="swap"):
        grammar.choose({"a": revealed[0]}, "Show")
    for join in (grammar.slide, grammar.swap):
        with pytest.raises(ValueError, match="different sliders"):
            join({"a": revealed[0], "b": revealed[1]}, "Show")
        with pytest.raises(ValueError, match="different traces"):
            join({"a": line([1, 2]), "b": go.Figure(go.Bar())}, "Show")


def test_together_groups_what_is_seen_at_the_same_positions() -> None:
    assert grammar.together([["a", "b"], ["b", "c"], ["b", "c"]]) == [((0,), ["a"]), ((0, 1, 2), ["b"]), ((1, 2), ["c"])]


# in a browser, as the book draws them


def drawn(chromium: Browser, folder: Path, figure: go.Figure) -> Page:
    file = folder / "page.html"
    text = json.dumps(json.loads(figure.to_json())).replace("<", "\\u003c")
    file.write_text(PAGE.format(figure=text, plotly=PLOTLY, draw=ROOT / "book" / "_static" / "figures.js"), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    page.goto(f"file://{file}", wait_until="load")
    page.wait_for_selector(".plotly-canvas .main-svg")
    page.wait_for_timeout(100)  # as wide as its column
    return page


@pytest.mark.parametrize("text", ["it won 3 to 2", "7 of 10", "<s> a <br> b </s>", "2 1 0", "x"])
def test_words_stand_at_their_rows_and_columns_and_the_map_is_full(chromium: Browser, tmp_path: Path, text: str) -> None:
    tokens = text.split()
    figure = go.Figure(grammar.heat(np.eye(len(tokens)), tokens, tokens))
    rows = grammar.token_axis(tokens, range=[len(tokens) - 0.5, -0.5])
    page = drawn(chromium, tmp_path, grammar.page(figure.update_xaxes(grammar.token_axis(tokens)).update_yaxes(rows), "A map.", 400))
    at = page.evaluate("""() => {
      const layout = document.querySelector(".js-plotly-plot")._fullLayout;
      const side = { x: "width", y: "height" };
      const middle = (tick, axis) => { const box = tick.getBoundingClientRect(); return box[axis] + box[side[axis]] / 2; };
      const plot = document.querySelector(".nsewdrag").getBoundingClientRect();
      const words = (axis) => [...document.querySelectorAll(`.${axis}tick`)].map((tick) => [
        tick.textContent, Math.round(layout[axis + "axis"].p2c(middle(tick, axis) - plot[axis]) * 10) / 10]);
      const map = document.querySelector(".heatmaplayer image").getBoundingClientRect();
      return { x: words("x"), y: words("y"), full: [map.width / plot.width, map.height / plot.height] };
    }""")
    expected = [[token, place] for place, token in enumerate(tokens)]
    for axis in ("x", "y"):
        assert sorted(at[axis], key=lambda word: word[1]) == [[word, pytest.approx(place, abs=0.2)] for word, place in expected]
    assert at["full"] == pytest.approx([1, 1], abs=0.02)
    page.close()


def test_menu_and_slider_work_together_in_either_order(chromium: Browser, tmp_path: Path) -> None:
    def view(sign: int) -> go.Figure:
        traces = [(go.Scatter(x=[0, 1], y=[0, sign * (rank + 1)], mode="lines"), range(rank, 3)) for rank in range(3)]
        return grammar.reveal(traces, ["1", "2", "3"], "How many:")

    page = drawn(chromium, tmp_path, grammar.page(grammar.swap({"up": view(1), "down": view(-1)}, "Show"), "Lines.", 300))
    ends = """() => { const plot = document.querySelector(".js-plotly-plot");
      return plot.calcdata.filter((line) => line[0].trace.visible === true).map((line) => line[1].y); }"""
    slider, menu = page.locator("input[type=range]"), page.locator("select")
    assert page.evaluate(ends) == [1]
    for move, expected in [
        (lambda: slider.press("ArrowRight"), [1, 2]),
        (lambda: menu.select_option(label="down"), [-1, -2]),
        (lambda: slider.press("End"), [-1, -2, -3]),
        (lambda: menu.select_option(label="up"), [1, 2, 3]),
        (lambda: slider.press("Home"), [1]),
    ]:
        move()
        page.wait_for_timeout(300)  # Plotly redraws
        assert page.evaluate(ends) == expected
    page.close()


def test_a_notebook_draws_the_figure_with_controls_and_words_from_the_bundle_of_the_book(chromium: Browser, tmp_path: Path) -> None:
    views = {name: line([0, top]) for name, top in (("low", 1), ("high", 2))}
    figure = grammar.page(grammar.slide(views, "Top:"), "A line. It rises.", 300)
    file = tmp_path / "page.html"
    file.write_text("<!doctype html>" + PageRenderer().to_mimebundle(figure.to_dict())["text/html"], encoding="utf-8")
    page = chromium.new_page()
    static = ROOT / "book" / "_static" / "plotly-cartesian.min.js"
    headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "text/javascript"}
    page.route(BUNDLE, lambda route: route.fulfill(path=static, headers=headers))  # to the byte, or the browser refuses it
    page.goto(f"file://{file}")
    page.wait_for_selector(".plotly-canvas .main-svg")
    page.locator("input[type=range]").press("End")
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelector('.js-plotly-plot').calcdata[0][1].y") == 2
    assert page.locator("[role=figure]").get_attribute("aria-label") == "A line."
    assert page.locator(".in-words p").first.text_content() == "A line. It rises."
    assert page.locator(".sr-only").text_content().startswith("Top: high")
    page.close()


def test_columns_of_plotly_express_stand_below_one_another_where_it_is_narrow(chromium: Browser, tmp_path: Path) -> None:
    figure = px.scatter(TABLE, x="steps", y="error", facet_col="rule")
    page = drawn(chromium, tmp_path, grammar.page(figure, "Two panels.", 300))
    domains = "() => { const { xaxis, xaxis2, yaxis, yaxis2 } = document.querySelector('.js-plotly-plot')._fullLayout;"
    domains += " return [xaxis, xaxis2, yaxis, yaxis2].map((axis) => axis.domain); }"
    wide = page.evaluate(domains)
    assert wide[0][1] < wide[1][0] and wide[2] == wide[3] == [0, 1]
    page.set_viewport_size({"width": 400, "height": 700})
    page.wait_for_timeout(300)
    narrow = page.evaluate(domains)
    assert narrow[0] == narrow[1] == [0, 1] and narrow[3][1] < narrow[2][0]
    page.set_viewport_size({"width": 900, "height": 700})
    page.wait_for_timeout(300)
    assert page.evaluate(domains) == wide
    page.close()
