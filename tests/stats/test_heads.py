"""Reward heads as mathematics: their optimum, their choice, their accuracy and their spread."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from sklearn.linear_model import LogisticRegression

from refusals import unrefused
from sgpo.stats.heads import FOLDS, LEAST, STRENGTHS, Heads, fit_heads, fit_weights


def pairs_of(count, *, width=6, signal=4.0, seed=0):
    """States whose first feature decides which response is better, with Bradley-Terry noise."""
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, count, width))
    is_other = rng.random(count) > 1 / (1 + np.exp(-signal * (one - other)[:, 0]))
    one[is_other], other[is_other] = other[is_other], one[is_other].copy()
    return one, other


def mean_loss(weights, differences, strength, counts):
    shares = counts / counts.sum()
    return shares @ np.logaddexp(0, -differences @ weights) + strength / 2 * weights @ weights


@pytest.mark.parametrize("strength", [1e-3, 1e-1, 10.0])
def test_weights_are_those_of_an_independent_solver(strength):
    """scikit-learn's Newton method; its C is the inverse of the number of pairs times c."""
    chosen, rejected = pairs_of(60)
    differences = chosen - rejected
    counts = np.random.default_rng(1).integers(0, 4, size=60)
    model = LogisticRegression(
        C=1 / (strength * counts.sum()), fit_intercept=False, solver="newton-cholesky", tol=1e-12
    )
    signs = np.where(np.arange(60) % 2, 1, -1)
    peer = model.fit(differences * signs[:, None], signs, sample_weight=counts).coef_[0]
    np.testing.assert_allclose(fit_weights(differences, strength, counts), peer, atol=1e-5)


def test_weights_are_a_stationary_point_and_a_minimum_by_finite_differences():
    chosen, rejected = pairs_of(30)
    differences, counts = chosen - rejected, np.ones(30)
    found = fit_weights(differences, 0.05, counts)
    slope = approx_fprime(found, mean_loss, 1e-6, differences, 0.05, counts)
    assert np.abs(slope).max() < 1e-5
    other = minimize(mean_loss, found + 1, args=(differences, 0.05, counts), method="Powell", tol=1e-12)
    assert mean_loss(found, differences, 0.05, counts) <= other.fun + 1e-9


def test_one_direction_that_decides_is_found_whatever_its_scale_and_centre():
    train, test = pairs_of(200, signal=50.0), pairs_of(500, signal=50.0, seed=1)
    gaps = []
    for factor, shift in ((1.0, 0.0), (1e3, 0.0), (1e-3, 7.0)):
        sides = [side * [factor, 1, 1, 1, 1, 1] + shift for side in (*train, *test)]
        heads, strength, accuracy = fit_heads(sides[0], sides[1], range(200))
        gaps.append((heads.rewards(sides[2]) - heads.rewards(sides[3])).mean(axis=1))
        assert (gaps[-1] > 0).mean() > 0.95 and strength in STRENGTHS and accuracy.low > 0.85
    np.testing.assert_allclose(gaps[1], gaps[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gaps[2], gaps[0], rtol=1e-3, atol=1e-4)


def test_the_reported_accuracy_is_that_on_new_pairs_and_a_half_without_a_signal():
    """The accuracy of the best choice, on the pairs that it was chosen on, is above 0.55 in the first case."""
    found = []
    for seed in range(8):
        chosen, rejected = np.random.default_rng(seed).normal(size=(2, 60, 8))
        found.append(fit_heads(chosen, rejected, range(60), seed=seed)[2].accuracy)
    assert abs(np.mean(found) - 0.5) < 0.05
    heads, _, accuracy = fit_heads(*pairs_of(400, seed=2), range(400), count=20)
    new = [heads.rewards(side).mean(axis=1) for side in pairs_of(4000, seed=1)]
    assert accuracy.low < np.mean(new[0] > new[1]) < accuracy.high and accuracy.pairs == 400


def test_the_spread_of_the_heads_shrinks_with_the_pairs():
    spreads = []
    for count in (50, 200, 800):
        heads = fit_heads(*pairs_of(count), range(count), count=40, regularisation=0.01)[0]
        weights = heads.weights / np.linalg.norm(heads.weights, axis=1, keepdims=True)
        spreads.append(weights.std(axis=0).mean())
    # As one over the root of their number.
    assert spreads[0] > 1.5 * spreads[1] > 2.25 * spreads[2]


def test_pairs_of_one_prompt_are_held_out_together():
    """Each pair is there twice: apart, one would tell the other's order, whatever the states are."""
    chosen, rejected = (np.repeat(side, 2, axis=0) for side in np.random.default_rng(0).normal(size=(2, 60, 200)))
    together = fit_heads(chosen, rejected, np.repeat(np.arange(60), 2), regularisation=1e-3)[2]
    apart = fit_heads(chosen, rejected, range(120), regularisation=1e-3)[2]
    assert together.accuracy < 0.65 and apart.accuracy > 0.8


def test_a_feature_without_spread_counts_for_nothing():
    chosen, rejected = pairs_of(60)
    noise = np.random.default_rng(0).normal(size=(2, 60)) * 1e-9
    chosen[:, 3], rejected[:, 3] = 2 + noise
    heads = fit_heads(chosen, rejected, range(60))[0]
    assert np.isinf(heads.scale[3]) and not heads.weights[:, 3].any()
    assert np.isfinite(heads.rewards(chosen)).all()


def test_heads_are_the_same_for_the_same_seed_and_others_for_another():
    one, same, other = (fit_heads(*pairs_of(40), range(40), seed=seed)[0] for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one.weights, other.weights)


def test_rewards_are_linear_in_the_states():
    rng = np.random.default_rng(0)
    heads = Heads(rng.normal(size=(3, 4)), rng.normal(size=4), rng.random(4) + 0.5)
    states = rng.normal(size=(5, 4))
    expected = [[np.sum(w * (s - heads.centre) / heads.scale) for w in heads.weights] for s in states]
    np.testing.assert_allclose(heads.rewards(states), expected)
    np.testing.assert_allclose(heads.rewards(heads.centre[None]), 0, atol=1e-12)


def test_what_heads_cannot_be_fitted_on_is_refused():
    chosen, rejected = pairs_of(LEAST)
    infinite = chosen.copy()
    infinite[3, 1] = np.inf
    cases = [
        ((chosen[1:], rejected[1:], range(LEAST - 1)), f"pairs of {LEAST - 1} prompts .* at least {LEAST}"),
        ((chosen, rejected, [0] * LEAST), "pairs of 1 prompts"),
        ((infinite, rejected, range(LEAST)), "finite"),
        ((chosen, chosen, range(LEAST)), "not all the same"),
    ]
    assert unrefused(lambda case: fit_heads(*case), cases) == {}
    assert FOLDS <= LEAST and fit_heads(chosen, rejected, range(LEAST))[2].pairs == LEAST
