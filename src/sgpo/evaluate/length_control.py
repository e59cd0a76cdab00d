"""Win rates of AlpacaEval 2: raw, and with the effect of response lengths taken out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from sgpo.errors import InputError
from sgpo.evaluate.gamed import Gamed
from sgpo.evaluate.sparse_logistic import cross_validated_strength, fit

# alpaca_eval's constants: penalty strengths C of scikit-learn's LogisticRegressionCV, folds, weight of the gamed rows.
STRENGTHS = np.logspace(-4, 4, 10)
FOLDS = 5
GAMED_WEIGHT = 0.1


class RawWinRate(NamedTuple):
    """AlpacaEval's raw numbers, in percent where they are rates.

    Attributes:
        win_rate: mean preference, in percent; a draw counts half.
        standard_error: of the win rate over instructions, in percent; nan for one instruction.
        discrete_win_rate: the same after each preference was rounded to a win, a draw or a loss, in percent.
        wins, losses, draws: instructions with a preference above, below and at one half.
        unjudged: instructions without a preference; they count in nothing else.
    """

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    wins: int
    losses: int
    draws: int
    unjudged: int


class LengthControlled(NamedTuple):
    """A length-controlled win rate.

    Attributes:
        win_rate: predicted win rate were no response longer than its baseline, in percent.
        standard_error: of the win rate, in percent: over instructions, the fitted coefficients included.
        spread: the standard error of the mean of the predictions alone, in percent; what alpaca_eval prints as
            `lc_standard_error`. Zero for the minimal model, which predicts one number for all instructions.
        model: "minimal" or "full".
        coefficients: by name, in nats: length, difficulty (full model only), policy.
        strength: the penalty strength C that cross-validation chose.
    """

    win_rate: float
    standard_error: float
    spread: float
    model: str
    coefficients: dict[str, float]
    strength: float


def raw_win_rate(preferences: ArrayLike) -> RawWinRate:
    """Raw win rate and its standard error, as alpaca_eval counts them.

    Args:
        preferences: (N,) in [0, 1], the share of the win that goes to the policy; nan where there is no judgement.

    Raises:
        InputError: no preference, or one outside [0, 1].
    """
    shares = _check_preferences(preferences)
    judged = shares[~np.isnan(shares)]
    if judged.size == 0:
        raise InputError("preferences holds no judgement; allowed: at least one.")
    wins, losses = int((judged > 0.5).sum()), int((judged < 0.5).sum())
    draws = judged.size - wins - losses
    error = float(judged.std(ddof=1) / np.sqrt(judged.size)) if judged.size > 1 else float("nan")
    discrete = (wins + draws / 2) / judged.size
    return RawWinRate(
        100 * float(judged.mean()), 100 * error, 100 * discrete, wins, losses, draws, shares.size - judged.size
    )


def length_controlled_win_rate(
    preferences: ArrayLike, lengths: ArrayLike, baseline_lengths: ArrayLike, *, gamed: Gamed | None = None,
    places: ArrayLike | None = None,
) -> LengthControlled:  # fmt: skip
    r"""Win rate that a logistic model predicts where no response is longer than its baseline.

    The log-odds of a win are  `w_l tanh(d / s) [+ w_d difficulty] + w_p`  with d the baseline's length minus the
    policy's and s the standard deviation of d. The coefficients minimise an L1-penalised logistic loss against soft
    preferences; its strength is chosen by five-fold cross-validation. The win rate is the mean of the prediction at
    d = 0. With `gamed` the rows of two baselines with known instructions about their length join the fit, at weight
    0.1 each.

    The standard error is the infinitesimal jackknife over instructions: the strength, s and the gamed rows are held.

    Args:
        preferences: (N,) in [0, 1], the share of the win that goes to the policy; nan where there is no judgement.
        lengths: (N,) characters of the policy's responses.
        baseline_lengths: (N,) characters of the baseline's.
        gamed: the difficulty file, see `sgpo.evaluate.gamed.read_gamed`; None fits the minimal model.
        places: (N,) the place of each row's instruction in the evaluation set; None: rows are the set, in its order.

    Raises:
        InputError: arrays of other lengths or values, fewer judgements than folds, lengths that differ by one and the
            same number everywhere, or a place that the difficulty file lacks.

    Source: Y. Dubois et al., "Length-controlled AlpacaEval: a simple way to debias automatic evaluators",
        arXiv:2404.04475; alpaca_eval 0.6.6, `length_controlled_minimal` and `length_controlled_v1`.
    """
    shares = _check_preferences(preferences)
    delta = _check_lengths(baseline_lengths, "baseline_lengths", shares.size)
    delta = delta - _check_lengths(lengths, "lengths", shares.size)
    judged = ~np.isnan(shares)
    if judged.sum() < FOLDS:
        raise InputError(f"preferences holds {judged.sum()} judgements; allowed: at least {FOLDS}, one for each fold.")
    columns = {"length": np.tanh(_standardise(delta))}
    if gamed is not None:
        columns["difficulty"] = _difficulty(gamed, places, shares.size)
    columns["policy"] = np.ones(shares.size)
    design = np.stack(list(columns.values()), axis=1)
    own = int(judged.sum())
    x, y, weights = design[judged], shares[judged], np.ones(own)
    if gamed is not None:
        # The gamed rows come first, which decides the folds they share with the policy's.
        x = np.concatenate([_gamed_design(gamed), x])
        y = np.concatenate([gamed.preferences, y])
        weights = np.concatenate([np.full(len(gamed.preferences), GAMED_WEIGHT), weights])
    strength = cross_validated_strength(x, y, weights, STRENGTHS, FOLDS)
    coefficients = fit(x, y, weights, strength)
    level = design.copy()
    level[:, 0] = 0.0
    predicted = expit(level @ coefficients)
    error = _standard_error(x, y, weights, coefficients, level, judged)
    return LengthControlled(
        win_rate=100 * float(predicted.mean()),
        standard_error=100 * error,
        spread=100 * float(predicted.std(ddof=1) / np.sqrt(predicted.size)),
        model="minimal" if gamed is None else "full",
        coefficients=dict(zip(columns, coefficients.tolist(), strict=True)),
        strength=float(strength),
    )


def _standard_error(x, y, weights, coefficients, level, judged) -> float:
    """Root of the summed squares of what each instruction moves the win rate by, to first order."""
    # The penalty is left out: a coefficient that it holds at zero is no more certain than one it lets go.
    predicted, fitted = expit(level @ coefficients), expit(x @ coefficients)
    curvature = (x * (weights * fitted * (1 - fitted))[:, None]).T @ x
    gradient = (predicted * (1 - predicted)) @ level
    residual = ((y - fitted)[:, None] * x)[-int(judged.sum()) :]
    influence = predicted - predicted.mean()
    influence[judged] += residual @ np.linalg.pinv(curvature, hermitian=True) @ gradient
    return float(influence.std(ddof=1) / np.sqrt(influence.size))


def _gamed_design(gamed: Gamed) -> np.ndarray:
    length, difficulty = gamed.features.T
    # The gamed baselines are no policy of their own: their last column is 0.
    return np.stack([np.tanh(length), difficulty, np.zeros(len(length))], axis=1)


def _difficulty(gamed: Gamed, places: ArrayLike | None, count: int) -> np.ndarray:
    if places is None and count != len(gamed.difficulty):
        raise InputError(
            f"preferences has {count} rows and the difficulty file {len(gamed.difficulty)} instructions; allowed: the "
            "whole evaluation set in its order, or the place of each row in it."
        )
    rows = np.arange(count) if places is None else np.asarray(places)
    if rows.shape != (count,) or not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"places has the shape {rows.shape}; allowed: ({count},) integers.")
    outside = np.flatnonzero((rows < 0) | (rows >= len(gamed.difficulty)))
    if outside.size:
        row = int(outside[0])
        raise InputError(
            f"places row {row} is {rows[row]}; allowed: 0 to {len(gamed.difficulty) - 1}, the difficulty file's."
        )
    return gamed.difficulty[rows]


def _standardise(delta: np.ndarray) -> np.ndarray:
    scale = delta.std(ddof=1)
    if scale > 0:
        return delta / scale
    if delta[0] == 0:
        return delta
    raise InputError(
        f"lengths differ from baseline_lengths by {-delta[0]:g} in every row; allowed: differences that vary, for only "
        "they tell the effect of length from the policy's."
    )


def _check_preferences(preferences: ArrayLike) -> np.ndarray:
    shares = np.asarray(preferences, dtype=np.float64)
    if shares.ndim != 1 or shares.size == 0:
        raise InputError(f"preferences has the shape {shares.shape}; allowed: (N,) with N >= 1.")
    outside = np.flatnonzero((shares < 0) | (shares > 1))
    if outside.size:
        row = int(outside[0])
        raise InputError(f"preferences row {row} is {shares[row]}; allowed: a number in [0, 1], or nan for none.")
    return shares


def _check_lengths(lengths: Any, name: str, count: int) -> np.ndarray:
    array = np.asarray(lengths, dtype=np.float64)
    if array.shape != (count,):
        raise InputError(f"{name} has the shape {array.shape}; allowed: ({count},), one for each preference.")
    if not (np.isfinite(array) & (array >= 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(array) & (array >= 0)))[0])
        raise InputError(f"{name} row {row} is {array[row]}; allowed: a number of characters >= 0.")
    return array
