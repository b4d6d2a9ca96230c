"""How an `Attribution` shows itself in a notebook: the text, the decision, the strongest connections, the certificate."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from unicodedata import bidirectional

if TYPE_CHECKING:
    from .attribution import Attribution

STRONGEST = 8
JOINERS = "\u200c\u200d"  # nothing by themselves, part of emoji and of Persian and Indian words
APART = "\u2068{}\u2069"  # what is written from right to left in there does not turn what stands around it


def printable(text: str) -> str:
    r"""Words in one line, as they are: what does not print by its escape (``\n``), blanks and nothing in quotes. No markup is escaped.

    >>> [printable(token) for token in ("film", "\n", " ", "")]
    ['film', '\\n', '“ ”', '“”']
    """
    shown = "".join(letter if letter.isprintable() or letter in JOINERS else letter.encode("unicode_escape").decode() for letter in text)
    if not shown.strip(" " + JOINERS):
        return f"“{shown}”"
    return APART.format(shown) if any(bidirectional(letter) in ("R", "AL") for letter in shown) else shown


def attribution_html(att: Attribution) -> str:
    """A few lines and one small table; no script, so that it shows the same in every front end."""
    text = " ‖ ".join(map(printable, [att.text] if isinstance(att.text, str) else att.text))
    tokens = [printable(token) for token in att.tokens]
    table = att.strongest(STRONGEST)
    weights = att.attention.numpy()[tuple(table[axis] for axis in ("layer", "head", "query", "key"))]
    table.insert(0, "attends → attended", [f"{tokens[one.query]} → {tokens[one.key]}" for one in table.itertuples()])
    table["attribution"] = [f"{score:+.4f}" for score in table.pop("score")]
    table["attention"] = [f"{weight:.2f}" for weight in weights.tolist()]
    shown = table.drop(columns=["query", "key"]).to_html(index=False, border=0)
    verdict = f"<b>{escape(printable(att.label))}</b> (p = {float(att.probabilities[att.target]):.3f}) for “{escape(text)}”"
    return f'<div class="tex2jax_ignore mathjax_ignore"><p>{verdict}</p>{shown}<p>{escape(printable(exactness(att)))}</p></div>'


def exactness(att: Attribution) -> str:
    """How exact the scores are, in one sentence."""
    verdict = "Certified" if att.certified else "NOT certified"
    return (
        f"{verdict}: estimated relative error at most {float(att.error.max()):.1e} (tolerance {att.tolerance:g}), "
        f"completeness gap at most {float(att.completeness.max()):.1e} in probability, "
        f"{int(att.evaluations.sum())} gradient evaluations in {len(att.evaluations)} layers ({att.method})."
    )
