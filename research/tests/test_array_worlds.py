"""Array worlds: measures against brute force, labels as they say, regimes that share what they should."""

import numpy as np
import pytest

from array_worlds import ragged_candidates, small_world
from sgpo.errors import InputError
from sgpo_research.worlds.arrays import judge, log_policy
from sgpo_research.worlds.loglinear import settings_of
from sgpo_research.worlds.noise import NO_NOISE, LabelNoise, label_pairs
from sgpo_research.worlds.pairs import draw_pairs
from sgpo_research.worlds.seed_choice import SeedChoice


def brute_force(candidates, theta):
    """Win rate, reward and KL by loops over prompts and responses."""
    win = reward = kl = 0.0
    for prompt in range(len(candidates.gold)):
        there = np.flatnonzero(np.isfinite(candidates.log_ref[prompt]))
        reference = np.exp(candidates.log_ref[prompt, there])
        weights = reference * np.exp(candidates.features[prompt, there].astype(float) @ theta)
        policy, gold = weights / weights.sum(), candidates.gold[prompt, there]
        for i in range(len(there)):
            reward += policy[i] * gold[i]
            kl += policy[i] * np.log(policy[i] / reference[i])
            for j in range(len(there)):
                win += policy[i] * reference[j] * ((gold[i] > gold[j]) + 0.5 * (gold[i] == gold[j]))
    return np.array([win, reward, kl]) / len(candidates.gold)


def test_measures_are_the_sums_over_all_responses():
    candidates, rng = ragged_candidates(), np.random.default_rng(1)
    thetas = rng.normal(size=(3, 5))
    found = judge(candidates, thetas)
    for trial, theta in enumerate(thetas):
        measured = [found.win_rate[trial], found.reward[trial], found.kl[trial]]
        np.testing.assert_allclose(measured, brute_force(candidates, theta), rtol=1e-5)


def test_the_sft_policy_wins_half_at_no_kl():
    found = judge(ragged_candidates(), np.zeros((1, 5)))
    assert (found.win_rate[0], found.kl[0]) == pytest.approx((0.5, 0.0), abs=1e-7)


def test_policies_give_nothing_to_candidates_that_are_not_there():
    policy = np.exp(log_policy(ragged_candidates(), np.full((1, 5), 3.0)))
    np.testing.assert_allclose(policy.sum(-1), 1.0)
    assert policy[0, 1, 2:].max() == policy[0, 2, 3] == 0


def test_labels_without_noise_are_bradley_terrys():
    rng = np.random.default_rng(3)
    preferred = label_pairs(np.full(40000, 1.2), np.zeros(40000), np.zeros(40000), np.zeros(40000), NO_NOISE, rng)
    assert preferred.mean() == pytest.approx(1 / (1 + np.exp(-1.2)), abs=0.01)


def test_noises_do_what_they_say_and_leave_the_other_labels_alone():
    count = 20000
    first, second, length = np.random.default_rng(4).normal(size=(3, count)) * 3

    def labels(kind, rate):
        noise = LabelNoise(kind, rate) if rate else NO_NOISE
        return label_pairs(first, second, length, np.zeros(count), noise, np.random.default_rng(5))

    clean = labels("none", 0)
    flipped = labels("symmetric", 0.25) != clean
    assert flipped.mean() == pytest.approx(0.25, abs=0.01)
    assert np.corrcoef(flipped, np.abs(first - second))[0, 1] == pytest.approx(0, abs=0.03)
    long = labels("length", 0.4)
    assert (long[long != clean] == (length > 0)[long != clean]).all()
    assert (long == (length > 0)).mean() == pytest.approx(0.6 * (clean == (length > 0)).mean() + 0.4, abs=0.01)
    close = labels("close", 0.3)
    nearest = np.argsort(np.abs(first - second))[: int(0.3 * count)]
    assert (close[nearest] == (first < second)[nearest]).all()
    rest = np.setdiff1d(np.arange(count), nearest)
    assert (close[rest] == clean[rest]).all()


@pytest.mark.parametrize(("kind", "rate"), [("coin", 0.1), ("symmetric", 0.0), ("none", 0.1), ("length", 1.5)])
def test_noise_out_of_range_is_refused(kind, rate):
    with pytest.raises(InputError, match="allowed"):
        LabelNoise(kind, rate)


def test_pairs_of_a_prompt_share_no_response_and_prompts_with_too_few_give_fewer():
    candidates = ragged_candidates()
    pairs = draw_pairs(candidates, NO_NOISE, np.random.default_rng(6), per_prompt=2)
    assert pairs.prompts.tolist() == [0, 0, 1, 2]
    first, second = pairs.differences[:2]
    signs = [(a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4)]
    features = candidates.features[0]
    found = [s for s in signs if np.allclose(features[s[0]] - features[s[1]], first, atol=1e-6)]
    found = [s for s in found if np.allclose(features[s[2]] - features[s[3]], second, atol=1e-6)]
    assert len(found) == 1
    assert len(set(found[0])) == 4


def test_pairs_are_drawn_as_the_sft_policy_answers():
    candidates = ragged_candidates()
    rng, counts = np.random.default_rng(7), np.zeros(2)
    for _ in range(3000):
        pair = draw_pairs(candidates.take(np.array([2])), NO_NOISE, rng)
        sides = [np.abs(candidates.features[2, i] - candidates.features[2, j] - pair.differences[0]).max()
                 for i, j in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1))]  # fmt: skip
        counts[0] += np.argmin(sides) < 2
    share = np.exp(candidates.log_ref[2, :3])
    without_replacement = share[0] * share[1] / (1 - share[0]) + share[1] * share[0] / (1 - share[1])
    assert counts[0] / 3000 == pytest.approx(without_replacement, abs=0.03)


def test_the_same_seed_is_the_same_world_and_worlds_differ_in_their_noise_alone():
    world, again = small_world(), small_world()
    noisy = small_world(label_noise=LabelNoise("symmetric", 0.5))
    np.testing.assert_array_equal(world.seeds.differences, again.seeds.differences)
    np.testing.assert_array_equal(world.test.features, noisy.test.features)
    np.testing.assert_array_equal(np.abs(world.seeds.differences), np.abs(noisy.seeds.differences))
    assert (world.seeds.differences != noisy.seeds.differences).any()
    assert (small_world(seed=1).test.gold != world.test.gold).any()


def test_length_is_with_quality_on_seeds_and_against_it_on_tests_in_the_spurious_regime_alone():
    for regime, expected in (("spurious", True), ("benign", False)):
        world = small_world(regime, seeds=4000, test=2000)
        human = np.corrcoef(world.seeds.length, 2.0 * world.seeds.right - 1)[0, 1]
        seen = np.corrcoef(world.test.length.ravel(), world.test.gold.ravel())[0, 1]
        assert (human > 0.05 and seen < -0.3) == expected


def test_farthest_seeds_cover_more_than_random_ones():
    points = np.random.default_rng(8).normal(size=(300, 3))
    units = points / np.linalg.norm(points, axis=1, keepdims=True)

    def radius(rule):
        rows = SeedChoice(rule, 1).pick(points, 20)
        assert len(set(rows.tolist())) == 20
        return (1 - units @ units[rows].T).min(axis=1).max()

    assert radius("farthest") < 0.7 * radius("random")
    with pytest.raises(InputError, match="rule is 'best'"):
        SeedChoice("best")


def test_an_unknown_regime_is_named():
    with pytest.raises(InputError, match="regime is 'calm'"):
        settings_of("calm")
