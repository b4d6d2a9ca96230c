"""The built pages in a real browser, with the network off: wide, telephone-narrow, and by keyboard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
PAGES = [f"book/{name}" for name in (*CHAPTERS, "references")] + ["data/examples/README", "index", "search", "genindex"]
CONTENTS = {  # of the pages that have any: how many figures, and how many controls in them
    "book/index": [1, 1],
    "book/01-meet-the-model": [3, 3],
    "book/02-attention-is-not-attribution": [4, 1],
    "book/03-self-attention-attribution": [5, 1],
    "book/04-attribution-graphs-and-trees": [4, 3],
    "book/05-do-the-scores-matter": [2, 2],
    "book/06-receptive-field": [1, 1],
    "book/07-pruning-heads": [3, 3],
    "book/08-which-heads-are-universal": [2, 1],
    "book/09-adversarial-triggers": [2, 0],
    "book/10-what-a-trigger-proves": [2, 2],
    "book/11-rollout-and-flow": [3, 3],
    "book/12-which-explanation-ranks-words": [4, 4],
    "book/13-beyond-bert": [2, 0],
}
THEME_NOISE = ("THEBE_JS_URL", "invalid theme mode")  # sphinx-thebe and pydata-sphinx-theme write these on every page
READY = """async () => {
  if (window.MathJax?.startup) await MathJax.startup.promise;
  return [...document.querySelectorAll(".plotly-canvas")].every((canvas) => canvas.querySelector(".main-svg"));
}"""
UNFOLD = """() => {
  document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
  document.querySelectorAll(".toggle-hidden").forEach((fold) => fold.classList.remove("toggle-hidden"));
}"""


@dataclass
class Visit:
    """One page as a browser saw it."""

    name: str
    page: Page
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def visit(chromium: Browser, book: Path, name: str, width: int) -> Visit:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    seen = Visit(name, page)
    page.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: route.abort())
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: seen.failed.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.goto(f"file://{book}/{name}.html", wait_until="load")
    page.wait_for_function(READY)
    return seen


@pytest.fixture(scope="module", params=PAGES)
def wide(request: pytest.FixtureRequest, chromium: Browser, built_book: Path) -> Iterator[Visit]:
    seen = visit(chromium, built_book, request.param, 1400)
    yield seen
    seen.page.close()


def test_a_page_asks_nothing_of_any_host_and_misses_no_file(wide: Visit) -> None:
    assert [url for url in wide.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert wide.failed == []


def test_a_page_logs_no_error(wide: Visit) -> None:
    assert [text for text in wide.errors if not any(noise in text for noise in THEME_NOISE)] == []


def test_a_page_has_its_figures_and_controls(wide: Visit) -> None:
    found = [len(wide.page.query_selector_all(kind)) for kind in (".plotly-figure", ".plotly-controls :is(input, select)")]
    if wide.name != "index":  # which leads to book/index at once
        assert found == CONTENTS.get(wide.name, [0, 0])


def test_every_figure_is_drawn_and_described(wide: Visit) -> None:
    for figure in wide.page.query_selector_all(".plotly-figure"):
        assert (figure.get_attribute("aria-label") or "").strip()
        assert figure.query_selector(".js-plotly-plot .main-svg")
        assert figure.query_selector(".js-plotly-plot :is(.trace, .heatmaplayer image, .barlayer path)"), "axes, and nothing drawn"
        assert not figure.query_selector(".slider-container"), "Plotly's slider beside the native one"


def test_math_is_typeset(wide: Visit) -> None:
    for formula in wide.page.query_selector_all(".math"):
        assert formula.query_selector("mjx-container svg"), formula.inner_text()
        assert not formula.query_selector("[data-mjx-error]"), formula.inner_html()


def test_controls_work_by_keyboard(wide: Visit) -> None:
    page = wide.page
    page.evaluate(UNFOLD)
    page.wait_for_timeout(300)  # figures that were folded take their width
    for figure in page.query_selector_all(".plotly-figure"):
        for control in figure.query_selector_all(".plotly-controls :is(input, select)"):
            assert control.evaluate("control => control.labels[0].textContent.trim()")
            drawings = []
            for key in ("Home", "End"):
                control.focus()
                page.keyboard.press(key)
                page.wait_for_timeout(300)  # Plotly redraws
                drawings.append(figure.eval_on_selector(".js-plotly-plot .main-svg", "svg => svg.innerHTML"))
            assert drawings[0] != drawings[1], "the control moves, the figure does not"
            page.keyboard.press("ArrowLeft")
            last = control.evaluate("control => control.max ?? control.options.length - 1")
            assert int(control.input_value()) == int(last) - 1


@pytest.mark.parametrize("name", PAGES)
def test_a_telephone_shows_the_page_without_sideways_scrolling(chromium: Browser, built_book: Path, name: str) -> None:
    page = visit(chromium, built_book, name, 390).page
    page.evaluate(UNFOLD)
    page.wait_for_timeout(300)
    too_wide = """() => document.documentElement.scrollWidth <= innerWidth ? null : [...document.querySelectorAll("body *")]
      .filter((element) => element.getBoundingClientRect().right > innerWidth).map((element) => element.outerHTML.slice(0, 120))"""
    assert page.evaluate(too_wide) is None
    page.close()


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_can_be_opened_in_colab(built_book: Path, name: str) -> None:
    text = (built_book / "book" / f"{name}.html").read_text(encoding="utf-8")
    assert "https://colab.research.google.com/github/" in text
    assert f"/attattr/blob/notebooks/book/{name}.ipynb" in text


def test_the_first_page_leads_to_the_index(chromium: Browser, built_book: Path) -> None:
    page = visit(chromium, built_book, "index", 1400).page
    page.wait_for_url("**/book/index.html")
    assert page.query_selector("h1")
    page.close()
