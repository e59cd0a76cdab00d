"""A world as arrays: prompts with finitely many candidate responses, a log-linear policy over them, and its judge.

The policy is  pi(y|x) = pi_ref(y|x) exp(phi(x, y) . theta) / Z(x),  so its implicit reward is  beta phi . theta  up to
a constant per prompt, and the gap of a pair  beta (phi_w - phi_l) . theta.  All sums over responses are finite: nothing
that is measured here is sampled.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

# Rewards are sums of floating-point terms: closer than this they are the same sum in another order.
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class Candidates:
    """Prompts, and the candidate responses of each.

    Attributes:
        features: (P, M, d) float32, phi(x, y); any number where there is no candidate.
        log_ref: (P, M) log pi_ref(y|x), the SFT policy; -inf where a prompt has fewer than M candidates.
        gold: (P, M) gold reward, in nats.
        length: (P, M) what a length-biased annotator looks at; larger is longer.
        embedding: (P, e) of the prompt, what seeds may be chosen by.
    """

    features: np.ndarray
    log_ref: np.ndarray
    gold: np.ndarray
    length: np.ndarray
    embedding: np.ndarray

    def take(self, rows: np.ndarray) -> "Candidates":
        """Some of the prompts."""
        return Candidates(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @cached_property
    def wins(self) -> np.ndarray:
        """(P, M) how probable it is that a candidate beats a response of the SFT policy, ties counted half."""
        reference = np.exp(self.log_ref)
        difference = self.gold[:, :, None] - self.gold[:, None, :]
        won = (difference > _TIE) + 0.5 * (np.abs(difference) <= _TIE)
        return np.einsum("pij,pj->pi", won, reference)


def vars_of(candidates: Candidates) -> list[np.ndarray]:
    """The arrays of candidates, in the order of their fields."""
    return [getattr(candidates, name) for name in Candidates.__dataclass_fields__]


class HumanPairs(NamedTuple):
    """Labelled pairs.

    Attributes:
        differences: (N, d) float32, features of the chosen response less those of the rejected one.
        length: (N,) how much longer the chosen response is, in the unit of `Candidates.length`.
        right: (N,) bool, whether gold agrees with the label (a tie does).
        prompts: (N,) rows of the prompts that they belong to.
    """

    differences: np.ndarray
    length: np.ndarray
    right: np.ndarray
    prompts: np.ndarray


@dataclass(frozen=True, eq=False)
class ArrayWorld:
    """Everything that one seed of a simulation works on.

    Attributes:
        name: regime and noise.
        seeds, held_out: human pairs to train on and to judge by.
        labelled: human pairs on the prompts of the pools, for methods that may use all labels.
        pools: prompts of each round; their gold reward is only for measuring.
        test: prompts that policies are judged on.
        beta: scale of the implicit reward.
    """

    name: str
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
    """Measures policies (T, d) by the gold reward, by enumeration of all responses."""
    logs = log_policy(candidates, theta)
    policy = np.exp(logs)
    ratio = np.where(policy > 0, logs - np.where(np.isfinite(candidates.log_ref), candidates.log_ref, 0.0), 0.0)
    per_prompt = (policy * candidates.wins, policy * candidates.gold, policy * ratio)
    return GoldMeasures(*(values.sum(-1).mean(-1) for values in per_prompt))


def gold_optimum(candidates: Candidates, beta: float) -> GoldMeasures:
    r"""The policy that maximises  E[gold] - beta KL(pi || pi_ref):  pi \propto pi_ref exp(gold / beta), (1,) each.

    It is the best of all policies, not only of the log-linear ones.
    """
    logits = candidates.log_ref + np.where(np.isfinite(candidates.log_ref), candidates.gold, 0.0) / beta
    logs = logits - logsumexp(logits, axis=-1, keepdims=True)
    policy = np.exp(logs)
    ratio = np.where(policy > 0, logs - np.where(np.isfinite(candidates.log_ref), candidates.log_ref, 0.0), 0.0)
    per_prompt = (policy * candidates.wins, policy * candidates.gold, policy * ratio)
    return GoldMeasures(*(np.atleast_1d(values.sum(-1).mean()) for values in per_prompt))
