"""Win rates of AlpacaEval 2: raw, and controlled for the effect of response lengths."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from sgpo.errors import InputError
from sgpo.evaluate.alpaca import Annotations
from sgpo.evaluate.gamed import Gamed
from sgpo.evaluate.row_files import list_missing
from sgpo.stats.intervals import check_range, standard_error

NEEDS_EXTRA = "the length-controlled win rate needs scikit-learn, which is not installed: pip install 'sgpo[alpaca]'."

# alpaca_eval's constants: folds, weight of the gamed rows, random state of liblinear, clipping of probabilities.
FOLDS = 5
GAMED_WEIGHT = 0.1
_SEED = 123
_EPSILON = 1e-15

# Fewest wins, and losses, of a rate: with fewer the penalty decides it, and its interval may miss every other sample.
FEWEST = 5
# Wins and losses for each coefficient. Source: P. Peduzzi et al., J. Clin. Epidemiology 49 (1996).
_ENOUGH = 10
# At this standard error, in points, the 95% interval of a rate of 50% is the whole scale.
_WIDEST = 25.0


class RawWinRate(NamedTuple):
    """AlpacaEval's raw numbers, rates in percent. A draw (a preference of one half) counts half; `discrete_win_rate`
    rounds each preference first; the standard error is over instructions, nan for one; no rate includes the
    `unjudged`."""

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    wins: int
    losses: int
    draws: int
    unjudged: int


class LengthControlled(NamedTuple):
    """A length-controlled win rate, in percent: what the model predicts if each response were as long as its baseline.
    docs/evaluation.md explains the numbers; coefficients (length, difficulty, policy) are in nats."""

    win_rate: float
    standard_error: float
    spread: float
    model: str
    coefficients: dict[str, float]
    strength: float


def raw_win_rate(preferences: ArrayLike) -> RawWinRate:
    """Raw win rate and its standard error, as alpaca_eval computes them.

    Args:
        preferences: (N,) in [0, 1], the share of the win that goes to the policy; nan if there is no verdict.

    Raises:
        InputError: there is no preference, or one outside [0, 1].
    """
    shares = check_range(preferences, "preferences", 0, 1, optional=True)
    judged = shares[~np.isnan(shares)]
    if judged.size == 0:
        raise InputError("preferences holds no judgment; allowed: at least one.")
    wins, losses = int((judged > 0.5).sum()), int((judged < 0.5).sum())
    draws = judged.size - wins - losses
    rates = float(judged.mean()), standard_error(judged), (wins + draws / 2) / judged.size
    return RawWinRate(*(100 * rate for rate in rates), wins, losses, draws, shares.size - judged.size)


def length_controlled_win_rate(
    preferences: ArrayLike, lengths: ArrayLike, baseline_lengths: ArrayLike, *, gamed: Gamed | None = None,
    places: ArrayLike | None = None,
) -> LengthControlled:  # fmt: skip
    r"""Win rate that a logistic model predicts if no response is longer than its baseline.

    The log-odds of a win are  `w_l tanh(d / s) [+ w_d difficulty] + w_p`  with d the baseline's length minus the
    policy's and s the standard deviation of d. scikit-learn's LogisticRegressionCV fits the coefficients with an L1
    penalty that five-fold cross-validation selects. The win rate is the mean prediction at d = 0. With `gamed`, the
    rows of two baselines with instructions about their length join the fit at weight 0.1 each.

    The standard error is the infinitesimal jackknife over instructions, at fixed penalty, s and gamed rows.

    Args:
        preferences: (N,) in [0, 1], the share of the win that goes to the policy; nan if there is no verdict.
        lengths: (N,) characters of the policy's responses.
        baseline_lengths: (N,) characters of the baseline's responses.
        gamed: the difficulty file, see `sgpo.evaluate.gamed.read_gamed`; None fits the minimal model.
        places: (N,) index of each row's instruction in the evaluation set; None: rows are the set, in its order.

    Raises:
        InputError: arrays of wrong shapes or values, fewer than five wins or losses (a preference is a share of both),
            lengths whose effect cannot be separated from the policy's, an index that the difficulty file lacks, or
            scikit-learn is not installed (extra `alpaca`).

    Source: Y. Dubois et al., "Length-controlled AlpacaEval: a simple way to debias automatic evaluators",
        arXiv:2404.04475; alpaca_eval 0.6.6, `length_controlled_minimal` and `length_controlled_v1`.
    """
    shares = check_range(preferences, "preferences", 0, 1, optional=True)
    sides = {"lengths": lengths, "baseline_lengths": baseline_lengths}
    for name, one in sides.items():
        sides[name] = checked = check_range(one, name, 0, np.inf)
        if checked.size != shares.size:
            raise InputError(f"{name} has {checked.size} rows; allowed: {shares.size}, one for each preference.")
    delta = sides["baseline_lengths"] - sides["lengths"]
    difficulty = {} if gamed is None else {"difficulty": _difficulty(gamed, places, shares.size)}
    judged = ~np.isnan(shares)
    wins, losses = np.nansum(shares), np.nansum(1 - shares)
    if min(wins, losses) < FEWEST:
        raise InputError(
            f"preferences holds {wins:.1f} wins and {losses:.1f} losses; allowed: {FEWEST} of each, or more."
        )
    if (scale := delta.std(ddof=1)) == 0 and delta[0] != 0:
        raise InputError(
            f"lengths differ from baseline_lengths by {-delta[0]:g} in every row, which cannot be controlled for; "
            "allowed: differences that vary."
        )
    columns = {"length": np.tanh(delta / (scale or 1.0)), **difficulty, "policy": np.ones(shares.size)}
    design = np.stack(list(columns.values()), axis=1)
    x, y, weights = design[judged], shares[judged], np.ones(judged.sum())
    if gamed is not None:
        length, hardness = gamed.features.T
        # The last column is the policy's, which the gamed baselines do not have.
        other = np.stack([np.tanh(length), hardness, np.zeros(len(length))], axis=1)
        # The gamed rows come first, as in alpaca_eval: the order decides which folds they share with the policy's.
        x = np.concatenate([other, x])
        y = np.concatenate([gamed.preferences, y])
        weights = np.concatenate([np.full(len(gamed.preferences), GAMED_WEIGHT), weights])
    coefficients, strength = _fit(x, y, weights)
    level = design.copy()
    level[:, 0] = 0.0
    predicted = expit(level @ coefficients)
    error = 100 * _standard_error(x, y, weights, coefficients, level, judged)
    if error > _WIDEST:
        raise InputError(f"lengths leave a standard error of {error:.3g} points; allowed: at most {_WIDEST:g}.")
    return LengthControlled(
        win_rate=100 * float(predicted.mean()),
        standard_error=error,
        spread=100 * standard_error(predicted),
        model="minimal" if gamed is None else "full",
        coefficients=dict(zip(columns, coefficients.tolist(), strict=True)),
        strength=strength,
    )


def report_win_rates(annotations: Annotations, gamed: Gamed | None, *, by_row: bool = False) -> dict[str, Any]:
    """The raw win rate, the length-controlled ones or why there is none, and remarks; the full model needs `gamed`."""
    raw, remarks = raw_win_rate(annotations.preferences), []
    if missing := annotations.missing:
        remarks.append(f"{len(missing)} instructions of the set have no row: {list_missing(missing)} (from 0).")
    if raw.win_rate == 0:
        remarks.append("Every judgment is a loss: check how the file codes preferences (--coding 1-2, --coding 0-1).")
    if by_row:
        remarks.append(
            "Difficulties are found by row number: after a missing row, all are those of other instructions."
        )
    controlled = dict.fromkeys(("minimal",) if gamed is None else ("minimal", "full"))
    for model in controlled:
        try:
            controlled[model] = _control(annotations, gamed if model == "full" else None, by_row)
            remarks += _remarks(controlled[model], raw)
        except InputError as error:
            remarks.append(f"No length-controlled ({model}) win rate: {error}")
    return {
        **{name: getattr(annotations, name) for name in ("generator", "baseline", "annotator")},
        "characters": float(annotations.lengths.mean()),
        "baseline_characters": float(annotations.baseline_lengths.mean()),
        "raw": raw,
        "length_controlled": controlled,
        "remarks": remarks,
    }


def _control(read: Annotations, gamed: Gamed | None, by_row: bool) -> LengthControlled:
    count, arrays = len(read.outputs), (read.preferences, read.lengths, read.baseline_lengths)
    asked, known = count + len(read.missing), None if gamed is None else len(gamed.difficulty)
    if read.places is not None and known not in (None, asked):
        raise InputError(f"the set has {asked} instructions and the difficulty file {known}; allowed: the same number.")
    return length_controlled_win_rate(*arrays, gamed=gamed, places=np.arange(count) if by_row else read.places)


def _remarks(found: LengthControlled, raw: RawWinRate) -> list[str]:
    """What a reader has to know of a length-controlled win rate."""
    name, rate = f"The length-controlled ({found.model}) win rate", raw.win_rate
    fewest = (raw.wins + raw.draws + raw.losses) * min(rate, 100 - rate) / 100
    enough = _ENOUGH * len(found.coefficients)
    remarks = {
        f"{name} is not the leaderboard's, which is the full model's (--difficulty df_gamed.csv): over 56 published "
        "models it is 6.5 points higher on average and up to 27.": found.model == "minimal",
        # Source: alpaca_eval 0.6.6, metrics/glm_winrate.py, `get_is_extreme_changes`.
        f"{name} is very different from the raw one, {found.win_rate:.1f}% against {rate:.1f}%: its model may not fit "
        "(alpaca_eval's warning).": not -max(rate / 4, 10) <= found.win_rate - rate <= max((100 - rate) / 4, 10),
        f"{name} rests on {fewest:.1f} {'wins' if rate < 50 else 'losses'}, and its coefficients need {enough}: the "
        "penalty pulls it towards 50%, and its standard error may be too small.": fewest < enough,
    }
    return [remark for remark, holds in remarks.items() if holds]


def _fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (K,) and the C selected for labels in [0, 1]: each row enters with label 1 and with label 0."""
    # Source: alpaca_eval 0.6.6, metrics/glm_winrate.py, `fit_LogisticRegressionCV`.
    try:
        from sklearn import config_context
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.model_selection import GroupKFold
    except ImportError as error:
        raise InputError(NEEDS_EXTRA) from error
    rows, labels = np.concatenate([x, x]), np.repeat([1, 0], len(y))
    groups = np.tile(np.arange(len(y)), 2)
    model = LogisticRegressionCV(
        Cs=10,
        l1_ratios=(1,),
        cv=list(GroupKFold(FOLDS).split(rows, labels, groups)),
        scoring=_negative_loss,
        solver="liblinear",
        fit_intercept=False,
        random_state=_SEED,
        use_legacy_attributes=False,
    )
    # The weights reach `_negative_loss` only while metadata routing is off.
    with config_context(enable_metadata_routing=False), warnings.catch_warnings():
        # alpaca_eval takes whatever liblinear has reached after 100 iterations.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, labels, sample_weight=np.concatenate([weights * y, weights * (1 - y)]))
    return model.coef_[0], float(model.C_)


def _negative_loss(model: Any, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray) -> float:
    """Minus the mean weighted cross-entropy of held-out rows; each row is present with both labels."""
    predicted = np.clip(model.predict_proba(x)[:, 1], _EPSILON, 1 - _EPSILON)
    return float(sample_weight @ np.log(np.where(y == 1, predicted, 1 - predicted)) / (len(y) / 2))


def _standard_error(x, y, weights, coefficients, level, judged) -> float:
    """Of the win rate: that of the instructions' influences on it, to first order; infinite if it is undetermined."""
    # Without the penalty: a coefficient that it shrinks to zero is no more certain than another.
    predicted, fitted = expit(level @ coefficients), expit(x @ coefficients)
    curvature = (x * (weights * fitted * (1 - fitted))[:, None]).T @ x
    gradient = (predicted * (1 - predicted)) @ level
    response = np.linalg.pinv(curvature, hermitian=True) @ gradient
    if not np.allclose(curvature @ response, gradient, rtol=1e-6, atol=1e-6 * np.abs(gradient).max()):
        return math.inf
    influence = predicted - predicted.mean()
    influence[judged] += ((y - fitted)[:, None] * x)[-int(judged.sum()) :] @ response
    return standard_error(influence)


def _difficulty(gamed: Gamed, places: ArrayLike | None, count: int) -> np.ndarray:
    """(N,) difficulty of each row's instruction."""
    known = len(gamed.difficulty)
    if places is None and count != known:
        raise InputError(
            f"preferences has {count} rows and the difficulty file {known} instructions; allowed: the whole evaluation "
            "set in its order, or the place of each row in it, which --instructions gives and --by-row assumes."
        )
    rows = np.arange(count) if places is None else np.asarray(places)
    if rows.shape != (count,) or not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"places has the shape {rows.shape}; allowed: ({count},) integers.")
    check_range(rows, "places", 0, known - 1)
    return gamed.difficulty[rows]
