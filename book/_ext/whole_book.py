"""The whole book as one PDF: every page of the built book, in the order of _toc.yml, as Chromium prints it.

python book/_ext/whole_book.py FILE           `make pdf`
python book/_ext/whole_book.py FILE PAGE ...  only these, such as book/how-to-cite
"""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path

import yaml
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfWriter

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
READY = """async () => {
  if (window.MathJax) await MathJax.startup?.promise;
  return !!window.Plotly || !document.querySelector(".plotly-figure");
}"""
WAYS_OUT = """() => document.querySelectorAll("a[href]").forEach((link) => {
  if (link.protocol === "file:" && link.pathname !== location.pathname) link.removeAttribute("href");
})"""  # a link to another page would lead the reader of the PDF into this machine's folders


def pages() -> list[str]:
    """The names of all pages, as the reader turns them."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])]


def printed(page: Page, name: str) -> BytesIO:
    """One page of the built book on paper, with its figures and formulas."""
    page.goto((HTML / f"{name}.html").as_uri(), wait_until="load")
    page.wait_for_function(READY)
    page.evaluate(WAYS_OUT)
    return BytesIO(page.pdf(format="A4", print_background=True, margin={"top": "14mm", "bottom": "14mm", "left": "12mm", "right": "12mm"}))


def main(path: Path, names: list[str]) -> None:
    """Print these pages into one file, with a bookmark for each."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        sys.exit("no Chromium in PATH: apt-get install chromium")
    if not HTML.is_dir():
        sys.exit(f"no folder {HTML}: run `make book` first")
    whole = PdfWriter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        for name in names:
            of_page = printed(page, name)
            whole.append(of_page, outline_item=page.title().split(" — ")[0], import_outline=False)
        browser.close()
    whole.write(path)
    print(f"{len(whole.pages)} pages: {path}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:] or pages())
