"""Calibration of sigma(gap): known truths, an independent optimiser, and intervals that cover."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from sgpo.errors import InputError
from sgpo.stats.ranking import report_preferences
from sgpo.stats.temperature import fit_temperature


def draw_gaps(rng, count, scale, *, flipped=0.0, spread=1.5):
    """Gaps of pairs whose human order follows sigma(scale * gap), some labels flipped at random."""
    opinions = rng.normal(0, spread, size=count)
    chosen_is_first = (rng.random(count) < expit(scale * opinions)) ^ (rng.random(count) < flipped)
    return np.where(chosen_is_first, opinions, -opinions)


def calibrate(gaps):
    return report_preferences(gaps).calibration


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_the_temperature_is_the_optimisers(scale):
    gaps = draw_gaps(np.random.default_rng(0), 400, scale)
    peer = minimize_scalar(lambda c: np.logaddexp(0, -c * gaps).mean(), bounds=(-5, 10), options={"xatol": 1e-9})
    fitted = fit_temperature(gaps)
    assert fitted.scale == pytest.approx(peer.x, abs=1e-6)
    assert fitted.log_loss == pytest.approx(peer.fun)
    assert fitted.log_loss_raw == pytest.approx(np.logaddexp(0, -gaps).mean())


@pytest.mark.parametrize("size", [100, 400])
@pytest.mark.parametrize(("scale", "flipped"), [(0.3, 0.0), (1.0, 0.0), (1.0, 0.25), (0.0, 0.0)])
def test_the_temperatures_interval_covers_in_93_to_97_percent(size, scale, flipped):
    rng = np.random.default_rng(size)
    truth = fit_temperature(draw_gaps(rng, 400_000, scale, flipped=flipped)).scale
    fits = [fit_temperature(draw_gaps(rng, size, scale, flipped=flipped)) for _ in range(1000)]
    assert 0.93 <= np.mean([fitted.low <= truth <= fitted.high for fitted in fits]) <= 0.97


def test_the_temperature_has_the_inverse_unit_of_the_gaps():
    gaps = draw_gaps(np.random.default_rng(0), 300, 1.0)
    one, other = fit_temperature(gaps), fit_temperature(1000 * gaps)
    assert other[:3] == pytest.approx([end / 1000 for end in one[:3]])


def test_one_huge_gap_does_not_hide_the_temperature_of_the_rest():
    gaps = draw_gaps(np.random.default_rng(0), 400, 1.0)
    fitted = fit_temperature([*gaps, 1e6])
    assert fitted.scale == pytest.approx(fit_temperature(gaps).scale)


def test_gaps_of_one_sign_have_no_finite_temperature_but_a_finite_end():
    gaps = np.random.default_rng(0).uniform(0.5, 2, size=50)
    right, wrong = fit_temperature(gaps), fit_temperature(-gaps)
    assert (right.scale, right.high, right.log_loss) == (np.inf, np.inf, 0.0)
    assert 0 < right.low < np.inf
    assert (wrong.scale, wrong.low, wrong.high) == (-np.inf, -np.inf, -right.low)


def test_gaps_of_zero_say_nothing_of_the_temperature():
    assert fit_temperature([0.0, 0.0])[:3] == (0.0, -np.inf, np.inf)
    half = fit_temperature([0.0, 1.0])
    assert half.scale == np.inf
    assert half.log_loss == pytest.approx(np.log(2) / 2)


def test_calibrated_gaps_show_as_calibrated_and_inflated_ones_as_overconfident():
    rng = np.random.default_rng(0)
    gaps = draw_gaps(rng, 20_000, 1.0)
    sound, inflated = calibrate(gaps), calibrate(3 * gaps)
    assert sound.error < 0.015
    assert all(part.low - 0.01 <= part.confidence <= part.high + 0.01 for part in sound.bins)
    assert inflated.error > 0.1
    assert inflated.bins[-1].accuracy < inflated.bins[-1].confidence - 0.05
    # One temperature mends what one factor broke.
    assert inflated.error_scaled == pytest.approx(sound.error_scaled, abs=1e-9)
    assert inflated.temperature.scale == pytest.approx(sound.temperature.scale / 3)


def test_bins_hold_every_pair_once():
    gaps = draw_gaps(np.random.default_rng(0), 500, 1.0)
    bins = calibrate(gaps).bins
    assert sum(part.pairs for part in bins) == 500
    assert sum(part.pairs * part.accuracy for part in bins) == pytest.approx((gaps > 0).sum())
    assert sum(part.pairs * part.confidence for part in bins) == pytest.approx(expit(np.abs(gaps)).sum())
    assert [part.confidence for part in bins] == sorted(part.confidence for part in bins)


def test_the_calibration_error_by_hand():
    # Confidence 3/4 in four pairs that are right, and 3/5 in two that are wrong: their bins differ, and errors add up.
    calibration = calibrate([np.log(3)] * 4 + [-np.log(1.5)] * 2)
    assert calibration.error == pytest.approx((4 * 0.25 + 2 * 0.6) / 6)


def test_gaps_without_information_have_no_scaled_error():
    calibration = calibrate([-1.0, -2.0, 0.5])
    assert calibration.temperature.scale < 0
    assert np.isnan(calibration.error_scaled)


def test_accuracy_is_split_by_source_and_by_length():
    rng = np.random.default_rng(0)
    differences = rng.normal(0, 100, size=600).round()
    # A reward that is length alone is right exactly where the chosen response is the longer one.
    report = report_preferences(0.01 * differences, sources=["a", "b", "b"] * 200, length_differences=differences)
    assert [part.accuracy.accuracy for part in report.by_length[::4]] == [0.0, 1.0]
    assert sum(part.accuracy.pairs for part in report.by_length) == 600
    ends = [(part.shortest, part.longest) for part in report.by_length]
    assert all(one[1] < other[0] for one, other in pairwise(ends))
    assert {source: part.pairs for source, part in report.by_source.items()} == {"a": 200, "b": 400}
    shares = (differences > 0) + 0.5 * (differences == 0)
    assert report.by_source["a"].accuracy == pytest.approx(shares[::3].mean())
    assert report.overall.accuracy == pytest.approx(shares.mean())


def test_equal_length_differences_share_a_bin():
    report = report_preferences([1.0, -1.0, 2.0, 0.5], length_differences=[0, 0, 0, 7])
    assert [(part.shortest, part.longest, part.accuracy.pairs) for part in report.by_length] == [(0, 0, 3), (7, 7, 1)]


def test_what_was_not_given_is_not_split():
    report = report_preferences([1.0, -1.0])
    assert (report.by_source, report.by_length) == ({}, [])


@pytest.mark.parametrize(
    ("gaps", "options", "message"),
    [
        ([], {}, "gaps has shape"),
        ([1.0, np.inf], {}, r"gaps\[1\] is inf"),
        ([1.0, 2.0], {"sources": ["a"]}, "sources has 1 rows; allowed: 2"),
        ([1.0, 2.0], {"sources": ["a", None]}, "sources row 1 is None"),
        ([1.0, 2.0], {"length_differences": [1.0]}, "length_differences has shape"),
        ([1.0, 2.0], {"length_differences": [1.0, np.nan]}, r"length_differences\[1\] is nan"),
    ],
)
def test_bad_input_is_refused(gaps, options, message):
    with pytest.raises(InputError, match=message):
        report_preferences(gaps, **options)
