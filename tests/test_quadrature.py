"""Quadrature: exactness by hand, and error estimates that are never below the error."""

import inspect
import math

import numpy as np
import pytest
import torch

from attattr.quadrature import METHODS, rule


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
def test_all_weights_of_a_rule_sum_to_one(method, steps):
    assert np.allclose(rule(method, steps).weights.sum(1), 1)


@pytest.mark.parametrize(
    ("method", "steps"), [("gauss-legendre", n) for n in (5, 6, 10, 20)] + [(m, n) for m in METHODS[1:] for n in (10, 20, 64)]
)
def test_the_error_is_within_the_estimate(method, steps):
    # Derivatives of logistic steps, as along the path of a saturating softmax: their integrals are known exactly.
    current = rule(method, steps)
    alpha = current.nodes[:, None]
    sharpness, centre = (
        grid.flatten()
        for grid in torch.meshgrid(torch.linspace(0.5, 16, 20).double(), torch.linspace(-0.5, 1.5, 20).double(), indexing="ij")
    )
    step = torch.sigmoid(sharpness * (alpha - centre))
    exact = torch.sigmoid(sharpness * (1 - centre)) - torch.sigmoid(-sharpness * centre)
    results = current.weights @ (sharpness * step * (1 - step))
    errors = (results[0] - exact).abs()
    estimates = [current.error(gaps.tolist()) for gaps in (results[1:] - results[0]).abs().T]
    covered = sum(estimate + 1e-6 >= error for estimate, error in zip(estimates, errors.tolist(), strict=True))
    assert covered >= 0.9 * len(errors)  # one number can agree by chance; a matrix of scores hardly ever does (test_attribution.py)


def test_too_few_nodes_give_no_estimate():
    assert rule("gauss-legendre", 2).error([]) == math.inf


@pytest.mark.parametrize("steps", [0, -3, 2.0, "6", True, None])
def test_wrong_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        inspect.unwrap(rule)("riemann", steps)  # without the type checks of the tests


def test_unknown_methods_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'simpson'.*'gauss-legendre'"):
        rule("simpson", 4)
