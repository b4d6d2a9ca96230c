"""Rules that replace an integral over [0, 1] by a weighted sum, and that can say how far off they are.

    ∫₀¹ g(α) dα ≈ Σ_k w_k g(α_k)

A rule costs one evaluation of g for each node. Leaving nodes out gives weaker rules for nothing, and how fast they
approach the full rule shows how far the full rule still has to go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .data import one_of

METHODS = ("gauss-legendre", "riemann", "riemann-left")
AUTO_STEPS = (6, 10, 20, 40, 80)  # one after the other, until the error is small enough


@dataclass(frozen=True)
class Rule:
    """Nodes, the weights of the rule in ``weights[0]``, and below them those of weaker rules on the same nodes.

    ``weights[1]`` is the next weaker rule, ``weights[2]`` the one after it; with few nodes there are fewer of them.
    """

    method: str
    nodes: Float[Tensor, " M"]
    weights: Float[Tensor, "W M"]

    def error(self, gaps: Sequence[float]) -> float:
        """An estimate of the rule's error from its distances to the weaker rules (in the order of ``weights[1:]``).

        A Riemann sum is compared with the trapezoids on its nodes, a rule of higher order: its error is about the distance
        (we say twice that, for the ends of the path, where the trapezoids guess).
        Gauss-Legendre is far better than the rules it is compared with, by a factor that their distances b < a show:
        the error falls at least as fast from the weaker rule to the full one as it did before, so it is below b · (b/a).
        """
        if not gaps:
            return float("inf")
        if self.method != "gauss-legendre":
            return 2 * gaps[0]
        if len(gaps) == 1 or gaps[1] == 0:
            return gaps[0]
        return gaps[0] * min(1.0, gaps[0] / gaps[1])


def rule(method: str, steps: int | str) -> Rule:
    """The rule called ``method`` with ``steps`` nodes, in float64.

    Args:
        method: ``"gauss-legendre"`` (exact for polynomials up to degree 2·steps - 1), ``"riemann"`` (α_k = k/m for
            k = 1 ... m: Eq. 4 of the paper), or ``"riemann-left"`` (k = 0 ... m - 1: the authors' released code).
        steps: how many nodes, at least one.

    Raises:
        ValueError: an unknown method, or a number of steps that is not a whole number of at least one.

    >>> gauss = rule("gauss-legendre", 2)
    >>> round(float(gauss.weights[0] @ gauss.nodes**3), 12)  # ∫ α³ dα
    0.25
    """
    one_of("method", method, METHODS)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: expected a whole number of at least 1, or 'auto' where a text is attributed")
    if method == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
        nodes = (nodes + 1) / 2
        rows = [weights / 2] + [thinned(nodes, fewer) for fewer in (steps - 2, steps - 4) if fewer > 0]
    else:
        nodes = (np.arange(steps) + (method == "riemann")) / steps
        rows = [np.full(steps, 1 / steps)] + ([trapezoids(nodes)] if steps > 1 else [])
    return Rule(method, torch.from_numpy(nodes), torch.from_numpy(np.stack(rows)))


def rules_of(method: str, steps: int | str) -> list[Rule]:
    """The rules to try one after the other: one for a number of steps, those of ``AUTO_STEPS`` for ``"auto"``; errors as of `rule`."""
    if steps == "auto" and method != "gauss-legendre":
        raise ValueError(f"steps='auto' needs method='gauss-legendre', not {method!r}: pass a number of steps")
    return [rule(method, count) for count in (AUTO_STEPS if steps == "auto" else (steps,))]


def thinned(nodes: np.ndarray, count: int) -> np.ndarray:
    """Weights that are exact for polynomials of degree ``count`` - 1 and use only ``count`` evenly picked nodes."""
    picked = ((np.arange(count) + 0.5) * len(nodes) / count).astype(int)
    legendre = np.polynomial.legendre.legvander(2 * nodes[picked] - 1, count - 1).T
    weights = np.zeros(len(nodes))
    weights[picked] = np.linalg.solve(legendre, np.eye(count)[0])  # ∫ of the Legendre polynomials over [0, 1]: 1, 0, 0, ...
    return weights


def trapezoids(nodes: np.ndarray) -> np.ndarray:
    """Weights that integrate the broken line through equally spaced nodes, its end pieces prolonged to 0 and 1."""
    values = np.eye(len(nodes))  # of each weight: the line that is 1 at its node and 0 at the others
    rise = np.diff(values, axis=0) / (nodes[1] - nodes[0])
    line = np.stack([values[0] - rise[0] * nodes[0], *values, values[-1] + rise[-1] * (1 - nodes[-1])])
    return np.diff([0, *nodes, 1]) @ (line[1:] + line[:-1]) / 2
