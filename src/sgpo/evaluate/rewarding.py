"""A policy's answers compared with a baseline's by a reward model or function."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.ranking import Annotator
from sgpo.stats.intervals import Mean, mean_interval
from sgpo.stats.win_rate import compare_rewards, win_rate

Advance = Callable[[int], None]


class RewardComparison(NamedTuple):
    """A comparison of a policy's answers with a baseline's by their rewards.

    Attributes:
        win_rate, low, high: share of prompts won, ties counted half, and its 95% interval over prompts.
        prompts: all of them; unrewarded: those without a reward for both answers, which no other number includes.
        reward, baseline_reward: mean rewards with their 95% intervals.
        rewards: (P, 2) of each prompt's two answers; nan if there is none.
        counts: what the annotator counted.
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
    progress: Advance | None = None,
) -> RewardComparison:
    """Compares P pairs of answers by their rewards.

    Args:
        annotator: a reward on the same scale for all prompts, such as a reward model.
        prompts: P conversations.
        answers: (P,) of the policy.
        baseline: (P,) of the baseline.
        progress: called with the number of prompts newly rewarded.

    Raises:
        InputError: see `annotator`; or there is no prompt with a reward for both answers.
    """
    rewards, counts = _pair_rewards(annotator, prompts, answers, baseline, progress)
    known = rewards[np.isfinite(rewards).all(axis=1)]
    if not len(known):
        raise InputError(f"the reward has no value for any of {len(prompts)} prompts; allowed: at least one.")
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
        counts=counts,
    )


def reward_agreement(annotator: Annotator, pairs: Dataset, *, progress: Advance | None = None) -> float | None:
    """Share of N preference pairs whose order the reward shares, ties counted half; None without any rewarded pair.

    Args:
        annotator: the reward.
        pairs: columns prompt, chosen, rejected, as `sgpo.preferences.source.load_pairs` returns them.
        progress: called with the number of pairs newly rewarded.

    Raises:
        InputError: see `annotator`.
    """
    sides = ([row[0]["content"] for row in pairs[side]] for side in ("chosen", "rejected"))
    rewards, _ = _pair_rewards(annotator, pairs["prompt"][:], *sides, progress)
    known = rewards[np.isfinite(rewards).all(axis=1)]
    return float(compare_rewards(known[:, 0], known[:, 1]).mean()) if len(known) else None


def _pair_rewards(
    annotator: Annotator,
    prompts: Sequence[Messages],
    first: Sequence[str],
    second: Sequence[str],
    progress: Advance | None,
) -> tuple[np.ndarray, dict[str, int]]:
    ranking = annotator(prompts, [list(pair) for pair in zip(first, second, strict=True)], progress=progress)
    return np.asarray(ranking.rewards, dtype=np.float64).reshape(-1, 2), dict(ranking.counts)
