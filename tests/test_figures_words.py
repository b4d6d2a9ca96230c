"""Tokens, classes, texts and columns are shown to the letter, whatever they hold: by Plotly in a browser, in SVG, and in HTML."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pandas
import plotly.graph_objects as go
import pytest
import torch
from conftest import ROOT
from test_grammar import PLOTLY

import attattr
from attattr import figures
from attattr.display import printable
from attattr.figures import grammar
from attattr.figures.graphs import graphs_drawn
from attattr.graph import attribution_graph
from attattr.svg import picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGE = '<img src=x onerror="window.hit=1">'
WORDS = {  # a token, and how it is shown where that is not the token itself
    **{token: token for token in ("</s>", "<unk>", "<s>", "<b>x</b>", "<br>", "<a href='javascript:hit()'>x</a>", "</span>")},
    **{token: token for token in ("$", "$5$", r"$\alpha$", "%", "%{x}", "%{customdata[0]}", "%{meta.alt}", "{", "}", "{0}")},
    **{token: token for token in ("&", "&amp;", "&lt;", "&#36;", '"', "'", "\\", "\\n", "Ġthe", "##ing")},
    **{token: token for token in ("7", "2", "2024", "1e5", "2020-01-01", "nan", "None", "🙂", "👩‍🚀", "中文", "é", "a  b")},
    IMAGE: f"{IMAGE[:31]}…",
    "x" * 500: "x" * 31 + "…",
    "": "“”",
    " ": "“ ”",
    "a\nb": r"a\nb",
    "\r\n": r"\r\n",
    "\t": r"\t",
    "\x00": r"\x00",
    "\x1b[31m": r"\x1b[31m",
    "\u202eabc": r"\u202eabc",
    "\u200f": r"\u200f",
    "\ufeff": r"\ufeff",
    "\ud800": r"\ud800",
    "\u200d": "“\u200d”",
    "שלום": "\u2068שלום\u2069",
    "سلام": "\u2068سلام\u2069",
}
TOKENS = ("[CLS]", *WORDS, "twice", "twice")
COUNT = len(TOKENS)
SHOWN = ["[CLS]", *WORDS.values(), f"twice ·{COUNT - 2}", f"twice ·{COUNT - 1}"]
LABEL, OTHER = f"{IMAGE} <b>no</b> $x$", "%{x} $y$ &amp; <i>yes</i>"
TEXT = (f"{IMAGE} <b>text</b> $a$", "%{x} \x00 </svg><script>window.hit=1</script>")
GENERATOR = torch.Generator().manual_seed(0)
ATTENTION = torch.rand(2, 2, COUNT, COUNT, generator=GENERATOR).softmax(-1)


def decision(tokens: tuple[str, ...] = TOKENS, label: str = LABEL, target: int = 1) -> attattr.Attribution:
    """A decision in which [CLS] reads every token."""
    count, layers = len(tokens), torch.zeros(2)
    scores = torch.zeros(2, 2, count, count)
    scores[:, :, 0] = torch.linspace(1, 0.5, count)
    return attattr.Attribution(
        scores=scores, attention=ATTENTION[..., :count, :count].softmax(-1), tokens=tokens, text=TEXT, target=target, label=label,
        probabilities=torch.tensor([0.3, 0.7]), difference=layers, completeness=layers, error=layers, evaluations=layers.int(),
        method=f"{IMAGE}$z$", tolerance=0.01,
    )  # fmt: skip


ATT = decision()
OWN = [place for place in range(COUNT) if place not in (3, 5)]
BEFORE = decision(tuple(TOKENS[place] for place in OWN), OTHER, 0)
TABLE = pandas.DataFrame({"$x$": [0.1, 0.2], "<b>y</b>": [LABEL, "7"], "%{x}": [OTHER, LABEL], "low": [0.0, 0.1], "high": [0.2, 0.4]})
PRUNING = attattr.result("fig5-sst2")
VALUE = torch.randn(2, 2, COUNT, 4, generator=GENERATOR)
DRAW: dict[str, Callable[[], go.Figure]] = {
    "graph_figure": lambda: figures.graph_figure(ATT, (0.0, 0.5), active=0),
    "head_figure": lambda: figures.head_figure(ATT.attention, VALUE, VALUE.permute(0, 2, 1, 3), TOKENS),
    "maps_figure": lambda: figures.maps_figure(ATT),
    "maximum_flow_figure": lambda: figures.maximum_flow_figure(ATT.attention, TOKENS, least=0.5),
    "pruning_slider": lambda: figures.pruning_slider(PRUNING),
    "sentence_figure": lambda: figures.sentence_figure(ATT, (2 * COUNT,), 0),
    "sheets_figure": lambda: figures.sheets_figure(ATT),
    "token_paths_figure": lambda: figures.token_paths_figure(ATT.attention, TOKENS),
    "trigger_figure": lambda: figures.trigger_figure(BEFORE, ATT, (3, 5), (OTHER, LABEL), 2 * COUNT),
    "views_figure": lambda: figures.views_figure(ATT),
    "grammar.curve": lambda: grammar.page(grammar.curve(TABLE, "$x$", "low", "%{x}"), LABEL, 300),
    "grammar.dots": lambda: grammar.page(grammar.dots(TABLE, "$x$", "<b>y</b>", "low", "high", "%{x}"), LABEL, 300),
}

drawn = cache(lambda name: DRAW[name]())
PLAIN = [*SHOWN[:-2], "twice", "twice"]
AXES = {  # the figures with a name for each token, and what stands under the pointer at a token, if anything
    "graph_figure": (SHOWN, "layer 1, head 0: [CLS] reads {}"),
    "head_figure": (SHOWN, "{0} → {0}"),
    "maps_figure": (SHOWN, "{0} → {0}"),
    "maximum_flow_figure": (SHOWN, "{}, the input"),
    "sentence_figure": (SHOWN, "layer 0: [CLS] reads {}"),
    "token_paths_figure": (SHOWN, "{}, level 0"),
    "trigger_figure": (PLAIN, "[CLS] reads {}"),
    "views_figure": (SHOWN, "{}, layer "),
}
NAMED = {  # other words that are in the drawing
    "graph_figure": (f"[CLS] decides: {LABEL}, p = 0.700",),
    "sentence_figure": (f"The model decides: {LABEL}, p = 0.700",),
    "trigger_figure": (LABEL, OTHER, f"decides {LABEL}:", f"decides {OTHER}:"),
    "grammar.curve": ("$x$", LABEL, OTHER),
    "grammar.dots": ("$x$", LABEL, OTHER, "7"),
}
LEAVES = {"graph_figure": ["layer 1, head 0: [CLS] reads </s>"]}  # the graph leaves them out
TOLD = {  # and under the pointer
    "maximum_flow_figure": [f"the source: {SHOWN[0]}, after layer 1", *SHOWN],
    "trigger_figure": [f"{OTHER}: 0.300", f"{LABEL}: 0.700"],
    "grammar.curve": [f"{OTHER}, $x$ 0.1", f"{LABEL}, $x$ 0.2"],
    "grammar.dots": [LABEL, "7", f"{OTHER} 0.100 (0.00 to 0.200)"],
}


# what Plotly draws, and says under the pointer


PAGE = """<!doctype html><meta charset="utf-8"><body>{figures}<script>window.MathJax = {{startup: {{typeset: false}}}}</script>
<script src="file://{static}/tex-svg.js"></script><script src="file://{plotly}"></script><script src="file://{static}/figures.js"></script>"""
FIGURE = (
    """<div class="plotly-figure" id="{name}"><div class="plotly-canvas"></div><script type="application/json">{figure}</script></div>"""
)
READ = """() => {
  let now = Date.now();
  Date.now = () => (now += 1000);  // Plotly answers the pointer at most every 50 milliseconds
  const lines = (text) => {
    const found = [...text.querySelectorAll(".line")].map((line) => line.textContent);
    return found.length ? found : [text.textContent];
  };
  const pointers = (plot, trace) => {
    if (trace.type === "heatmap") return Array.from(trace.z, (row, at) => ({ xval: at % row.length, yval: at }));
    const points = trace.mode === "lines" ? [0] : plot.calcdata[trace.index].map((_, at) => at);
    return points.map((pointNumber) => [{ curveNumber: trace.index, pointNumber }]);
  };
  const found = {};
  for (const figure of document.querySelectorAll(".plotly-figure")) {
    const plot = figure.querySelector(".js-plotly-plot"), told = new Set();
    const texts = [...plot.querySelectorAll(".main-svg text")].flatMap(lines);
    for (const trace of plot._fullData.filter((trace) => trace.visible === true && trace.hoverinfo !== "skip")) {
      for (const pointer of pointers(plot, trace)) {
        Plotly.Fx.hover(plot, pointer, trace.xaxis + trace.yaxis);
        plot.querySelectorAll(".hoverlayer text").forEach((text) => lines(text).forEach((line) => told.add(line)));
      }
    }
    found[figure.id] = { texts, told: [...told], foreign: [...plot.querySelectorAll(
      ".main-svg :is(a, b, i, img, script, style, foreignObject, [data-math=Y], [class*=math-group])")].map((one) => one.outerHTML) };
  }
  return found;
}"""


@pytest.fixture(scope="module")
def page(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """All figures on one page, with the book's scripts and MathJax; the last figure is one that takes words as they come."""
    careless = go.Figure(layout={"annotations": [{"text": text, "x": 0, "y": 0} for text in (r"$\alpha$", "<a href='x'>y</a>")]})
    every = {name: drawn(name) for name in DRAW} | {"careless": careless}
    texts = {name: json.dumps(json.loads(figure.to_json())).replace("<", r"\u003c") for name, figure in every.items()}
    file = tmp_path_factory.mktemp("words") / "page.html"
    markup = "".join(FIGURE.format(name=name, figure=text) for name, text in texts.items())
    file.write_text(PAGE.format(figures=markup, plotly=PLOTLY, static=ROOT / "book" / "_static"), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    page.goto(f"file://{file}", wait_until="load")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws all, also those that are far away, and then leaves them alone
    ready = "[...document.querySelectorAll('.plotly-canvas')].every((canvas) => canvas.querySelector('.main-svg'))"
    page.wait_for_function(f"document.querySelector('#careless [data-math=Y]') && {ready}", timeout=90_000)
    page.wait_for_timeout(500)  # each takes its width
    yield page
    page.close()


@pytest.fixture(scope="module")
def read(page: Page) -> dict[str, dict[str, list[str]]]:
    return page.evaluate(READ)


def test_every_figure_is_on_the_page() -> None:
    assert {name for name in DRAW if "." not in name} == set(figures.__all__) - {"grammar", "graph_sentences"}


@pytest.mark.parametrize("name", DRAW)
def test_plotly_shows_words_to_the_letter_and_makes_nothing_of_them(page: Page, read: dict[str, dict[str, list[str]]], name: str) -> None:
    found, (tokens, under) = read[name], AXES.get(name, ([], ""))
    assert [word for word in (*tokens, *NAMED.get(name, ())) if word not in found["texts"]] == []
    told = {part for line in found["told"] for part in (line, line.rsplit(": ", 1)[0], line.rstrip("0123456789"))}
    assert [line for line in (*map(under.format, tokens), *TOLD.get(name, ())) if line not in told] == LEAVES.get(name, [])
    assert found["texts"] and found["foreign"] == []
    assert page.evaluate("window.hit") is None


def test_what_plotly_makes_of_words_as_they_come_would_be_noticed(read: dict[str, dict[str, list[str]]]) -> None:
    foreign = read["careless"]["foreign"]
    assert any('data-math="Y"' in one for one in foreign) and any(one.startswith("<a ") for one in foreign)


def test_native_controls_show_words_to_the_letter(page: Page) -> None:
    slider = page.locator("#maximum_flow_figure input[type=range]")
    for place in (TOKENS.index("<s>"), TOKENS.index(IMAGE), TOKENS.index("%{x}")):
        slider.fill(str(place))
        assert page.locator("#maximum_flow_figure output").text_content() == SHOWN[place]
        assert slider.get_attribute("aria-valuetext") == SHOWN[place]


# words without a drawing, SVG, HTML


@pytest.mark.parametrize("name", DRAW)
def test_alternative_texts_hold_no_control_characters(name: str) -> None:
    alt = drawn(name).layout.meta["alt"]
    assert alt.isprintable() or set(alt) & set("\u200d\u2068")
    if name in ("graph_figure", "sentence_figure", "views_figure"):
        assert TEXT[0] in alt and r"%{x} \x00 </svg>" in alt


def test_sentences_hold_the_tokens_as_they_are() -> None:
    told = figures.graph_sentences(attribution_graph(ATT), COUNT)
    assert all(f"“{token}”" in told for token in TOKENS if token[:1] not in ("[", "<") and token != "twice")


SVG = {
    "graph_figure": lambda: graphs_drawn(ATT, {"shown": attribution_graph(ATT)}),
    "trigger_figure": lambda: drawn("trigger_figure"),
    "maps_figure": lambda: grammar.page(
        go.Figure(grammar.heat(ATT.attention[0, 0], TOKENS, TOKENS)).update_xaxes(grammar.token_axis(TOKENS, range=[-0.5, COUNT - 0.5]))
        .update_yaxes(grammar.token_axis(TOKENS, range=[COUNT - 0.5, -0.5])), f"{LABEL} {TEXT}", 900,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SVG)
def test_svg_holds_words_to_the_letter_and_no_other_elements(name: str) -> None:
    root = ElementTree.fromstring(picture(SVG[name]()))
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds <= {"div", "svg", "rect", "circle", "path", "text", "tspan", "title"}
    assert not {attribute for element in root.iter() for attribute in element.attrib if attribute.startswith("on") or "href" in attribute}
    texts = {"".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")}
    titles = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("}title")]
    tokens, under = AXES[name]
    assert [token for token in tokens if token not in texts] == []
    lines = [under.format(token) for token in tokens]
    assert [line for line in lines if not any(title.startswith(line) for title in titles)] == LEAVES.get(name, [])
    assert all(float(element.attrib["width"]) >= 0 for element in root.iter() if element.tag.endswith("}rect"))


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS[::-1]])
def test_html_holds_words_to_the_letter_and_no_other_elements(chromium: Browser, tmp_path: Path, tokens: tuple[str, ...]) -> None:
    att = decision(tokens)
    att.scores[:, 1] = att.scores[1] = 0
    (tmp_path / "page.html").write_text(
        f"""<!doctype html><meta charset="utf-8"><body>{att._repr_html_()}<p id="math">$x$</p>
        <script>MathJax = {{tex: {{inlineMath: [["$", "$"]]}}}}</script><script src="file://{ROOT}/book/_static/tex-svg.js"></script>""",
        encoding="utf-8",
    )
    page = chromium.new_page()
    page.goto(f"file://{tmp_path}/page.html", wait_until="load")
    page.wait_for_selector("#math mjx-container")  # as a notebook sets formulas
    kinds = page.evaluate("[...document.querySelectorAll('body > div, body > div *')].map((one) => one.tagName.toLowerCase())")
    assert set(kinds) == {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    cells, text = page.locator("td").all_text_contents(), page.locator("body > div").text_content() or ""
    assert [cell for cell in cells if "→" in cell] == [f"{printable(tokens[0])} → {printable(token)}" for token in tokens[:8]]
    assert all(words in text for words in (LABEL, TEXT[0], r"%{x} \x00 </svg><script>", f"{IMAGE}$z$"))
    assert page.evaluate("window.hit") is None
    page.close()
