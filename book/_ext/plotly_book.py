"""Sphinx extension: Plotly figures of the notebooks, drawn in the built page from one local plotly.min.js.

A notebook's figure arrives as JSON. It becomes a ``div`` that carries this JSON and its alt text
(``layout.meta["alt"]``); ``_static/figures.js`` draws it. The notebooks themselves set no renderer.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, ClassVar

import plotly
from docutils import nodes
from myst_nb.core import render

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MIME_TYPE = "application/vnd.plotly.v1+json"
MARKUP = """<div class="plotly-figure" role="figure" aria-label="{alt}"><div class="plotly-canvas"></div>
<noscript>{alt}</noscript><script type="application/json">{figure}</script></div>"""


class PlotlyFigure:
    """How myst-nb renders one Plotly figure (a ``MimeRenderPlugin``)."""

    mime_priority_overrides: ClassVar = [("html", MIME_TYPE, 5)]

    @staticmethod
    def handle_mime(renderer: render.NbElementRenderer, data: render.MimeData, inline: bool) -> list[nodes.Element] | None:
        """The figure as raw HTML; None for any other mime type."""
        if data.mime_type != MIME_TYPE:
            return None
        figure: dict[str, Any] = data.content  # for a JSON type, the parsed object
        alt = (figure["layout"].get("meta") or {}).get("alt", "")
        if not alt:
            renderer.logger.warning("Plotly figure without layout.meta['alt']", subtype="plotly_alt", line=data.line)
        # Every "<" escaped: no text inside a figure can end the script element.
        markup = MARKUP.format(alt=html.escape(alt), figure=json.dumps(figure).replace("<", "\\u003c"))
        return [nodes.raw("", markup, format="html", plotly=True)]


def add_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Load the scripts on pages that have a figure, and on no other: plotly.min.js is 4.8 MB."""
    if doctree and any("plotly" in node for node in doctree.findall(nodes.raw)):
        app.add_js_file("plotly.min.js", loading_method="defer")
        app.add_js_file("figures.js", loading_method="defer")


def copy_plotly(app: Sphinx) -> None:
    """Copy plotly.min.js out of the installed wheel, so that Python and JavaScript are always of one version."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    copyfile(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", static / "plotly.min.js")


def drop_widget_state(app: Sphinx, env: Any) -> None:
    """Leave the saved state of live widgets out of the pages: without a kernel and a widget manager nothing reads it."""
    for data in env.nb_metadata.values():
        data.get("js_files", {}).pop("ipywidgets_state", None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer and the scripts."""
    # myst-nb takes renderers only from entry points of installed packages; a folder of the book is none, hence this wrapper.
    installed = render.load_mime_renders
    render.load_mime_renders = lambda: [PlotlyFigure, *installed()]
    app.connect("builder-inited", copy_plotly)
    app.connect("env-updated", drop_widget_state)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
