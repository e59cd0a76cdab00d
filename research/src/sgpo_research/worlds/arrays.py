"""A world as arrays: prompts with finitely many candidate responses, and log-linear policies over them.

The policy is  pi(y|x) = pi_ref(y|x) exp(phi(x, y) . theta) / Z(x),  so its implicit reward is  beta phi . theta  up to
a constant per prompt, and the gap of a pair is  beta (phi_w - phi_l) . theta.  All sums over responses are finite, so
that measures are exact, not sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from scipy.special import logsumexp

# Rewards are floating-point sums; differences below this are due to the order of summation.
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class Candidates:
    """Prompts and their candidate responses.

    Attributes:
        features: (P, M, d) float32, phi(x, y); arbitrary where there is no candidate.
        log_ref: (P, M) log pi_ref(y|x), the SFT policy; -inf where a prompt has fewer than M candidates.
        gold: (P, M) gold reward, in nats.
        length: (P, M) length as a length-biased annotator sees it, in any unit.
        embedding: (P, e) of the prompt, for the choice of seeds.
    """

    features: np.ndarray
    log_ref: np.ndarray
    gold: np.ndarray
    length: np.ndarray
    embedding: np.ndarray

    def take(self, rows: np.ndarray) -> "Candidates":
        """Some of the prompts."""
        return Candidates(*(array[rows] for array in self._arrays()))

    @classmethod
    def concatenate(cls, parts: Sequence["Candidates"]) -> Self:
        """The prompts of all parts, in order."""
        return cls(*map(np.concatenate, zip(*(part._arrays() for part in parts), strict=True)))

    def _arrays(self) -> list[np.ndarray]:
        return [getattr(self, field.name) for field in fields(self)]

    @cached_property
    def wins(self) -> np.ndarray:
        """(P, M) probability that a candidate beats a response of the SFT policy, ties counted half."""
        reference = np.exp(self.log_ref)
        difference = self.gold[:, :, None] - self.gold[:, None, :]
        won = (difference > _TIE) + 0.5 * (np.abs(difference) <= _TIE)
        return np.einsum("pij,pj->pi", won, reference)


class HumanPairs(NamedTuple):
    """Labelled pairs.

    Attributes:
        differences: (N, d) float32, features of the chosen response minus those of the rejected one.
        length: (N,) length of the chosen response minus that of the rejected one, in the unit of `Candidates.length`.
        right: (N,) bool, whether gold agrees with the label (ties agree).
        prompts: (N,) rows of their prompts.
    """

    differences: np.ndarray
    length: np.ndarray
    right: np.ndarray
    prompts: np.ndarray


@dataclass(frozen=True, eq=False)
class ArrayWorld:
    """The data of one seed of a simulation.

    Attributes:
        seeds, held_out: human pairs to train on and to validate on.
        labelled: human pairs on the prompts of the pools, for methods that use all labels.
        pools: prompts of each round; their gold reward is used for measures only.
        test: prompts for evaluation.
        beta: scale of the implicit reward.
    """

    seeds: HumanPairs
    held_out: HumanPairs
    labelled: HumanPairs
    pools: tuple[Candidates, ...]
    test: Candidates
    beta: float

    @property
    def dimensions(self) -> int:
        """d, the length of theta."""
        return self.test.features.shape[-1]


class GoldMeasures(NamedTuple):
    """Exact measures of policies, (T,) each: win rate against the SFT policy, gold reward and KL to it (nats)."""

    win_rate: np.ndarray
    reward: np.ndarray
    kl: np.ndarray


def log_policy(candidates: Candidates, theta: np.ndarray) -> np.ndarray:
    """log pi(y|x) of policies, (T, P, M), -inf where there is no candidate.

    Args:
        candidates: P prompts.
        theta: (T, d) policies.
    """
    logits = scores(candidates, theta) + candidates.log_ref
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def scores(candidates: Candidates, theta: np.ndarray) -> np.ndarray:
    """phi(x, y) . theta, (T, P, M): log pi - log pi_ref up to a constant per prompt."""
    prompts, count, dimensions = candidates.features.shape
    flat = candidates.features.reshape(-1, dimensions) @ theta.T.astype(candidates.features.dtype)
    return np.ascontiguousarray(flat.T).reshape(-1, prompts, count).astype(np.float64)


def judge(candidates: Candidates, theta: np.ndarray) -> GoldMeasures:
    """Measures of policies (T, d) under the gold reward, by enumeration of all responses."""
    logs = log_policy(candidates, theta)
    policy = np.exp(logs)
    ratio = np.where(policy > 0, logs - np.where(np.isfinite(candidates.log_ref), candidates.log_ref, 0.0), 0.0)
    per_prompt = (policy * candidates.wins, policy * candidates.gold, policy * ratio)
    return GoldMeasures(*(values.sum(-1).mean(-1) for values in per_prompt))
