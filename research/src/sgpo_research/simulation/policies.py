"""Sampling from log-linear policies, and ranking what was sampled: a round's pairs, for T trials at once."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from sgpo_research.worlds.arrays import Candidates, HumanPairs, scores


class Pairs(NamedTuple):
    """Training pairs of T trials.

    Attributes:
        differences: (T, N, d) float32, chosen less rejected features; T may be 1, for pairs that all trials share.
        kept: (T, N) float, 0 for a prompt whose responses were identical or tied: it is left without a pair.
        human: (N,) bool, labelled by a human.
        agreement: (T,) share of the kept pairs whose order gold shares.
    """

    differences: np.ndarray
    kept: np.ndarray
    human: np.ndarray
    agreement: np.ndarray


def human_pairs(pairs: HumanPairs) -> Pairs:
    """Labelled pairs as training pairs of any number of trials."""
    count = len(pairs.differences)
    agreement = np.array([pairs.right.mean()])
    return Pairs(pairs.differences[None], np.ones((1, count)), np.ones(count, bool), agreement)


def join(first: Pairs, second: Pairs) -> Pairs:
    """Pairs of both, first those of `first`; the agreement is that of `second`."""
    trials = max(len(first.kept), len(second.kept))

    def wide(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (trials, *array.shape[1:]))

    return Pairs(
        np.concatenate([wide(first.differences), wide(second.differences)], axis=1),
        np.concatenate([wide(first.kept), wide(second.kept)], axis=1),
        np.concatenate([first.human, second.human]),
        second.agreement,
    )


def annotate(
    pool: Candidates,
    theta: np.ndarray,
    judges: np.ndarray,
    *,
    responses: int,
    temperature: float,
    rng: np.random.Generator,
) -> Pairs:
    """Samples responses to each prompt of a pool and pairs the best with the worst, as `sgpo.preferences` does.

    Args:
        pool: P prompts.
        theta: (T, d) policies that answer.
        judges: (T, d) or (1, d) linear rewards that rank; the policies themselves for their implicit reward.
        responses: sampled per prompt and trial, with replacement.
        temperature: of sampling.
        rng: source of the draws, which all trials share.
    """
    prompts, count, _ = pool.features.shape
    logits = scores(pool, theta) + pool.log_ref
    rewards = scores(pool, judges)
    noise = rng.gumbel(size=(responses, prompts, count)) * temperature
    places = np.arange(prompts)[None, :]
    trial = np.arange(len(theta))[:, None]
    judge = trial if len(judges) == len(theta) else np.zeros_like(trial)
    best = worst = high = low = None
    for draw in noise:
        pick = (logits + draw).argmax(-1)
        reward = rewards[judge, places, pick]
        if best is None:
            best, worst, high, low = pick, pick, reward, reward
            continue
        best, high = np.where(reward > high, pick, best), np.maximum(reward, high)
        worst, low = np.where(reward < low, pick, worst), np.minimum(reward, low)
    kept = high > low
    right = pool.gold[places, best] >= pool.gold[places, worst]
    return Pairs(
        pool.features[places, best] - pool.features[places, worst],
        kept.astype(np.float64),
        np.zeros(prompts, bool),
        (right & kept).sum(1) / np.maximum(kept.sum(1), 1),
    )


def fit_reward_model(pairs: HumanPairs, penalty: float) -> np.ndarray:
    r"""A Bradley-Terry reward model linear in the features, (1, d): least  mean l(D.w) + penalty |w|^2 / 2.

    Args:
        pairs: human pairs.
        penalty: of the squared norm, in nats, > 0; the minimum is then unique.
    """
    differences = pairs.differences.astype(np.float64)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        gaps = differences @ w
        gradient = -(expit(-gaps) @ differences) / len(gaps) + penalty * w
        return float(np.logaddexp(0, -gaps).mean() + 0.5 * penalty * w @ w), gradient

    found = minimize(
        loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-15}
    )
    return found.x[None]
