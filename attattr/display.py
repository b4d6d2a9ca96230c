"""How an `Attribution` shows itself in a notebook: the text, the decision, the strongest connections, the certificate."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attribution import Attribution

STRONGEST = 8


def attribution_html(attribution: Attribution) -> str:
    """One small HTML table; no script, so that it shows the same in every front end."""
    text = attribution.text if isinstance(attribution.text, str) else " ‖ ".join(attribution.text)
    probability = float(attribution.probabilities[attribution.target])
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(attribution.tokens[i])} → {escape(attribution.tokens[j])}</td>"
        f"<td>{layer}</td><td>{head}</td><td>{score:+.4f}</td><td>{weight:.2f}</td></tr>"
        for layer, head, i, j, score, weight in strongest_connections(attribution, STRONGEST)
    )
    return (
        f"<div><p><b>{escape(attribution.label)}</b> (p = {probability:.3f}) for “{escape(text)}”</p>"
        "<table><thead><tr><th style='text-align:left'>attends → attended</th><th>layer</th><th>head</th>"
        "<th>attribution</th><th>attention</th></tr></thead>"
        f"<tbody>{rows}</tbody></table><p>{certificate(attribution)}</p></div>"
    )


def strongest_connections(attribution: Attribution, count: int) -> list[tuple[int, int, int, int, float, float]]:
    """Layer, head, query, key, score and attention weight of the connections with the largest scores."""
    scores = attribution.scores
    _, heads, tokens, _ = scores.shape
    found = []
    for flat in scores.flatten().topk(min(count, scores.numel())).indices.tolist():
        row, j = divmod(flat, tokens)
        row, i = divmod(row, tokens)
        layer, head = divmod(row, heads)
        found.append((layer, head, i, j, float(scores[layer, head, i, j]), float(attribution.attention[layer, head, i, j])))
    return found


def certificate(attribution: Attribution) -> str:
    """How exact the scores are, in one sentence."""
    verdict = "Certified" if attribution.certified else "NOT certified"
    return (
        f"{verdict}: estimated relative error at most {float(attribution.error.max()):.1e} (tolerance {attribution.tolerance:g}), "
        f"completeness gap at most {float(attribution.completeness.max()):.1e} in probability, "
        f"{int(attribution.evaluations.sum())} gradient evaluations in {len(attribution.evaluations)} layers ({attribution.method})."
    )
