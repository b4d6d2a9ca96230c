"""Sphinx extension: references by author and year, in round brackets in the text, and with the same label in the list of references."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle
from sphinxcontrib.bibtex import plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybtex.database import Entry
    from sphinx.application import Sphinx


def label(entry: Entry) -> str:
    """``Hao et al., 2020``: one or two family names, or the first of more, and the year."""
    names = [" ".join(map(str, [*person.rich_prelast_names, *person.rich_last_names])) for person in entry.persons["author"]]
    return f"{' and '.join(names) if len(names) < 3 else names[0] + ' et al.'}, {entry.fields['year']}"


class AuthorYearLabels(BaseLabelStyle):
    """Labels of the list of references: what the text says, too."""

    def format_labels(self, sorted_entries: Sequence[Entry]) -> Iterator[str]:
        """One label for each entry."""
        return map(label, sorted_entries)


class AuthorYearList(Style):
    """The list of references, by author and year."""

    default_sorting_style = "author_year_title"
    default_label_style = AuthorYearLabels


def round_brackets() -> BracketStyle:
    """Brackets as in Hao et al. (2020)."""
    return BracketStyle(left="(", right=")")


@dataclass
class RoundAuthorYear(AuthorYearReferenceStyle):
    """References in the text: Hao et al. (2020), or (Hao et al., 2020)."""

    bracket_parenthetical: BracketStyle = field(default_factory=round_brackets)
    bracket_textual: BracketStyle = field(default_factory=round_brackets)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both styles by the name ``round``, for ``bibtex_default_style`` and ``bibtex_reference_style``."""
    register_plugin("pybtex.style.formatting", "round", AuthorYearList, force=True)
    plugin.register_plugin("sphinxcontrib.bibtex.style.referencing", "round", RoundAuthorYear, force=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
