"""On a log-linear policy the envelope leader with an exact follower reaches the optimum that a convex solver finds."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from sgpo.robust.exact import worst_case


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parents[2] / "benchmarks" / "leader_convergence.py"
    spec = importlib.util.spec_from_file_location("leader_convergence", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(bench):
    features = bench.make_features()
    return features, bench.solve_robust(features), *bench.train_leader(features, steps=250)


def test_the_leader_reaches_the_convex_solvers_optimum(run):
    _, best, path, values = run
    assert values[-1] == pytest.approx(best.value, abs=1e-6)
    np.testing.assert_allclose(path[-1], best.theta, atol=1e-4)


def test_the_solvers_optimum_is_the_robust_value_there(bench, run):
    features, best, *_ = run
    worst = worst_case(features @ best.theta, bench.RADIUS, window=bench.WINDOW)
    assert worst.value == pytest.approx(best.value, abs=1e-6)
    assert worst.price == pytest.approx(best.price, abs=1e-3)
    assert 0 < worst.moved_share < 1


def test_the_robust_optimum_is_another_than_dpos(run):
    features, best, *_ = run
    dpo = minimize(lambda theta: np.logaddexp(0, -features @ theta).mean(), np.zeros(features.shape[1])).x
    assert np.linalg.norm(best.theta - dpo) > 0.05


def test_the_distance_to_the_optimum_falls_at_a_linear_rate(run):
    _, best, path, _ = run
    distance = np.log(np.linalg.norm(path[:80] - best.theta, axis=1))
    steps = np.arange(80)
    slope, intercept = np.polyfit(steps[10:], distance[10:], 1)
    assert slope < -0.05
    assert np.abs(distance[10:] - (slope * steps[10:] + intercept)).max() < 0.5


def test_scipy_finds_the_same_program_value_as_clarabel(bench, run):
    pytest.importorskip("cvxpy")
    features, best, *_ = run
    value, _ = bench._solve_by_scipy(features, best.price, np.logaddexp(0, -bench.WINDOW[0]))
    assert value == pytest.approx(best.value, abs=1e-5)
