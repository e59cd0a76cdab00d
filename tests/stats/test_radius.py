"""Radii that follow the shift, against SciPy and theory; what held-out pairs accept."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import wasserstein_distance

from sgpo.errors import InputError
from sgpo.robust.exact import worst_case
from sgpo.stats.acceptance import accept_round, choose_radius
from sgpo.stats.certificate import measured_radius
from sgpo.stats.ranking import ranking_accuracy
from sgpo.stats.temperature import remove_scale


def labelled(rng, count, informed=1.0):
    """Gaps whose order a Bradley-Terry annotator saw through rewards `informed` times the gaps."""
    gaps = rng.normal(size=count)
    return np.where(rng.random(count) < 1 / (1 + np.exp(-informed * gaps)), gaps, -gaps)


@pytest.mark.parametrize("space", ["margin", "probability"])
def test_the_measured_radius_is_the_wasserstein_distance_of_the_gap_space(space):
    rng = np.random.default_rng(0)
    human, own = rng.normal(size=30), rng.normal(1, 2, size=50)
    points = [x if space == "margin" else 1 / (1 + np.exp(-x)) for x in (human, own)]
    expected = wasserstein_distance(*points)
    assert measured_radius(human, own, space=space) == pytest.approx(expected, rel=1e-12)
    assert measured_radius(human, own, space=space, factor=0.5) == pytest.approx(0.5 * expected)
    assert measured_radius(own, own[::-1], space=space) == 0


def test_the_measured_ball_certifies_the_human_loss_and_a_smaller_one_does_not():
    rng = np.random.default_rng(1)
    human, own = rng.normal(-2, 0.1, size=40), rng.normal(1, 0.1, size=60)
    window = (human.min(), own.max())
    loss = np.logaddexp(0, -human).mean()
    radius = measured_radius(human, own, space="margin")
    assert worst_case(own, radius, space="margin", window=window).value >= loss - 1e-12
    assert worst_case(own, 0.7 * radius, space="margin", window=window).value < loss


def test_the_temperature_is_the_optimum_and_takes_the_scale_out():
    gaps = labelled(np.random.default_rng(2), 400)
    fit = remove_scale(gaps)
    best = minimize_scalar(lambda c: np.logaddexp(0, -c * gaps).mean(), bracket=(0, 1), tol=1e-12)
    assert fit.temperature == pytest.approx(best.x, rel=1e-5)
    assert fit.nll == pytest.approx(best.fun)
    inflated = remove_scale(25 * gaps)
    assert inflated.temperature == pytest.approx(fit.temperature / 25)
    assert inflated.nll == pytest.approx(fit.nll)
    assert np.logaddexp(0, -25 * gaps).mean() > fit.nll + 1
    assert fit.standard_error == pytest.approx(np.logaddexp(0, -best.x * gaps).std(ddof=1) / 20, rel=1e-6)


def test_deflating_forgives_large_gaps_and_not_small_ones():
    gaps = labelled(np.random.default_rng(3), 300)
    gaps = gaps * remove_scale(gaps).temperature
    honest = remove_scale(gaps).nll
    assert remove_scale(9 * gaps).deflated == pytest.approx(honest)
    assert remove_scale(gaps / 9).deflated == pytest.approx(np.logaddexp(0, -gaps / 9).mean())
    assert remove_scale(gaps / 9).deflated > honest


def test_gaps_against_the_human_order_have_no_likelihood_beyond_chance():
    gaps = -np.abs(np.random.default_rng(4).normal(size=50))
    fit = remove_scale(gaps)
    assert fit.temperature == -math.inf
    assert fit.nll == pytest.approx(math.log(2))
    assert ranking_accuracy(gaps).accuracy == 0


def test_a_round_that_only_inflates_the_gaps_is_taken():
    gaps = labelled(np.random.default_rng(5), 200)
    decision = accept_round(gaps, 30 * gaps)
    assert decision.accepted
    assert decision.change == pytest.approx(0, abs=1e-9)


def test_a_round_that_loses_the_direction_is_not_taken_and_one_standard_error_is_the_bar():
    rng = np.random.default_rng(6)
    gaps = labelled(rng, 600, informed=3.0)
    worse = 0.5 * gaps + rng.normal(size=600)
    decision = accept_round(gaps, worse)
    assert (decision.accepted, decision.reason) == (False, "direction lost")
    losses = remove_scale(gaps).losses - remove_scale(worse).losses
    assert decision.change == pytest.approx(losses.mean())
    assert decision.standard_error == pytest.approx(losses.std(ddof=1) / math.sqrt(600))
    assert accept_round(gaps, worse, errors=1.01 * -decision.change / decision.standard_error).accepted
    assert accept_round(worse, gaps).accepted


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
    radii = (0.1, 0.0, 0.05)
    assert choose_radius(np.zeros(500), [truth, truth, truth], radii) == 1
    assert choose_radius(np.zeros(500), [truth, poor, truth], radii) == 2
    assert choose_radius(truth, [poor, poor, poor], radii) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measured_radius([0.0], [np.nan], space="margin"), r"self_gaps\[0\] is nan"),
        (lambda: measured_radius([0.0], [1.0], space="margin", factor=-1), "factor is -1"),
        (lambda: measured_radius([0.0], [1.0], space="logit"), "space is 'logit'"),
        (lambda: remove_scale([]), "gaps has shape"),
        (lambda: accept_round([0.0, 1.0], [1.0]), "after_gaps has 1 pairs"),
        (lambda: accept_round([0.0], [1.0], errors=-1), "errors is -1"),
        (lambda: choose_radius([0.0, 1.0], [[0.0, 1.0]], [0.1]), "0 among them"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
