"""The exact follower against theory and an independent linear program."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from sgpo.robust import worst_case


def knapsack_value(points, weights, value, lower, radius):
    """The follower as a generic linear program over the moved shares: an independent reference."""
    cost = weights * (points - lower)
    gain = weights * (value(np.array([lower])) - value(points))
    solved = linprog(-gain, A_ub=cost[None], b_ub=[radius], bounds=(0, 1), method="highs")
    return float(weights @ value(points) - solved.fun)


@pytest.mark.parametrize("count", [1, 2, 50, 1000])
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.3, 50.0])
def test_worst_case_equals_a_linear_program_over_moved_shares(count, radius):
    gaps = np.random.default_rng(count).normal(size=count)
    worst = worst_case(gaps, radius, window=(-5, 5))
    expected = knapsack_value(gaps, np.full(count, 1 / count), lambda u: np.logaddexp(0, -u), -5, radius)
    assert worst.value == pytest.approx(expected, rel=1e-9)


def test_zero_radius_leaves_the_data_as_it_is():
    gaps = np.random.default_rng(0).normal(size=100)
    worst = worst_case(gaps, 0, window=(-5, 5))
    assert worst.value == worst.empirical_value == pytest.approx(np.logaddexp(0, -gaps).mean(), rel=1e-14)
    assert worst.moved_share == 0 and not worst.moved.any()


def test_the_worst_law_has_the_value_and_stays_in_the_ball():
    gaps = np.random.default_rng(0).normal(size=500)
    worst = worst_case(gaps, 0.05, window=(-5, 5))
    assert worst.atom_weights @ worst.link.value(worst.atoms) == pytest.approx(worst.value, rel=1e-13)
    distance = wasserstein_distance(gaps, worst.atoms, None, worst.atom_weights)
    assert distance == pytest.approx(0.05, rel=1e-9)


def test_price_is_the_derivative_of_the_value():
    gaps = np.random.default_rng(0).normal(size=500)
    step = 1e-7
    worst, further = (worst_case(gaps, radius, window=(-5, 5)) for radius in (0.05, 0.05 + step))
    assert worst.price == pytest.approx((further.value - worst.value) / step, rel=1e-6)
