"""Radii that follow the shift, against SciPy and theory; what held-out pairs accept."""

import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from sgpo.errors import InputError
from sgpo.robust.exact import worst_case
from sgpo.stats.acceptance import accept_round, choose_radius
from sgpo.stats.certificate import measured_radius
from sgpo.stats.ranking import ranking_accuracy
from sgpo.stats.temperature import calibrated_losses, fit_temperature


def labelled(rng, count, informed=1.0):
    """Gaps whose order a Bradley-Terry annotator saw through rewards `informed` times the gaps."""
    gaps = rng.normal(size=count)
    return np.where(rng.random(count) < 1 / (1 + np.exp(-informed * gaps)), gaps, -gaps)


def calibrated(gaps):
    return calibrated_losses(gaps, fit_temperature(gaps).scale)


@pytest.mark.parametrize("space", ["margin", "probability"])
def test_the_measured_radius_is_the_wasserstein_distance_of_the_gap_space(space):
    rng = np.random.default_rng(0)
    human, own = rng.normal(size=30), rng.normal(1, 2, size=50)
    points = [x if space == "margin" else 1 / (1 + np.exp(-x)) for x in (human, own)]
    expected = wasserstein_distance(*points)
    assert measured_radius(human, own, space=space) == pytest.approx(expected, rel=1e-12)
    assert measured_radius(own, own[::-1], space=space) == 0


def test_the_measured_ball_certifies_the_human_loss_and_a_smaller_one_does_not():
    rng = np.random.default_rng(1)
    human, own = rng.normal(-2, 0.1, size=40), rng.normal(1, 0.1, size=60)
    window = (human.min(), own.max())
    loss = np.logaddexp(0, -human).mean()
    radius = measured_radius(human, own, space="margin")
    assert worst_case(own, radius, space="margin", window=window).value >= loss - 1e-12
    assert worst_case(own, 0.7 * radius, space="margin", window=window).value < loss


def test_calibrated_losses_do_not_depend_on_the_scale():
    gaps = labelled(np.random.default_rng(2), 400)
    losses = calibrated(gaps)
    np.testing.assert_allclose(calibrated(25 * gaps), losses, rtol=1e-9)
    assert losses.mean() == pytest.approx(fit_temperature(gaps).log_loss)
    assert np.logaddexp(0, -25 * gaps).mean() > losses.mean() + 1


def test_gaps_against_the_human_order_have_no_likelihood_beyond_chance():
    gaps = -np.abs(np.random.default_rng(4).normal(size=50))
    for against in (gaps, np.r_[gaps, 0.1]):
        assert calibrated(against) == pytest.approx(np.full(against.size, math.log(2)))
    assert ranking_accuracy(gaps).accuracy == 0


def test_gaps_that_are_always_right_cost_nothing_and_a_gap_of_zero_what_chance_costs():
    assert calibrated(np.array([0.1, 0.0, 2.0])) == pytest.approx([0, math.log(2), 0])


def test_a_round_that_only_inflates_the_gaps_is_taken():
    gaps = labelled(np.random.default_rng(5), 200)
    decision = accept_round(gaps, 30 * gaps)
    assert decision.accepted
    assert decision.change == pytest.approx(0, abs=1e-9)


def test_a_round_that_loses_the_direction_is_not_taken_and_one_standard_error_is_the_bar():
    rng = np.random.default_rng(6)
    gaps = labelled(rng, 600, informed=3.0)
    noise = rng.normal(size=600)
    accepted, lost = [], []
    for size in np.linspace(0, 1.5, 31):
        worse = gaps + size * noise
        decision = accept_round(gaps, worse)
        gain = calibrated(gaps) - calibrated(worse)
        assert decision.change == pytest.approx(gain.mean(), abs=1e-12)
        assert decision.standard_error == pytest.approx(gain.std(ddof=1) / math.sqrt(600), abs=1e-12)
        assert decision.reason == ("pays" if decision.change >= -decision.standard_error else "direction lost")
        lost.append(decision.change < 0)
        accepted.append(decision.accepted)
    assert accept_round(worse, gaps).accepted
    # Some rounds lose less than one standard error.
    assert 31 - sum(lost) < sum(accepted) < 31


def test_from_the_reference_only_information_counts():
    rng = np.random.default_rng(7)
    reference = np.zeros(300)
    taken = [accept_round(reference, labelled(rng, 300, informed=0.0)).accepted for _ in range(400)]
    # One standard error: 16% of rounds that say nothing pass.
    assert np.mean(taken) == pytest.approx(0.16, abs=0.05)
    assert all(accept_round(reference, labelled(rng, 300)).accepted for _ in range(50))


def test_among_radii_that_do_as_well_the_smallest_is_chosen_and_a_better_one_beats_it():
    rng = np.random.default_rng(8)
    truth = labelled(rng, 500, informed=3.0)
    poor = 0.2 * truth + rng.normal(size=500)

    def choose(before, after):
        return choose_radius([accept_round(before, gaps) for gaps in after], (0.1, 0.0, 0.05))

    assert choose(np.zeros(500), [truth, truth, truth]) == 1
    assert choose(np.zeros(500), [truth, poor, truth]) == 2
    assert choose(truth, [poor, poor, poor]) is None
    assert choose(truth, [poor, poor, truth]) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measured_radius([0.0], [np.nan], space="margin"), r"self_gaps\[0\] is nan"),
        (lambda: measured_radius([0.0], [1.0], space="logit"), "space is 'logit'"),
        (lambda: fit_temperature([]), "gaps has shape"),
        (lambda: accept_round([0.0], [np.inf]), r"after_gaps\[0\] is inf"),
        (lambda: accept_round([0.0, 1.0], [1.0]), "after_gaps has 1 pairs"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
