r"""Reward heads: linear rewards of a model's states, fitted on preference pairs and on bootstrap samples of them.

A head is a Bradley-Terry model, `P(chosen over rejected) = sigma(w . (z_chosen - z_rejected))`, of states z scaled to
mean 0 and standard deviation 1. Its weights are the one minimum of `mean log(1 + exp(-gap)) + c / 2 |w|^2`.

Source of the ensemble: T. Coste et al., "Reward model ensembles help mitigate overoptimization", arXiv:2310.02743.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from sgpo.errors import InputError, check_whole
from sgpo.stats.ranking import RankingAccuracy, ranking_accuracy

# The fewest prompts to fit on, the parts of a cross-validation, and the strengths c that it tries, strongest first.
LEAST, FOLDS, STRENGTHS = 10, 5, (1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)


class Heads(NamedTuple):
    """K linear heads on d features.

    Attributes:
        weights: (K, d), of the states less `centre` over `scale`, (d,) each; infinite for a feature without spread.
        pooling, regularisation: the given ones, or those that were chosen.
        accuracy: share of the pairs that weights order which were chosen without, and fitted without, their fold.
    """

    weights: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    pooling: str
    regularisation: float
    accuracy: RankingAccuracy

    def rewards(self, states: np.ndarray, penalty: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The heads' mean reward of (R, d) states less `penalty` standard deviations over heads, and these; (R,) each."""
        if not (np.isfinite(penalty) and penalty >= 0):
            raise InputError(f"penalty is {penalty}; allowed: a number >= 0.")
        rewards = ((states - self.centre) / self.scale) @ self.weights.T
        spread = rewards.std(axis=1)
        return rewards.mean(axis=1) - penalty * spread, spread


def fit_heads(
    chosen: Mapping[str, np.ndarray],
    rejected: Mapping[str, np.ndarray],
    prompts: Sequence[str | bytes],
    *,
    count: int = 5,
    regularisation: float | None = None,
    seed: int = 0,
) -> Heads:
    """Fits `count` >= 1 heads, each on a bootstrap sample of the prompts with their pairs.

    Args:
        chosen, rejected: by pooling, (N, d) states of the responses of N pairs; finite.
        prompts: (N,) the prompt of each pair; pairs of one prompt are sampled, and held out, together.
        regularisation: c > 0. None takes the one of `STRENGTHS`, and of several poolings the one, whose held-out pairs
            have the lowest mean loss in a cross-validation.
        seed: of folds and samples, >= 0.

    Raises:
        InputError: fewer than `LEAST` prompts, states of other shapes, not finite or all equal, an argument out of
            range.
    """
    check_whole("count", count, 1)
    check_whole("seed", seed, 0)
    if regularisation is not None and not (np.isfinite(regularisation) and regularisation > 0):
        raise InputError(f"regularisation is {regularisation}; allowed: a number > 0.")
    group = np.unique(np.array(prompts, dtype=object), return_inverse=True)[1]
    size, rng = len(set(prompts)), np.random.default_rng(seed)
    if size < LEAST:
        raise InputError(f"reward heads have pairs of {size} prompts to be fitted on; allowed: at least {LEAST}.")
    fold = (rng.permutation(size) % FOLDS)[group]
    scales = {name: _scale(chosen[name], rejected[name], len(prompts)) for name in chosen}
    differences = {name: (chosen[name] - rejected[name]) / scale for name, (_, scale) in scales.items()}
    strengths = STRENGTHS if regularisation is None else (regularisation,)
    tried = [(name, strength) for name in differences for strength in strengths]
    gaps = np.concatenate([_held_out_gaps(each, fold, strengths) for each in differences.values()])
    losses = np.logaddexp(0.0, -gaps)
    # The choice for a fold must not have seen it, or the accuracy would be that of the luckiest.
    best = np.array([losses[:, fold != held].mean(axis=1).argmin() for held in range(FOLDS)])
    accuracy = ranking_accuracy(gaps[best[fold], np.arange(len(fold))])
    pooling, strength = tried[losses.mean(axis=1).argmin()]
    samples = rng.multinomial(size, np.full(size, 1 / size), size=count)[:, group]
    weights = np.array([fit_weights(differences[pooling], strength, counts=sample) for sample in samples])
    return Heads(weights, *scales[pooling], pooling, strength, accuracy)


def fit_weights(
    differences: np.ndarray, strength: float, *, counts: np.ndarray | None = None, start: np.ndarray | None = None
) -> np.ndarray:
    """(d,) weights of one head for (N, d) scaled differences of pairs that count (N,) times each."""
    shares = np.full(len(differences), 1 / len(differences)) if counts is None else counts / counts.sum()

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        gaps = differences @ weights
        value = shares @ np.logaddexp(0.0, -gaps) + strength / 2 * (weights @ weights)
        return value, strength * weights - (shares * expit(-gaps)) @ differences

    start = np.zeros(differences.shape[1]) if start is None else start
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 10_000}
    return minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x


def _scale(chosen: np.ndarray, rejected: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over all responses; the latter infinite where it is rounding."""
    if not chosen.shape == rejected.shape == (count, chosen.shape[-1]):
        raise InputError(f"states have the shapes {chosen.shape} and {rejected.shape}; allowed: ({count}, d).")
    states = np.concatenate([chosen, rejected]).astype(np.float64)
    if not np.isfinite(states).all() or not (chosen != rejected).any():
        raise InputError("states of chosen and rejected are not finite, or all the same; allowed: others.")
    spread = states.std(axis=0)
    return states.mean(axis=0), np.where(spread > 1e-6 * np.abs(states).max(), spread, np.inf)


def _held_out_gaps(differences: np.ndarray, fold: np.ndarray, strengths: Sequence[float]) -> np.ndarray:
    """(S, N) gaps of pairs by weights that were fitted without their fold, for each of S strengths."""
    gaps = np.empty((len(strengths), len(fold)))
    for held in range(FOLDS):
        inside, weights = fold == held, None
        for place, strength in enumerate(strengths):
            # The weights of the strength before are near.
            weights = fit_weights(differences[~inside], strength, start=weights)
            gaps[place, inside] = differences[inside] @ weights
    return gaps
