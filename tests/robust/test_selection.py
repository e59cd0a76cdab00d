"""Selection on large inputs, in every order that could fool a sample, against sorting everything."""

import numpy as np
import pytest

from sgpo.robust import certify, worst_case
from sgpo.robust.selection import select

COUNT = 50_000


def orders():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=COUNT).clip(-5, 5)
    periodic = normal.copy()
    periodic[:: COUNT // 781] = 4.9
    yield "random", normal
    yield "ascending", np.sort(normal)
    yield "descending", np.sort(normal)[::-1]
    yield "periodic outliers where the sample looks", periodic
    yield "all equal", np.full(COUNT, 0.7)
    yield "two values", rng.choice([-1.0, 2.0], size=COUNT)
    yield "many ties", rng.integers(-4, 5, size=COUNT).astype(float)
    yield "nine in ten at one place", np.where(rng.random(COUNT) < 0.9, 0.25, normal)
    yield "heavy tail", rng.standard_cauchy(COUNT).clip(-5, 5)
    yield "sawtooth", np.tile(np.linspace(-5, 5, 64), COUNT // 64 + 1)[:COUNT]
    yield "half at the lower end", np.where(rng.random(COUNT) < 0.5, -5.0, normal)


@pytest.mark.parametrize(("name", "points"), list(orders()), ids=[name for name, _ in orders()])
@pytest.mark.parametrize("weighted", [False, True])
def test_selection_equals_sorting_everything(name, points, weighted):
    weights = np.random.default_rng(1).uniform(size=COUNT) if weighted else np.ones(COUNT)
    weights /= weights.sum()
    ranked = np.argsort(points, kind="stable")
    spent = np.cumsum((weights * (points + 5))[ranked])
    for share in (0.0, 1e-7, 0.001, 0.1, 0.5, 0.9, 0.99999, 1.5):
        radius = share * spent[-1]
        chosen = select(points, -5.0, radius, weights if weighted else None)
        assert chosen.full_radius == pytest.approx(spent[-1], rel=1e-12)
        if share > 1:
            assert chosen.marginal is None
            continue
        below = (weights * (points + 5))[points < chosen.marginal].sum()
        tied = (weights * (points + 5))[points == chosen.marginal].sum()
        assert tied > 0 and 0 <= chosen.split <= 1
        assert below + chosen.split * tied == pytest.approx(radius, rel=1e-10, abs=1e-14)


def test_chunked_sums_equal_one_sum_at_a_million_gaps():
    gaps = np.random.default_rng(0).normal(size=1_000_000).clip(-6, 6)
    worst = worst_case(gaps, 0.2, window=(-6, 6))
    assert worst.empirical_value == pytest.approx(np.logaddexp(0, -gaps).mean(), rel=1e-13)
    assert abs(certify(worst).gap) < 1e-12


def test_an_exact_budget_stops_between_two_gaps():
    worst = worst_case(np.array([1.0, 2.0, 3.0, 4.0]), 0.75, window=(0.0, 5.0))
    assert worst.moved.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert worst.marginal == 3.0


def test_input_is_not_changed():
    gaps = np.random.default_rng(0).normal(size=5000)
    before = gaps.copy()
    worst_case(gaps, 0.3, window=(-2, 2), clip=True)
    np.testing.assert_array_equal(gaps, before)
