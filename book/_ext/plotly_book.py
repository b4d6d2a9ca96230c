"""Sphinx extension: what the built pages need beyond the theme.

* A notebook's Plotly figure arrives as JSON. It becomes a ``div`` that carries this JSON, a short label and all its words
  (``layout.meta["alt"]``); ``_static/figures.js`` draws it as it comes near. The notebooks themselves set no renderer.
* A live widget becomes what it last showed: without a kernel it cannot move.
* Pages describe themselves to search engines and previews, and load no script that they do not use.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from docutils import nodes
from myst_nb.core import render
from sphinx.util.logging import getLogger

from attattr.book.pages import LABEL, figure_html

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sphinx.application import Sphinx

FIGURE, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
KINDS = {"scatter", "bar", "box", "heatmap"}  # of traces, which the vendored _static/plotly-cartesian.min.js draws
ICON = r'(?<![\w-])"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"\w+",(?:"([^"]+)"|\["[^"]*","([^"]+)"\])\]'  # in the theme's fontawesome.js
DESCRIPTION = "Which words does a transformer connect to decide? Self-attention attribution and attention flow, in code that runs."


class PlotlyFigure:
    """How myst-nb renders one Plotly figure (a ``MimeRenderPlugin``)."""

    mime_priority_overrides: ClassVar = [("html", FIGURE, 5)]

    @staticmethod
    def handle_mime(renderer: render.NbElementRenderer, data: render.MimeData, inline: bool) -> list[nodes.Element] | None:
        """The figure as raw HTML; None for any other mime type."""
        if data.mime_type != FIGURE:
            return None
        figure: dict[str, Any] = data.content  # for a JSON type, the parsed object
        alt = (figure["layout"].get("meta") or {}).get("alt", "")
        if not alt:
            renderer.logger.warning("Plotly figure without layout.meta['alt']", subtype="plotly_alt", line=data.line)
        if other := {trace["type"] for trace in figure["data"]} - KINDS:
            renderer.logger.warning(f"Plotly traces {other}: the pages draw {KINDS} only", subtype="plotly_kind", line=data.line)
        return [nodes.raw("", figure_html(figure), format="html", plotly=True)]


class LastPicture:
    """How myst-nb renders a live widget (a ``MimeRenderPlugin``): as it was when the notebook had run."""

    mime_priority_overrides: ClassVar = [("html", WIDGET, 5)]

    @staticmethod
    def handle_mime(renderer: render.NbElementRenderer, data: render.MimeData, inline: bool) -> list[nodes.Element] | None:
        """The widget's settings, words and picture as raw HTML; nothing of other widgets (progress bars)."""
        if data.mime_type != WIDGET:
            return None
        if "run-live" not in data.cell_metadata.get("tags", ()):
            return []
        saved = renderer.renderer.nb_client.nb_metadata.get("widgets", {}).get(STATE, {}).get("state", {})
        markup = last_shown(saved, data.content["model_id"])
        return [nodes.raw("", f'<div class="last-shown">{markup}</div>', format="html")]


def last_shown(saved: Mapping[str, Any], model: str) -> str:
    """One widget, with those in it, from the state that a notebook saves."""
    if model not in saved:
        return ""
    kind, state = saved[model]["model_name"], saved[model]["state"]
    if "children" in state:
        layout = saved.get(state.get("layout", "").removeprefix("IPY_MODEL_"), {}).get("state", {})
        shown = [last_shown(saved, child.removeprefix("IPY_MODEL_")) for child in state["children"]]
        return "" if layout.get("display") == "none" else "".join(shown)
    if kind == "HTMLModel":
        return f"<div>{state['value']}</div>"
    if kind == "OutputModel":
        return "".join(f"<pre>{html.escape(''.join(output.get('text', '')))}</pre>" for output in state["outputs"])
    chosen = state["_options_labels"][state["index"]] if state.get("_options_labels") else state.get("value", "")
    return f'<span class="setting">{html.escape(str(state.get("description", "")))} <b>{html.escape(str(chosen))}</b></span> '


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Say what the page is about, for search engines and for previews of links; its tables have no empty headings."""
    texts = [node.astext().replace("\n", " ") for node in doctree.findall(nodes.paragraph)] if doctree else []
    about = next((text.lstrip("… ") for text in texts if len(text) > 80), DESCRIPTION)
    about = about if len(about) <= LABEL else about[:LABEL].rsplit(" ", 1)[0] + " …"
    body = re.sub(r"<th[^>]*>(<p></p>)?</th>", "<td></td>", context.get("body", ""))  # an empty cell is no heading
    context["body"] = re.sub(r'<span class="(?:n|nn|p|w)">([^<]*)</span>', r"\1", body)  # code in the colour of all code: a fifth of a page
    _, _, owner, name = app.config.html_theme_options["repository_url"].rsplit("/", 3)
    picture = "_static/readme.png"
    public = f"https://{owner.lower()}.github.io/{name}/{picture}"  # of the local book there is no such address
    said = {"og:title": re.sub("<.*?>", "", context.get("title", "")), "og:type": "article", "og:description": about}
    said["og:image"] = context["pathto"](picture, 1) if owner == "-local-" else public
    tags = "".join(f'<meta property="{key}" content="{html.escape(value)}" />\n' for key, value in said.items())
    context["metatags"] = f'{context.get("metatags", "")}<meta name="description" content="{html.escape(about)}" />\n{tags}'


def choose_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Leave out the scripts that this page does not use."""
    if doctree and any("plotly" in node for node in doctree.findall(nodes.raw)):
        bundle = context["pathto"]("_static/plotly-cartesian.min.js", 1)
        context["metatags"] += f'<link rel="preload" as="script" href="{bundle}" />\n'
    unused = ["sphinx-thebe.js"]  # which needs a kernel, and declares its names twice
    if doctree and not any(doctree.findall(lambda node: isinstance(node, nodes.math | nodes.math_block))):
        unused.append("tex-svg.js")
    context["script_files"] = [
        script
        for script in context["script_files"]
        if not any(name in str(script.filename) for name in unused) and "THEBE" not in script.attributes.get("body", "")
    ]


def keep_used_icons(app: Sphinx, failure: Exception | None) -> None:
    """Put the icons that the pages use into a style sheet, in the place of the theme's script of 1.5 MB with all there are."""
    if failure:
        return
    static = Path(app.outdir) / "_static"
    script = static / "scripts" / "fontawesome.js"
    every = script.read_text(encoding="utf-8")
    pages = [path.read_text(encoding="utf-8") for path in Path(app.outdir).rglob("*.html")]
    classes = {word for page in pages for found in re.findall(r'<(?:i|span) class="([^"]*)"', page) for word in found.split()}
    names = sorted(word[3:] for word in classes if word.startswith("fa-") and word not in ("fa-solid", "fa-brands", "fa-regular", "fa-lg"))
    rules = []
    for name in names:
        found = re.search(ICON.format(name=name), every)
        if not found:
            getLogger(__name__).warning(f"no icon {name} in {script}")
            continue
        width, height, *paths = found.groups()
        path = next(filter(None, paths))
        svg = quote(f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'><path d='{path}'/></svg>", safe=" '/:=,")
        rules.append(f'.fa-{name} {{ --icon: url("data:image/svg+xml,{svg}"); width: {int(width) / int(height):.3g}em; }}')
    (static / "icons.css").write_text("\n".join(rules) + "\n", encoding="utf-8")
    script.write_text("// The icons that are used are in ../icons.css (book/_ext/plotly_book.py).\n", encoding="utf-8")


def drop_widget_state(app: Sphinx, env: Any) -> None:
    """Leave the saved state of live widgets out of the pages: without a kernel and a widget manager nothing reads it."""
    for data in env.nb_metadata.values():
        data.get("js_files", {}).pop("ipywidgets_state", None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderers, the scripts and the words of the pages."""
    # myst-nb takes renderers only from entry points of installed packages; a folder of the book is none, hence this wrapper.
    installed = render.load_mime_renders
    render.load_mime_renders = lambda: [PlotlyFigure, LastPicture, *installed()]
    app.add_css_file("icons.css")
    app.add_js_file("figures.js", loading_method="defer", priority=100)  # before MathJax, which takes longest
    app.connect("env-updated", drop_widget_state)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", choose_scripts, priority=900)
    app.connect("build-finished", keep_used_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
