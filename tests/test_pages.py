"""The built pages in a real browser, with the network off: wide, telephone-narrow, in the dark, on paper, and by keyboard."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import axe_playwright_python
import pytest
from conftest import ROOT
from PIL import Image
from plotly.offline import get_plotlyjs_version
from pypdf import PdfReader

sys.path.append(str(ROOT / "book" / "_ext"))
import whole_book

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ElementHandle, Page

CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
PAGES = [f"book/{name}" for name in (*CHAPTERS, "own-sentence", "references")] + ["data/examples/README", "index", "search", "genindex"]
CONTENTS = {  # of the pages that have any: how many figures, and how many controls in them
    "book/index": [1, 2],
    "book/01-meet-the-model": [3, 4],
    "book/02-attention-is-not-attribution": [4, 1],
    "book/03-self-attention-attribution": [5, 1],
    "book/04-attribution-graphs-and-trees": [4, 6],
    "book/05-do-the-scores-matter": [2, 2],
    "book/06-receptive-field": [1, 1],
    "book/07-pruning-heads": [4, 5],
    "book/08-which-heads-are-universal": [2, 2],
    "book/09-adversarial-triggers": [2, 1],
    "book/10-what-a-trigger-proves": [2, 2],
    "book/11-rollout-and-flow": [3, 4],
    "book/12-which-explanation-ranks-words": [4, 4],
    "book/13-beyond-bert": [2, 0],
    "book/14-the-paper-reproduced": [5, 5],
    "book/15-your-own-model": [2, 2],
}
GRAPHS, MAPS = "book/04-attribution-graphs-and-trees", "book/02-attention-is-not-attribution"
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
THEIRS = {"region"}  # what axe finds in the theme's own parts: its sidebar has no landmark
HEAVIEST = 500_000  # bytes of a page beyond shared scripts
READY = """async () => {
  if (window.MathJax?.startup) await MathJax.startup.promise;
  const figures = [...document.querySelectorAll(".plotly-figure")].filter((figure) => figure.checkVisibility());
  for (const figure of figures) {  // they are drawn as they come near
    for (let waits = 0; waits < 1000 && !figure.querySelector(".main-svg"); waits++) {
      figure.scrollIntoView({ behavior: "instant" });
      await new Promise((done) => setTimeout(done, 20));
    }
  }
  scrollTo({ top: 0, behavior: "instant" });
  return true;
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


def visit(chromium: Browser, book: Path, name: str, width: int, theme: str = "light") -> Visit:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    seen = Visit(name, page)
    page.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: route.abort())
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: seen.failed.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.goto(f"file://{book}/{name}.html", wait_until="load")
    if name == "index":
        page.wait_for_url("**/book/index.html", wait_until="load")  # it only leads there
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
    assert wide.errors == []


def test_a_page_has_its_figures_and_controls(wide: Visit) -> None:
    found = [len(wide.page.query_selector_all(kind)) for kind in (".plotly-figure", ".plotly-controls :is(input, select)")]
    if wide.name != "index":  # which leads to book/index at once
        assert found == CONTENTS.get(wide.name, [0, 0])


def test_every_figure_is_drawn_and_described(wide: Visit) -> None:
    wide.page.evaluate(UNFOLD)
    wide.page.evaluate(READY)  # those that were folded
    for figure in wide.page.query_selector_all(".plotly-figure"):
        assert 10 < len((figure.get_attribute("aria-label") or "").strip()) <= 155
        assert figure.query_selector(".in-words p").inner_text().strip()
        assert figure.query_selector(".js-plotly-plot .main-svg")
        assert figure.query_selector(".js-plotly-plot :is(.trace, .heatmaplayer image, .barlayer path)"), "axes, and nothing drawn"
        assert not figure.query_selector(".slider-container"), "Plotly's slider beside the native one"
        assert not figure.query_selector(".modebar"), "buttons on the picture"


def test_math_is_typeset(wide: Visit) -> None:
    for formula in wide.page.query_selector_all(".math"):
        assert formula.query_selector("mjx-container svg"), formula.inner_text()
        assert not formula.query_selector("[data-mjx-error]"), formula.inner_html()


def test_controls_work_by_keyboard(wide: Visit) -> None:
    page = wide.page
    page.evaluate(UNFOLD)
    page.evaluate(READY)
    for figure in page.query_selector_all(".plotly-figure"):
        for control in figure.query_selector_all(".plotly-controls :is(input, select)"):
            assert control.evaluate("control => control.labels[0].textContent.trim()")
            if control.get_attribute("type") == "checkbox":
                assert_a_box_shows_what_waits(page, figure, control)
                continue
            drawings = []
            for key in ("Home", "End"):
                control.focus()
                page.keyboard.press(key)
                page.wait_for_timeout(300)  # Plotly redraws
                drawings.append(figure.eval_on_selector(".js-plotly-plot", "plot => plot.className + plot.innerHTML"))
            assert drawings[0] != drawings[1], "the control moves, the figure does not"
            page.keyboard.press("ArrowLeft")
            place = "control => control.max ? control.max - control.value : control.options.length - 1 - control.selectedIndex"
            assert control.evaluate(place) == 1


def assert_a_box_shows_what_waits(page: Page, figure: ElementHandle, box: ElementHandle) -> None:
    """The curves that Plotly keeps in the legend until it is clicked, with their bands. Other bands are there from the start."""
    told = box.evaluate("box => box.labels[0].textContent.replace(/^ with /, '')")
    groups = "plot => plot._fullData.filter((trace) => trace.visible === 'legendonly').map((trace) => trace.legendgroup || trace.name)"
    assert set(told.split(", ")) == set(", ".join(figure.eval_on_selector(".js-plotly-plot", groups)).split(", "))
    waiting = "plot => plot._fullData.filter((trace) => trace.visible === 'legendonly').length"
    before = figure.eval_on_selector(".js-plotly-plot", waiting)
    box.focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(300)
    assert before > 0 == figure.eval_on_selector(".js-plotly-plot", waiting)


def test_a_page_describes_itself_and_is_not_heavy(built_book: Path) -> None:
    for name in PAGES[:-3]:
        text = (built_book / f"{name}.html").read_text(encoding="utf-8")
        assert len(text.encode()) < HEAVIEST, name
        assert re.search(r'<meta name="description" content="[^"]{40,}', text), name
        picture = re.search(r'<meta property="og:image" content="([^"]+)"', text)
        assert picture and (built_book / name).parent.joinpath(picture[1]).resolve().is_file(), name
        assert re.search(r'<link rel="icon" href="[^"]*favicon.svg', text), name
        assert ("tex-svg.js" in text) == ('class="math' in text), f"{name}: MathJax on pages with formulas, and on no other"


def test_plotly_is_the_part_that_is_used_of_the_version_that_python_has(built_book: Path) -> None:
    text = (built_book / "_static" / "plotly-cartesian.min.js").read_text(encoding="utf-8")
    assert f"plotly.js (cartesian - minified) v{get_plotlyjs_version()}" in text[:100]
    assert len(text) < 1_600_000
    assert "MIT" in (built_book / "_static" / "plotly-cartesian.LICENSE").read_text(encoding="utf-8")
    assert not (built_book / "_static" / "plotly.min.js").exists()


def test_icons_that_are_used_are_drawn_without_the_scripts_of_all(wide: Visit, built_book: Path) -> None:
    assert (built_book / "_static" / "scripts" / "fontawesome.js").stat().st_size < 1000
    look = "icons => icons.map((icon) => [icon.className, getComputedStyle(icon).maskImage.slice(0, 20), icon.offsetWidth])"
    for name, mask, width in wide.page.eval_on_selector_all(":is(i, span):is(.fa-solid, .fas, .fa-brands, .fab)", look):
        assert mask.startswith('url("data:image/svg'), name
        assert width < 40, name


def test_live_cells_show_what_they_last_showed(wide: Visit) -> None:
    for cell in wide.page.query_selector_all("div.cell.tag_run-live"):
        assert cell.query_selector(".last-shown :is(svg, pre)"), "a dead cell"
        assert cell.query_selector(".last-shown .setting")


def test_a_local_book_has_no_button_that_leads_nowhere_and_a_published_one_has_all(wide: Visit) -> None:
    seen = "links => links.map((link) => [...link.closest('.dropdown').children].some((part) => part.offsetParent !== null))"
    links = 'a[href*="/-local-/"]'
    assert not any(wide.page.eval_on_selector_all(links, seen))
    count = len(wide.page.query_selector_all(links))
    published = f"[...document.querySelectorAll('{links}')].forEach((link) => {{ link.href = link.href.replace('/-local-/', '/me/'); }})"
    wide.page.evaluate(published)
    assert wide.page.eval_on_selector_all('a[href*="/me/"]', seen) == [True] * count
    assert count >= (3 if "book/0" in wide.name else 0)


def test_words_and_values_follow_the_slider(chromium: Browser, built_book: Path) -> None:
    page = visit(chromium, built_book, GRAPHS, 1400).page
    figure = page.locator(".plotly-figure").first
    figure.locator("summary").click()
    told = []
    for key in ("Home", "End"):
        figure.locator("input[type=range]").press(key)
        page.wait_for_timeout(600)
        told.append((figure.locator(".sr-only").text_content(), figure.locator(".in-words li").all_inner_texts()))
    assert told[0][0].startswith("τ = 0: ") and told[1][0].startswith("τ = 0.9: ")
    assert all(re.match(r"layer \d, head \d+: .+ reads .+, score [\d.e−]+", line) for line in told[0][1][:-1])
    assert len(told[0][1]) > len(told[1][1]) > 0
    page.close()


def test_the_lines_of_a_word_light_up_under_the_pointer_and_by_keyboard(chromium: Browser, built_book: Path) -> None:
    page = visit(chromium, built_book, GRAPHS, 1400).page
    figure = page.locator(".plotly-figure").first
    ends = """([plot, word]) => [...plot.querySelectorAll("path.strand")].flatMap((path) => path.getAttribute("d").split(/(?=M)/))
      .map((piece) => {
      const numbers = piece.match(/-?[\\d.]+/g).map(Number), axis = plot._fullLayout.xaxis;
      return [axis.p2c(numbers[0]), axis.p2c(numbers.at(-2))].some((x) => Math.abs(x - word) < 0.1);
      })"""
    plot = figure.locator(".plotly-canvas").element_handle()
    menu = figure.locator("select")
    names = menu.locator("option").all_inner_texts()
    word = names.index("boring") - 1
    menu.focus()
    page.keyboard.type("boring")
    page.wait_for_timeout(100)
    found = page.evaluate(ends, [plot, word])
    assert len(found) >= 3 and all(found), "a line of another word"
    said = figure.locator(".strands").inner_text()
    assert said.startswith("“boring”.") and "is read by “[CLS]”" in said
    menu.select_option(label="all words")
    assert not figure.locator("path.strand").count()
    figure.locator(".xtick text").nth(word).hover(force=True)
    assert figure.locator(".strands").inner_text() == said
    page.close()


def test_panels_stand_below_one_another_on_a_telephone_and_beside_one_another_again(chromium: Browser, built_book: Path) -> None:
    page = visit(chromium, built_book, MAPS, 390).page
    boxes = "maps => maps.map((map) => { const { left, right, top } = map.getBoundingClientRect(); return [left, right, top]; })"
    figure = page.locator(".plotly-figure").first.element_handle()
    narrow = figure.eval_on_selector_all(".heatmaplayer image", boxes)
    assert len(narrow) == 2
    assert all(0 <= left < right <= 390 for left, right, _ in narrow), "half of the figure is off the screen"
    assert narrow[1][2] > narrow[0][2] + 200
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_timeout(500)
    wide = figure.eval_on_selector_all(".heatmaplayer image", boxes)
    assert wide[0][2] == wide[1][2] and wide[1][0] > wide[0][1]
    page.close()


def test_figures_follow_their_column_and_the_dark(chromium: Browser, built_book: Path) -> None:
    page = visit(chromium, built_book, MAPS, 1400).page
    figure = page.locator(".plotly-figure").first
    before = figure.locator(".main-svg").first.bounding_box()["width"]
    figure.evaluate("figure => { figure.parentElement.style.width = '640px'; }")
    page.wait_for_timeout(500)
    assert figure.locator(".main-svg").first.bounding_box()["width"] <= 640 < before
    corners = []
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        picture = Image.open(io.BytesIO(figure.locator(".plotly-canvas").screenshot())).convert("L")
        corners.append(picture.getpixel((3, 3)))
        assert picture.getextrema()[1] - picture.getextrema()[0] > 150, "no contrast"
    assert corners[0] > 240 and corners[1] < 40
    bright = figure.locator(".colorbar .cbfill").last.evaluate("fill => [fill.style.fill, !!fill.closest('.as-it-is')]")
    assert not bright[1] or "rgb(254, 232, 56)" in bright[0]
    assert figure.locator(".heatmaplayer .as-it-is").count() == 1, "attention keeps its scale, attribution is turned"
    page.close()


def test_paper_has_all_figures_whole_the_code_and_the_answers(chromium: Browser, built_book: Path) -> None:
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"file://{built_book}/{GRAPHS}.html", wait_until="load")
    page.wait_for_function("window.Plotly")
    folded = page.locator("details:not([open])").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    state = """() => ({
      undrawn: [...document.querySelectorAll(".plotly-figure")].filter((figure) => !figure.querySelector(".main-svg")).length,
      widths: [...document.querySelectorAll(".plotly-canvas > .plot-container")].map((plot) => plot.offsetWidth),
      shown: [...document.querySelectorAll(".plotly-controls, .copybtn")].filter((part) => part.offsetParent).length,
      folded: [...document.querySelectorAll("details:not([open]):not(.in-words)")].length,
      cut: [...document.querySelectorAll("pre")].filter((pre) => pre.scrollWidth > pre.clientWidth + 1).length,
      hidden: [...document.querySelectorAll(".toggle-hidden")].filter((part) => getComputedStyle(part).display === "none").length,
      theme: document.documentElement.dataset.theme,
    })"""
    found = page.evaluate(state)
    assert set(found.pop("widths")) == {660}
    assert found == {"undrawn": 0, "shown": 0, "folded": 0, "cut": 0, "hidden": 0, "theme": "light"}
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded
    page.close()


@pytest.mark.usefixtures("chromium", "built_book")
def test_the_whole_book_is_printed_page_by_page(tmp_path: Path) -> None:
    written = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")} | {name for name in PAGES if "/" in name}
    assert set(whole_book.pages()) == written
    command = [sys.executable, whole_book.__file__, tmp_path / "whole.pdf", "book/how-to-cite", GRAPHS]
    subprocess.run(command, check=True)  # by itself: this process drives a browser already
    printed = PdfReader(tmp_path / "whole.pdf")
    assert [mark.title for mark in printed.outline] == ["How to cite", "4. Attribution graphs and trees"]
    text = "".join(page.extract_text() for page in printed.pages)
    assert "def algorithm_1_solution" in text, "code and answers"
    links = [str(note.get_object().get("/A", {}).get("/URI", "")) for page in printed.pages for note in page.get("/Annots", [])]
    assert links and not [link for link in links if link.startswith("file:") and "how-to-cite" not in link and GRAPHS not in link]


@pytest.mark.parametrize(("name", "width", "theme"), [("book/index", 1400, "dark"), (GRAPHS, 390, "light"), (MAPS, 1400, "dark")])
def test_axe_finds_nothing_but_what_is_the_themes(chromium: Browser, built_book: Path, name: str, width: int, theme: str) -> None:
    page = visit(chromium, built_book, name, width, theme).page
    page.evaluate(UNFOLD)
    page.evaluate(READY)
    page.evaluate("() => Promise.all(document.getAnimations().map((one) => one.finished))")  # what was unfolded fades in
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    ours = {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in found if rule["id"] not in THEIRS}
    assert not ours, json.dumps(ours, indent=1)
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_telephone_shows_the_page_without_sideways_scrolling(chromium: Browser, built_book: Path, name: str) -> None:
    page = visit(chromium, built_book, name, 390).page
    page.evaluate(UNFOLD)
    page.evaluate(READY)
    unsaid = """() => [...document.querySelectorAll("div.numbers, div.highlight pre, .plotly-figure")]
      .filter((box) => box.checkVisibility() && box.scrollWidth > box.clientWidth + 4 && !box.dataset.more).length"""
    page.wait_for_function(f"({unsaid})() === 0", timeout=5000)  # else a box scrolls, and nothing says so
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
