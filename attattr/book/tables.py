"""Tables of numbers in the chapters: HTML with headings for rows and columns, for a phone and a screen reader as well."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas
from IPython.display import HTML

Form = str | Callable[[Any], str]


@dataclass(frozen=True, repr=False)
class Table:
    """A table as a page shows it, and as a terminal does: the same digits in both."""

    frame: pandas.DataFrame
    caption: str
    forms: Mapping[Any, Form]

    @property
    def look(self) -> dict[str, Any]:
        """How pandas writes the cells."""
        written = {name: form.format if isinstance(form, str) else form for name, form in self.forms.items()}
        return {"na_rep": "–", "formatters": written, "index_names": False}

    def _repr_html_(self) -> str:
        html = self.frame.to_html(classes="numbers", border=0, **self.look)
        html = html.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")  # on a phone a number and its error stay on one line
        start, head, body = re.split(r"(?=<thead>)|(?=<tbody>)", html)
        head, body = (re.sub("<th(?=[ >])", f'<th scope="{scope}"', part) for scope, part in (("col", head), ("row", body)))
        caption = escape(self.caption)
        return (
            f'<div class="numbers" role="group" tabindex="0" aria-label="{caption}">{start}<caption>{caption}</caption>{head}{body}</div>'
        )

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.frame.to_string(**self.look)}"


def table(frame: pandas.DataFrame, caption: str, form: Form | Mapping[Any, Form] = "{:.3g}") -> Table:
    """A frame as a table of a chapter: its index and columns are the headings, its caption says what the numbers are.

    Args:
        frame: the numbers, few: one message a table.
        caption: what the numbers are, in words, with their unit.
        form: how a number is written, as for ``str.format``, of all columns or by column; text stays text, and what is missing is –.

    >>> table(pandas.DataFrame({"accuracy": [0.8979]}, index=["SST-2"]), "Share of dev texts that are right")
    Share of dev texts that are right
          accuracy
    SST-2    0.898
    """
    forms = form if isinstance(form, Mapping) else dict.fromkeys(frame.select_dtypes("number").columns, form)
    return Table(frame, caption, forms)


def words(frame: pandas.DataFrame, caption: str, typeset: Callable[[str], str] = escape) -> HTML:
    """A frame of texts, without its index, as a table of a chapter: lines wrap, and on a telephone each row is a card.

    Args:
        frame: the texts, one column a heading.
        caption: what they say.
        typeset: how a text becomes HTML.

    >>> '<td data-label="rule">a &lt; b</td>' in words(pandas.DataFrame({"rule": ["a < b"]}), "One rule").data
    True
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in frame)
    rows = [zip(frame, map(str, row), strict=True) for row in frame.to_numpy()]
    cells = ["".join(f'<td data-label="{escape(name)}">{typeset(text)}</td>' for name, text in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return HTML(f'<table class="words"><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')
