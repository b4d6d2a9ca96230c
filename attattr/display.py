"""How an `Attribution` shows itself in a notebook: the text, the decision, the strongest connections, the certificate."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from unicodedata import bidirectional

if TYPE_CHECKING:
    from .connections import Attribution

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
    table = att.strongest(STRONGEST)
    weights = att.attention.numpy()[tuple(table[axis] for axis in ("layer", "head", "query", "key"))]
    kinds, numbers = att.kinds or ("encoder",) * len(att.scores), att.layers or range(len(att.scores))
    sides = [att.sides(kinds[layer]) for layer in table["layer"]]
    pairs = zip(sides, table["query"], table["key"], strict=True)
    table.insert(0, "attends → attended", [f"{printable(queries[i])} → {printable(keys[j])}" for (queries, keys), i, j in pairs])
    table["layer"] = [f"{kinds[layer]} {numbers[layer]}" if len({*kinds}) > 1 else numbers[layer] for layer in table["layer"]]
    table["head"] = [att.heads[head] if att.heads else head for head in table["head"]]
    table["attribution"] = [f"{score:+.4f}" if abs(score) >= 1e-3 else f"{score:+.1e}" for score in table.pop("score")]
    table["attention"] = [f"{weight:.2f}" for weight in weights.tolist()]
    shown = table.drop(columns=["query", "key"]).to_html(index=False, border=0)
    verdict = f"<b>{escape(printable(att.label))}</b> ({escape(printable(att.amount))})" + f" for “{escape(text)}”" * bool(att.text)
    return f'<div class="tex2jax_ignore mathjax_ignore"><p>{verdict}</p>{shown}<p>{escape(printable(exactness(att)))}</p></div>'


def exactness(att: Attribution) -> str:
    """How exact the scores are, in one sentence."""
    verdict = "Certified" if att.certified else "NOT certified"
    return (
        f"{verdict}: estimated relative error at most {float(att.error.max()):.1e} (tolerance {att.tolerance:g}), "
        f"completeness gap at most {float(att.completeness.max()):.1e} in {att.quantity}, "
        f"{int(att.evaluations.sum())} gradient evaluations in {len(att.evaluations)} layers ({att.method})."
        + "".join(f" {cause[0].upper()}{cause[1:]}." for cause in att.causes)
    )
