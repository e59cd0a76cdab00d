"""Which policy is shipped: levels that hold, power that grows with rounds, and length that counts for nothing."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from sgpo.errors import InputError
from sgpo.stats.acceptance import evidence, latest_supported, smallest_p_value


def logistic(x):
    return 1 / (1 + np.exp(-x))


def draw(rng, count, *, gap=0.0, control=0.0, shared=0.0):
    """Differences between chosen and rejected, where the annotator's log-odds are gap * g + control * l."""
    length = rng.normal(size=count)
    gaps = shared * length + rng.normal(size=count)
    chosen = np.where(rng.random(count) < logistic(gap * gaps + control * length), 1, -1)
    return chosen * gaps, chosen * length


def test_noise_is_taken_for_a_signal_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    p_values = [evidence(draw(rng, 150)[0]).p_value for _ in range(2000)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_a_policy_that_learned_length_has_evidence_until_length_is_controlled():
    rng = np.random.default_rng(1)
    plain, controlled = [], []
    for _ in range(500):
        gaps, length = draw(rng, 200, control=1.0, shared=2.0)
        plain.append(evidence(gaps).p_value)
        controlled.append(evidence(gaps, control=length).p_value)
    assert np.mean(np.array(plain) < 0.05) > 0.99
    assert np.mean(np.array(controlled) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_what_gaps_say_beyond_length_is_still_seen():
    rng = np.random.default_rng(2)
    found = [evidence(*draw(rng, 200, gap=0.7, control=1.0)[:1]).p_value for _ in range(200)]
    controlled = []
    for _ in range(200):
        gaps, length = draw(rng, 200, gap=0.7, control=1.0)
        controlled.append(evidence(gaps, control=length).p_value)
    assert np.mean(np.array(found) < 0.05) > 0.95
    assert np.mean(np.array(controlled) < 0.05) > 0.95


def test_the_score_is_close_to_the_wald_statistic_of_the_fitted_model():
    gaps, length = draw(np.random.default_rng(3), 4000, gap=0.05, control=0.8, shared=1.0)
    features = np.stack([gaps, length], axis=1)
    fit = minimize(lambda c: np.logaddexp(0, -features @ c).mean(), np.zeros(2))
    chance = logistic(features @ fit.x)
    covariance = np.linalg.inv((features * (chance * (1 - chance))[:, None]).T @ features)
    assert evidence(gaps, control=length).score == pytest.approx(fit.x[0] / np.sqrt(covariance[0, 0]), abs=0.1)


def test_evidence_has_no_unit():
    gaps, length = draw(np.random.default_rng(4), 100, gap=0.5)
    assert evidence(40 * gaps, control=length / 7).score == pytest.approx(evidence(gaps, control=length).score)


def test_gaps_that_are_the_control_itself_are_no_evidence():
    length = np.abs(np.random.default_rng(5).normal(size=50)) * np.tile([1, 1, -1, 1, 1], 10)
    assert evidence(3 * length, control=length) == (0.0, 0.5)
    assert evidence(np.zeros(50)) == (0.0, 0.5)
    assert evidence(length, control=np.zeros(50)) == evidence(length)


def test_no_gaps_have_a_smaller_p_value_than_so_many_pairs_can_give():
    rng = np.random.default_rng(7)
    for count in (1, 2, 3, 6, 20):
        least = smallest_p_value(count)
        assert evidence(np.full(count, 0.3)).p_value == pytest.approx(least)
        for _ in range(100):
            gaps, control = rng.exponential(size=(2, count)) * rng.choice([1e-3, 1, 1e3], size=(2, count))
            assert evidence(gaps).p_value >= least * (1 - 1e-9)
            assert evidence(gaps, control=rng.choice([-1, 1], count) * control).p_value >= least * (1 - 1e-9)


def test_the_latest_supported_policy_is_shipped_and_earlier_ones_face_half_the_level():
    strong = np.r_[np.ones(60), -np.ones(20)]
    none = np.tile([1.0, -1.0], 40)
    assert latest_supported([none, strong, none]).place == 1
    assert latest_supported([strong, none, strong]).place == 2
    assert latest_supported([none, none]).place is None
    # A score of 1.8 passes at 5% but not at 2.5%.
    borderline = np.r_[np.ones(48), -np.ones(32)]
    assert norm.isf(0.05) < evidence(borderline).score < norm.isf(0.025)
    assert latest_supported([none, borderline]).place == 1
    assert latest_supported([borderline, none]).place is None
    np.testing.assert_allclose(latest_supported([none] * 3).thresholds, [0.0125, 0.025, 0.05])


def test_a_run_without_a_signal_is_shipped_in_at_most_twice_the_level():
    rng = np.random.default_rng(6)
    shipped = [latest_supported([draw(rng, 100)[0] for _ in range(4)]).place is not None for _ in range(1500)]
    assert 0.05 < np.mean(shipped) < 0.1 + 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evidence([1.0], control=[1.0, 2.0]), "control has 2 pairs"),
        (lambda: evidence([np.inf]), r"gaps\[0\] is inf"),
        (lambda: latest_supported([]), "holds no policy"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
