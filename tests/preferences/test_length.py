import numpy as np
import pytest

from refusals import unrefused
from sgpo.preferences.annotate import adjust_for_length


def test_rewards_do_not_change_without_a_rule():
    rewards = np.array([-1.5, 2.0, np.nan])
    np.testing.assert_array_equal(adjust_for_length(rewards, np.array([1, 7, 3])), rewards)


def test_per_token_is_the_reward_over_its_tokens():
    np.testing.assert_allclose(adjust_for_length(np.array([6.0, -6.0]), np.array([3, 4]), per_token=True), [2.0, -1.5])


def test_the_penalty_is_subtracted_for_each_token():
    np.testing.assert_allclose(adjust_for_length(np.array([1.0, 1.0]), np.array([10, 30]), penalty=0.01), [0.9, 0.7])


def test_of_two_equal_rewards_the_penalty_prefers_the_shorter_and_a_large_reward_outweighs_it():
    short, long = adjust_for_length(np.array([1.0, 1.0]), np.array([5, 50]), penalty=0.1)
    assert short > long
    short, long = adjust_for_length(np.array([1.0, 9.0]), np.array([5, 50]), penalty=0.1)
    assert short < long


@pytest.mark.parametrize("rule", [{"per_token": True}, {"penalty": 0.5}])
def test_nan_stays_nan_and_the_given_rewards_are_not_changed(rule):
    rewards = np.array([np.nan, 1.0])
    assert np.isnan(adjust_for_length(rewards, np.array([2, 2]), **rule)).tolist() == [True, False]
    np.testing.assert_array_equal(rewards, [np.nan, 1.0])


def test_a_bad_argument_is_named():
    cases = [
        ({"per_token": True, "penalty": 0.1}, "per_token with length penalty 0.1; allowed: one of the two"),
        ({"penalty": -0.1}, "length penalty is -0.1; allowed: a number >= 0"),
        ({"penalty": np.inf}, "length penalty is inf"),
        ({"n_tokens": [3]}, r"n_tokens has the shape \(1,\); allowed: one number per reward, \(2,\)"),
        ({"n_tokens": [3, 0]}, "n_tokens of response 1 is 0; allowed: a number >= 1"),
    ]
    arguments = {"rewards": np.zeros(2), "n_tokens": [1, 2]}
    assert unrefused(lambda case: adjust_for_length(**{**arguments, **case}), cases) == {}
