"""Intervals cover what they say: exactly where wins can be counted out, by seeded simulation elsewhere."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest, multinomial, sem, ttest_1samp

from sgpo.errors import InputError
from sgpo.stats.intervals import mean_interval, share_interval, standard_error, win_rate
from sgpo.stats.ranking import ranking_accuracy

SIZES = (100, 200, 400, 800)


@pytest.mark.parametrize("size", SIZES)
def test_without_ties_the_exact_coverage_is_93_to_97_percent_at_every_rate(size):
    wins = np.arange(size + 1)
    rates = [win_rate(np.arange(size) < count) for count in wins]
    low, high = (np.array([rate[end] for rate in rates]) for end in (1, 2))
    truths = np.array([0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98])
    inside = (low <= truths[:, None]) & (truths[:, None] <= high)
    coverage = (binom.pmf(wins, size, truths[:, None]) * inside).sum(axis=1)
    assert coverage.min() >= 0.93 and coverage.max() <= 0.97


def exact_coverage(interval, size, win, tie):
    """Coverage of (win, tie, loss) counts, by summing over all that matter."""
    wins, ties = (counts.ravel() for counts in np.meshgrid(np.arange(size + 1), np.arange(size + 1)))
    keep = wins + ties <= size
    wins, ties = wins[keep], ties[keep]
    counts = np.stack([wins, ties, size - wins - ties], axis=1)
    chance = multinomial.pmf(counts, size, [win, tie, 1 - win - tie])
    covered = 0.0
    for row in np.flatnonzero(chance > 1e-7):
        _, low, high, _ = interval(np.repeat([1.0, 0.5, 0.0], counts[row]))
        covered += chance[row] * (low <= win + tie / 2 <= high)
    return covered


MIXES = [(0.02, 0.04), (0.05, 0.3), (0.3, 0.4), (0.48, 0.04), (0.1, 0.8), (0.95, 0.02)]


@pytest.mark.parametrize(("win", "tie"), MIXES)
def test_with_ties_at_one_half_the_exact_coverage_is_93_to_97_percent(win, tie):
    assert 0.93 <= exact_coverage(win_rate, 100, win, tie) <= 0.97


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize(("win", "tie"), MIXES)
def test_with_ties_at_one_half_the_coverage_is_93_to_97_percent(size, win, tie):
    rng = np.random.default_rng(size)
    samples = rng.choice([1.0, 0.5, 0.0], p=[win, tie, 1 - win - tie], size=(2000, size))
    truth = win + tie / 2
    assert 0.93 <= np.mean([low <= truth <= high for _, low, high, _ in map(win_rate, samples)]) <= 0.97


@pytest.mark.parametrize("size", SIZES)
def test_with_weighted_preferences_the_coverage_is_93_to_97_percent(size):
    rng = np.random.default_rng(size)
    samples = rng.beta(0.15, 0.6, size=(2000, size))
    assert 0.93 <= np.mean([low <= 0.2 <= high for _, low, high, _ in map(win_rate, samples)]) <= 0.97


@pytest.mark.parametrize(("right", "undecided"), [(0.52, 0.2), (0.7, 0.1), (0.95, 0.02)])
def test_the_interval_of_an_accuracy_covers_with_gaps_of_zero(right, undecided):
    def interval(shares):
        return ranking_accuracy(shares - 0.5)

    assert 0.93 <= exact_coverage(interval, 100, right, undecided) <= 0.97


def test_without_zero_gaps_the_interval_of_an_accuracy_is_wilsons():
    wilson = binomtest(60, 80).proportion_ci(method="wilson")
    assert ranking_accuracy([2.0] * 60 + [-1.0] * 20) == pytest.approx((0.75, wilson.low, wilson.high, 80))


def test_values_of_their_own_have_students_interval():
    values = np.random.default_rng(0).normal(7, 2, size=30)
    student = ttest_1samp(values, 0).confidence_interval(0.95)
    mean = mean_interval(values)
    assert (mean.low, mean.high) == pytest.approx((student.low, student.high))
    assert mean.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(30))


def test_the_standard_error_is_scipys_and_unknown_for_one_value():
    values = np.random.default_rng(0).exponential(size=37)
    assert standard_error(values) == pytest.approx(sem(values), rel=1e-14)
    assert np.isnan(standard_error(values[:1]))


def test_the_interval_of_a_mean_covers_when_values_share_a_cluster():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 2)
    # The second value of a cluster is missing now and then, as a judgement that could not be read.
    covered = []
    for _ in range(2000):
        values = np.repeat(rng.normal(size=40), 2) + 0.5 * rng.normal(size=80)
        keep = (np.arange(80) % 2 == 0) | (rng.random(80) < 0.8)
        mean = mean_interval(values[keep], clusters[keep])
        covered.append(mean.low <= 0 <= mean.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_interval_of_a_share_covers_when_checks_share_a_prompt():
    """1 to 3 checks a prompt, which agree in half of the prompts: as if they were independent it covers too few."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        clusters = np.repeat(np.arange(80), rng.integers(1, 4, size=80))
        same = rng.random(80)[clusters] < 0.5
        draws = np.where(same, rng.random(80)[clusters], rng.random(clusters.size))
        shares = (draws < 0.3).astype(float)
        intervals = share_interval(shares, clusters), share_interval(shares)
        covered.append([low <= 0.3 <= high for low, high in intervals])
    clustered, independent = np.mean(covered, axis=0)
    assert 0.93 <= clustered <= 0.97 and independent < 0.93


def test_checks_that_never_differ_count_once_a_prompt():
    prompts = np.repeat(np.arange(30), 3)
    for share in (np.zeros(30), np.ones(30), np.arange(30) % 3 == 0):
        once = share_interval(share.astype(float))
        assert share_interval(np.repeat(share.astype(float), 3), prompts) == pytest.approx(once)
    assert share_interval(np.ones(30), np.arange(30)) == share_interval(np.ones(30))


def test_one_cluster_leaves_the_interval_unknown():
    mean = mean_interval([3.0, 4.0], ["a", "a"])
    assert mean.mean == 3.5
    assert np.isnan([mean.standard_error, mean.low, mean.high]).all()


@pytest.mark.parametrize(("values", "clusters"), [([], None), ([1.0, np.nan], None), ([1.0, 2.0], [1])])
def test_bad_values_are_refused(values, clusters):
    with pytest.raises(InputError, match="allowed"):
        mean_interval(values, clusters)
