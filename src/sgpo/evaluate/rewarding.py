"""A policy's answers against a baseline's under a reward: a model, a function, or the gold reward of a world."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.ranking import Annotator
from sgpo.stats.intervals import Mean, mean_interval
from sgpo.stats.win_rate import compare_rewards, win_rate


class RewardComparison(NamedTuple):
    """A policy's answers against a baseline's under a reward.

    Attributes:
        win_rate, low, high: share of prompts won, ties counted half, and its 95% interval over prompts.
        prompts: all of them; unrewarded: those left out because the reward could not say of one of the two answers.
        reward, baseline_reward: mean rewards with their 95% intervals, over the other prompts.
        rewards: (P, 2) of each prompt's two answers; nan where it could not say.
        counts: what happened on the way, as the annotator names it.
    """

    win_rate: float
    low: float
    high: float
    prompts: int
    unrewarded: int
    reward: Mean
    baseline_reward: Mean
    rewards: np.ndarray
    counts: dict[str, int]


def compare_by_reward(
    annotator: Annotator,
    prompts: Sequence[Messages],
    answers: Sequence[str],
    baseline: Sequence[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> RewardComparison:
    """Compares P pairs of answers by their rewards.

    Args:
        annotator: whose rewards of one prompt are on one scale with those of another, such as a reward model.
        prompts: P conversations.
        answers: (P,) of the policy.
        baseline: (P,) of the baseline.
        progress: called with the number of prompts newly rewarded.

    Raises:
        InputError: what the annotator raises, or no prompt on which it could say of both answers.
    """
    ranking = annotator(prompts, [list(pair) for pair in zip(answers, baseline, strict=True)], progress=progress)
    rewards = np.asarray(ranking.rewards, dtype=np.float64).reshape(-1, 2)
    known = rewards[np.isfinite(rewards).all(axis=1)]
    if not len(known):
        raise InputError(f"the reward could not say of any of {len(prompts)} prompts; allowed: at least one.")
    rate = win_rate(compare_rewards(known[:, 0], known[:, 1]))
    return RewardComparison(
        win_rate=rate.win_rate,
        low=rate.low,
        high=rate.high,
        prompts=len(prompts),
        unrewarded=len(prompts) - len(known),
        reward=mean_interval(known[:, 0]),
        baseline_reward=mean_interval(known[:, 1]),
        rewards=rewards,
        counts=dict(ranking.counts),
    )
