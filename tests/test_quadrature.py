"""Quadrature: exactness by hand, and error estimates that are never below the error."""

import inspect
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from attattr.quadrature import METHODS, NESTED, rule


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 12, 40])
def test_gauss_legendre_integrates_polynomials_exactly(steps):
    gauss = rule("gauss-legendre", steps)
    for degree in range(min(2 * steps, 24)):
        assert float(gauss.weights[0] @ gauss.nodes**degree) == pytest.approx(1 / (degree + 1), abs=1e-12)


def test_riemann_sums_are_those_of_the_paper_and_of_the_code():
    right, left = rule("riemann", 20), rule("riemann-left", 64)
    assert right.nodes.tolist() == [k / 20 for k in range(1, 21)]
    assert left.nodes.tolist() == [k / 64 for k in range(64)]
    assert set(right.weights[0].tolist()) == {1 / 20}
    assert set(left.weights[0].tolist()) == {1 / 64}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [2, 3, 5, 6, 20, 80])
def test_the_weights_of_a_rule_sum_to_one_and_what_tells_of_its_error_does_not_mind_a_constant(method, steps):
    sums = rule(method, steps).weights.sum(1)
    assert np.allclose(sums[0], 1)
    assert np.allclose(sums[1:], 0) or (method, steps) == ("clenshaw-curtis", 3)  # a₁ and a₂ alone tell nothing of a straight line


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 9, 12])
def test_clenshaw_curtis_integrates_polynomials_exactly_and_is_scipys(steps):
    found = rule("clenshaw-curtis", steps)
    assert found.nodes[0] == 0 and found.nodes[-1] == 1
    for degree in range(steps):
        assert float(found.weights[0] @ found.nodes**degree) == pytest.approx(1 / (degree + 1), abs=1e-12)
    if steps % 2:  # by symmetry
        assert float(found.weights[0] @ found.nodes**steps) == pytest.approx(1 / (steps + 1), abs=1e-12)


@pytest.mark.parametrize(("small", "large"), list(pairwise(NESTED)))
def test_nested_rules_keep_all_nodes_to_the_bit(small, large):
    few, many = (rule("clenshaw-curtis", count).nodes.tolist() for count in (small, large))
    assert many[::2] == few


@pytest.mark.parametrize("degree", [4, 8, 16])
def test_the_estimate_of_clenshaw_curtis_is_made_of_its_last_two_chebyshev_coefficients(degree):
    found = rule("clenshaw-curtis", degree + 1)
    values = torch.exp(2 * found.nodes) + torch.sin(5 * found.nodes)
    last = np.polynomial.chebyshev.Chebyshev.interpolate(lambda x: np.exp(x + 1) + np.sin(2.5 * (x + 1)), degree).coef  # other nodes
    fitted = np.polynomial.chebyshev.chebfit(2 * found.nodes.numpy() - 1, values.numpy(), degree)
    assert np.abs(last - fitted).max() < 0.1  # so the polynomial is the one that is meant, whatever the nodes
    estimate = found.error((found.weights[1:] @ values).abs())
    assert float(estimate) == pytest.approx(max(2 * abs(fitted[-1]), abs(fitted[-2])) / 15)


@pytest.mark.parametrize(
    ("method", "steps"),
    [("clenshaw-curtis", n) for n in NESTED]
    + [("gauss-legendre", n) for n in (5, 6, 10, 20)]
    + [(m, n) for m in METHODS[2:] for n in (10, 20, 64)],
)
def test_the_error_is_within_the_estimate(method, steps):
    # Derivatives of logistic steps, as along the path of a saturating softmax: their integrals are known exactly.
    current = rule(method, steps)
    alpha = current.nodes[:, None]
    sharpest = 8 if current.method == "clenshaw-curtis" and steps == 5 else 16  # what happens between two nodes, no rule sees
    sharpness, centre = (
        grid.flatten()
        for grid in torch.meshgrid(torch.linspace(0.5, sharpest, 20).double(), torch.linspace(-0.5, 1.5, 20).double(), indexing="ij")
    )
    step = torch.sigmoid(sharpness * (alpha - centre))
    exact = torch.sigmoid(sharpness * (1 - centre)) - torch.sigmoid(-sharpness * centre)
    results = current.weights @ (sharpness * step * (1 - step))
    errors = (results[0] - exact).abs()
    covered = int((current.error(results[1:].abs()) + 1e-6 >= errors).sum())
    assert covered >= 0.9 * len(errors)  # one number can agree by chance; a matrix of scores hardly ever does (test_attribution.py)


def test_too_few_nodes_give_no_estimate():
    for method in ("gauss-legendre", "clenshaw-curtis"):
        assert len(rule(method, 2).weights) == 1 and float(rule(method, 2).error(torch.empty(0))) == math.inf


@pytest.mark.parametrize("steps", [0, -3, 2.0, "6", True, None])
def test_wrong_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        inspect.unwrap(rule)("riemann", steps)  # without the type checks of the tests


def test_clenshaw_curtis_has_both_ends():
    with pytest.raises(ValueError, match="steps=1: expected a whole number of at least 2"):
        rule("clenshaw-curtis", 1)


def test_unknown_methods_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'simpson'.*'gauss-legendre'"):
        rule("simpson", 4)
