"""Rules that replace an integral over [0, 1] by a weighted sum, and that can say how far off they are.

    ∫₀¹ g(α) dα ≈ Σ_k w_k g(α_k)

A rule costs one evaluation of g for each node. Other weights on the same nodes cost nothing, and show how fast the rule comes to its
limit, and so how far it still has to go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .data import one_of

METHODS = ("clenshaw-curtis", "gauss-legendre", "riemann", "riemann-left")
NESTED = (5, 9, 17, 33, 65)  # nodes of Clenshaw-Curtis rules, each with all those of the one before


@dataclass(frozen=True)
class Rule:
    """Nodes, the weights of the rule in ``weights[0]``, and below them what tells of its error, on the same nodes: see `error`."""

    method: str
    nodes: Float[Tensor, " M"]
    weights: Float[Tensor, "W M"]

    def error(self, norms: Float[Tensor, _W * B]) -> Float[Tensor, "*B"]:
        """An estimate of the rule's error from the norms of what ``weights[1:]`` make of the integrand.

        Clenshaw-Curtis integrates the sum of Chebyshev polynomials b₀T₀ + ... that the integrand is at its M nodes, up to T_{M-1}. It errs
        first by what it takes for another polynomial: T_{M+1} for T_{M-3}, of 5 nodes by 1/3 of b_{M+1}. The coefficients fall; we say
        that b_{M+1} is not above 2/5 of b_{M-1}, or 1/5 of b_{M-2}, and take the larger: two rows. Measured: chapter 3.

        A Riemann sum is compared with the trapezoids on its nodes, a rule of higher order: its error is about the distance
        (we say twice that, for the ends of the path, where the trapezoids guess).

        Gauss-Legendre is far better than the rules it is compared with, by a factor that their distances b < a show:
        the error falls at least as fast from the weaker rule to the full one as it did before, so it is below b · (b/a).
        """
        if not len(norms):
            return norms.new_full(norms.shape[1:], torch.inf)
        if self.method == "gauss-legendre" and len(norms) > 1:
            return norms[0] * (norms[0] / norms[1]).nan_to_num(1.0).clamp(max=1.0)
        return norms.amax(0)


def rule(method: str, steps: int | str) -> Rule:
    """The rule called ``method`` with ``steps`` nodes, in float64.

    Args:
        method: ``"clenshaw-curtis"`` (exact for polynomials up to degree steps - 1; both ends are nodes),
            ``"gauss-legendre"`` (up to degree 2·steps - 1), ``"riemann"`` (α_k = k/m for k = 1 ... m: Eq. 4 of the paper), or
            ``"riemann-left"`` (k = 0 ... m - 1: the authors' released code).
        steps: how many nodes, at least one, of Clenshaw-Curtis two.

    Raises:
        ValueError: an unknown method, or a number of steps that is no whole number, or too small.

    >>> gauss = rule("gauss-legendre", 2)
    >>> round(float(gauss.weights[0] @ gauss.nodes**3), 12)  # ∫ α³ dα
    0.25
    """
    one_of("method", method, METHODS)
    least = 1 + (method == "clenshaw-curtis")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"steps={steps!r}: expected a whole number of at least {least}, or 'auto' where a text is attributed")
    if method == "clenshaw-curtis":
        nodes, rows = clenshaw_curtis(steps - 1)
    elif method == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
        nodes = (nodes + 1) / 2
        rows = [weights / 2] + [weights / 2 - thinned(nodes, fewer) for fewer in (steps - 2, steps - 4) if fewer > 0]
    else:
        nodes = (np.arange(steps) + (method == "riemann")) / steps
        weights = np.full(steps, 1 / steps)
        rows = [weights] + ([2 * (weights - trapezoids(nodes))] if steps > 1 else [])
    return Rule(method, torch.from_numpy(nodes), torch.from_numpy(np.stack(rows)))


def rules_of(method: str | None, steps: int | str) -> list[Rule]:
    """The rules to try one after the other; errors as of `rule`.

    One for a number of steps (of no method: Gauss-Legendre); for ``"auto"``, which takes no method, the nested ones.
    """
    if steps == "auto" and method is not None:
        raise ValueError(f"steps='auto' chooses its rule by itself: expected method=None, or a number of steps for {method!r}")
    if steps == "auto":
        return [rule("clenshaw-curtis", count) for count in NESTED]
    return [rule(method or "gauss-legendre", steps)]


def clenshaw_curtis(degree: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The nodes (1 - cos(πk/n))/2 for k = 0 ... n, the weights, and those of 2/15 of a_n and 1/15 of a_{n-1}: see `Rule.error`."""
    angles = np.pi * (np.arange(degree + 1) / degree)
    halved = np.ones(degree + 1)
    halved[[0, -1]] = 0.5
    # a_j = (2/n) Σ_k cos(jπk/n) g(α_k), the first and the last term, and the first and the last coefficient, halved
    coefficients = np.cos(np.outer(np.arange(degree + 1), angles)) * 2 / degree * halved * halved[:, None]
    integrals = [0 if j % 2 else 1 / (1 - j**2) for j in range(degree + 1)]  # of T_j, over [0, 1]
    rows = [2 / 15 * coefficients[-1], coefficients[-2] / 15] if degree > 1 else []
    return (1 - np.cos(angles)) / 2, [integrals @ coefficients, *rows]


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
