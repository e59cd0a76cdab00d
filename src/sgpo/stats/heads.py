r"""Reward heads: linear Bradley-Terry rewards of a model's states, fitted on bootstrap samples of preference pairs.

With states z scaled to deviation 1, the weights are the one minimum of `mean log(1 + exp(-w . (z_w - z_l))) + c / 2
|w|^2`. Source of the ensemble: arXiv:2310.02743.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from sgpo.errors import InputError
from sgpo.stats.ranking import RankingAccuracy, ranking_accuracy

# The fewest prompts to fit on, the parts of a cross-validation, and the strengths c that it tries, strongest first.
LEAST, FOLDS, STRENGTHS = 10, 5, (1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)


class Heads(NamedTuple):
    """Weights (K, d) of K heads on states less `centre` over `scale`, (d,) each."""

    weights: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    def rewards(self, states: np.ndarray) -> np.ndarray:
        """(R, K) rewards of (R, d) states by each head, in nats up to a constant."""
        return ((states - self.centre) / self.scale) @ self.weights.T


def fit_heads(
    chosen: np.ndarray,
    rejected: np.ndarray,
    prompts: Sequence[Hashable],
    *,
    count: int = 5,
    regularisation: float | None = None,
    seed: int = 0,
) -> tuple[Heads, float, RankingAccuracy]:
    """Fits `count` heads on (N, d) states of the responses of N pairs, each on a bootstrap sample of their `prompts`.

    A `regularisation` c of None takes the one of `STRENGTHS` with the lowest mean loss on held-out folds of the
    prompts. Returns the heads, c, and how weights that were fitted without a fold, c included, order its pairs. Raises
    InputError for fewer than `LEAST` prompts, and for states that are not finite or all the same.
    """
    size, states = len(set(prompts)), np.concatenate([chosen, rejected]).astype(np.float64)
    if size < LEAST or not np.isfinite(states).all() or not (chosen != rejected).any():
        found = f"reward heads have pairs of {size} prompts to be fitted on"
        raise InputError(f"{found}; allowed: at least {LEAST}, with states that are finite and not all the same.")
    group, rng = np.unique(np.array(prompts, dtype=object), return_inverse=True)[1], np.random.default_rng(seed)
    centre, scale = states.mean(axis=0), states.std(axis=0)
    # What is the same everywhere but for rounding tells nothing apart.
    scale[scale <= 1e-6 * np.abs(states).max()] = np.inf
    differences, fold = (chosen - rejected) / scale, (rng.permutation(size) % FOLDS)[group]
    tried = STRENGTHS if regularisation is None else (regularisation,)
    gaps = np.zeros(len(fold))
    for held in range(FOLDS):
        rest = fold != held
        strength = _choose(differences[rest], fold[rest], tried)
        gaps[~rest] = differences[~rest] @ fit_weights(differences, strength, rest)
    strength = _choose(differences, fold, tried)
    samples = rng.multinomial(size, np.full(size, 1 / size), size=count)[:, group]
    weights = np.array([fit_weights(differences, strength, sample) for sample in samples])
    return Heads(weights, centre, scale), strength, ranking_accuracy(gaps)


def fit_weights(differences: np.ndarray, strength: float, counts: np.ndarray) -> np.ndarray:
    """(d,) weights of one head from (N, d) scaled differences of pairs, of which each counts (N,) times."""

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        gaps, shares = differences @ weights, counts / counts.sum()
        value = shares @ np.logaddexp(0.0, -gaps) + strength / 2 * (weights @ weights)
        return value, strength * weights - (shares * expit(-gaps)) @ differences

    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 10_000}
    return minimize(loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B", options=options).x


def _choose(differences: np.ndarray, fold: np.ndarray, tried: Sequence[float]) -> float:
    """The strength with the lowest loss on held-out folds; of equal ones the first."""
    losses = np.zeros(len(tried))
    for held in np.unique(fold) if len(tried) > 1 else ():
        found = np.array([fit_weights(differences, strength, fold != held) for strength in tried])
        losses += np.logaddexp(0.0, -found @ differences[fold == held].T).sum(axis=1)
    return tried[losses.argmin()]
