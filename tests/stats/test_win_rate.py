"""Win rates and their intervals."""

import numpy as np
import pytest

from sgpo.errors import InputError
from sgpo.stats.intervals import compare_rewards, win_rate


@pytest.mark.parametrize("prompts", [100, 400])
@pytest.mark.parametrize(("win", "tie"), [(0.5, 0.0), (0.4, 0.3), (0.8, 0.05), (0.15, 0.1)])
def test_the_interval_covers_the_true_win_rate_in_95_percent_of_samples(prompts, win, tie):
    rng = np.random.default_rng(prompts)
    samples = rng.choice([1.0, 0.5, 0.0], p=[win, tie, 1 - win - tie], size=(4000, prompts))
    truth = win + tie / 2
    covered = [rate.low <= truth <= rate.high for rate in map(win_rate, samples)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_interval_covers_when_comparisons_share_a_prompt():
    rng = np.random.default_rng(0)

    def draw(prompts):
        difficulty = rng.normal(size=prompts)
        baseline = rng.normal(size=prompts)
        against = [compare_rewards(0.5 + difficulty + rng.normal(size=prompts), baseline) for _ in range(3)]
        return np.mean(against, axis=0)

    truth = draw(400_000).mean()
    covered = [rate.low <= truth <= rate.high for rate in (win_rate(draw(150)) for _ in range(3000))]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_without_ties_the_interval_is_wilsons():
    from scipy.stats import binomtest

    wilson = binomtest(70, 100).proportion_ci(method="wilson")
    rate = win_rate([1.0] * 70 + [0.0] * 30)
    assert rate == pytest.approx((0.7, wilson.low, wilson.high, 100))


def test_a_clean_sweep_leaves_doubt_and_stays_below_one():
    rate = win_rate([1.0] * 50)
    assert rate.win_rate == rate.high == 1.0
    assert 0.9 < rate.low < 1.0


def test_swapping_the_sides_mirrors_the_win_rate():
    rng = np.random.default_rng(0)
    first, second = rng.integers(4, size=80), rng.integers(4, size=80)
    one, other = win_rate(compare_rewards(first, second)), win_rate(compare_rewards(second, first))
    assert (one.win_rate, one.low, one.high) == pytest.approx((1 - other.win_rate, 1 - other.high, 1 - other.low))


def test_equal_rewards_tie_even_when_their_sums_were_rounded_differently():
    assert compare_rewards([0.1 + 0.2, 1.0], [0.3, 0.5]).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("shares", [[], [0.5, 1.5], [0.5, float("nan")], [[0.5]]])
def test_bad_shares_are_refused(shares):
    with pytest.raises(InputError, match="allowed"):
        win_rate(shares)


@pytest.mark.parametrize(("rewards", "baseline"), [([], []), ([1.0, 2.0], [1.0]), ([float("inf")], [1.0])])
def test_bad_rewards_are_refused(rewards, baseline):
    with pytest.raises(InputError, match="allowed"):
        compare_rewards(rewards, baseline)
