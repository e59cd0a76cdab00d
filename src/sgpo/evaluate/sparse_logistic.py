"""Logistic regression with an L1 penalty and soft labels, for a handful of columns; solved to rounding."""

import numpy as np
from scipy.special import expit

_STEPS = 100
_SWEEPS = 200
_TOLERANCE = 1e-10


def fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    r"""Coefficients (K,) that minimise  `|w|_1 + C sum_i v_i [y_i log(1 + e^-z_i) + (1 - y_i) log(1 + e^z_i)]`.

    z = x w; there is no intercept but the columns'. Proximal Newton steps with a line search: each minimises the
    quadratic model of the loss plus the penalty, by coordinates.

    Args:
        x: (N, K) columns.
        y: (N,) labels in [0, 1].
        weights: (N,) sample weights v >= 0.
        strength: C > 0, the weight of the loss against the penalty.

    Source: J. Lee, Y. Sun, M. Saunders, "Proximal Newton-type methods for minimizing composite functions", SIAM J.
        Optim. 24 (2014).
    """
    v = strength * weights
    w = np.zeros(x.shape[1])
    value = _objective(x, y, v, w)
    for _ in range(_STEPS):
        p = expit(x @ w)
        gradient = x.T @ (v * (p - y))
        curvature = (x * (v * p * (1 - p))[:, None]).T @ x
        # A saturated fit has no curvature to divide by; the ridge is too small to be seen in any other.
        curvature[np.diag_indices_from(curvature)] += 1e-12 * max(1.0, float(np.trace(curvature)))
        step = _penalised_step(w, gradient, curvature)
        # Below this the model promises less than the objective's own rounding.
        promised = gradient @ step + np.abs(w + step).sum() - np.abs(w).sum()
        if promised > -_TOLERANCE * max(1.0, abs(value)) * 1e-3 or np.abs(step).max() < _TOLERANCE:
            break
        size = 1.0
        while (reached := _objective(x, y, v, w + size * step)) > value + 0.1 * size * promised and size > 1e-8:
            size /= 2
        if reached >= value:
            break
        w, value = w + size * step, reached
    return w


def cross_validated_strength(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, strengths: np.ndarray, folds: int
) -> float:
    """The strength with the least held-out loss, averaged over folds; of equals the smallest.

    Rows are dealt to folds as scikit-learn's GroupKFold deals groups of one size, so that the choice is the one
    LogisticRegressionCV makes.
    """
    fold = _deal(len(y), folds)
    losses = np.zeros(len(strengths))
    for held in range(folds):
        train, test = fold != held, fold == held
        for index, strength in enumerate(strengths):
            w = fit(x[train], y[train], weights[train], strength)
            losses[index] += _loss(x[test] @ w, y[test], weights[test]).mean() / folds
    return float(strengths[int(np.argmin(losses))])


def _deal(count: int, folds: int) -> np.ndarray:
    """(N,) the fold of each row: dealt round from the last row back, as GroupKFold deals groups of one size."""
    return np.arange(count)[::-1] % folds


def _penalised_step(w: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    step = np.zeros_like(w)
    for _ in range(_SWEEPS):
        largest = 0.0
        for k in range(len(w)):
            slope, bend = gradient[k] + curvature[k] @ step, curvature[k, k]
            at = w[k] + step[k]
            target = at - slope / bend
            new = np.sign(target) * max(abs(target) - 1.0 / bend, 0.0)
            largest = max(largest, abs(new - at))
            # Written so that a coefficient on its way to zero arrives at zero exactly.
            step[k] = new - w[k] if new else -w[k]
        if largest < 1e-14 * max(1.0, float(np.abs(w + step).max())):
            break
    return step


def _loss(z: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights * (np.logaddexp(0.0, z) - y * z)


def _objective(x: np.ndarray, y: np.ndarray, v: np.ndarray, w: np.ndarray) -> float:
    return float(np.abs(w).sum() + _loss(x @ w, y, v).sum())
