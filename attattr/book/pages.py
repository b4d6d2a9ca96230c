"""How a figure stands on a page: its drawing, native controls, a short label and all its words. For the built book and for notebooks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import plotly.io
from plotly.io.base_renderers import MimetypeRenderer

STATIC = next(folder for folder in (Path(__file__).parent / "static", Path(__file__).parents[2] / "book" / "_static") if folder.is_dir())
BUNDLE = "https://cdn.jsdelivr.net/npm/plotly.js-cartesian-dist-min@4.1.1/plotly-cartesian.min.js"  # that of book/_static, to the byte
INTEGRITY = "sha384-zc4SwKObGL/W0M3RUI09UPWjlgIZHfbwMgcZO6713mRh78tfUmIQKhzCyE2LIiUg"
MARKUP = """<div class="plotly-figure" role="figure" aria-label="{label}"><div class="plotly-canvas" style="min-height:{height}px"></div>
<details class="in-words"><summary>In words</summary><p>{alt}</p></details>
<script type="application/json">{figure}</script></div>"""
LABEL = 150  # letters


def short(text: str) -> str:
    """The first sentence, or as many of its words as a label may have.

    >>> short("Two curves. The upper one falls.")
    'Two curves.'
    """
    first = re.split(r"(?<=[.;]) ", text)[0]
    return first if len(first) <= LABEL else first[:LABEL].rsplit(" ", 1)[0] + " …"


def figure_html(figure: Mapping[str, Any]) -> str:
    """One Plotly figure, as JSON holds it, for ``book/_static/figures.js`` to draw; its words are ``layout.meta["alt"]``."""
    layout = figure["layout"]
    alt = (layout.get("meta") or {}).get("alt", "")
    # Every "<" escaped: no text inside a figure can end the script element.
    text = json.dumps(figure, separators=(",", ":")).replace("<", "\\u003c")
    return MARKUP.format(label=escape(short(alt)), alt=escape(alt), height=layout.get("height", 450), figure=text)


class PageRenderer(MimetypeRenderer):
    """Plotly's renderer for notebooks whose front end shows HTML: Colab, Kaggle, JupyterLab."""

    def to_mimebundle(self, figure: dict[str, Any]) -> dict[str, str]:
        """The figure with its styles and scripts, which draw it once, wherever it stands; Plotly itself comes from a public host."""
        plain = json.loads(plotly.io.to_json(figure, validate=False))
        source = json.dumps({"src": BUNDLE, "integrity": INTEGRITY, "crossOrigin": "anonymous"})
        style, script = ((STATIC / name).read_text(encoding="utf-8") for name in ("book.css", "figures.js"))
        return {"text/html": f"<style>{style}</style>{figure_html(plain)}<script>window.attattrPlotly = {source};\n{script}</script>"}


def show_as_pages() -> None:
    """Let figures in this notebook have the controls and words that they have in the book."""
    plotly.io.renderers["attattr"] = PageRenderer()
    plotly.io.renderers.default = "attattr"
