"""Logistic regression with an L1 penalty and soft labels, for a handful of columns, to liblinear's accuracy.

alpaca_eval leaves its fit to scikit-learn, and scikit-learn to liblinear, which stops at a tolerance of 1e-4. Held-out
losses of neighbouring penalty strengths often differ by less, so an exact solver would now and then choose another
strength, and a win rate that differs by up to 0.2 points. This solver takes liblinear's steps in liblinear's order.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import expit

TOLERANCE = 1e-4
SEED = 123

_NEWTON_STEPS = 100
_SWEEPS = 1000
_LINE_STEPS = 20
_RIDGE = 1e-12
_DECREASE = 0.01
_LARGEST_STEP = 10.0


class _Problem(NamedTuple):
    """Columns (N, K), weights of the two labels (N,) each, and how many rows with a weight there are."""

    x: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    rows: int


class _State(NamedTuple):
    """A point: coefficients (K,), log-odds (N,), gradient and curvature of the loss."""

    w: np.ndarray
    z: np.ndarray
    gradient: np.ndarray
    row_curvature: np.ndarray
    curvature: np.ndarray


def fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float, *, draw: int = 0) -> np.ndarray:
    r"""Coefficients (K,) that minimise  `|w|_1 + C sum_i v_i [y_i log(1 + e^-z_i) + (1 - y_i) log(1 + e^z_i)]`.

    z = x w; there is no intercept but the columns'. Each Newton step minimises a quadratic model plus the penalty by
    coordinates in random order, and is followed by a line search.

    Args:
        x: (N, K) columns.
        y: (N,) labels in [0, 1].
        weights: (N,) sample weights v >= 0.
        strength: C > 0, the weight of the loss against the penalty.
        draw: which of the seeds that scikit-learn draws from its random state of 123.

    Source: G.-X. Yuan, C.-H. Ho, C.-J. Lin, "An improved GLMNET for L1-regularized logistic regression", JMLR
        13 (2012).
    """
    v = strength * weights
    positive, negative = v * y, v * (1 - y)
    counts = int((positive > 0).sum()), int((negative > 0).sum())
    problem = _Problem(x, positive, negative, sum(counts))
    tolerance = TOLERANCE * max(min(counts), 1) / max(sum(counts), 1)
    dice = _Dice(draw)
    order = list(range(x.shape[1]))
    w, z = np.zeros(x.shape[1]), np.zeros(len(y))
    first = before = math.inf
    inner = 1.0
    for step in range(_NEWTON_STEPS):
        state = _differentiate(problem, w, z)
        active, largest, total = _screen(order, len(order), state.w, state.gradient, before / problem.rows)
        first = total if step == 0 else first
        if total <= tolerance * first:
            break
        target, sweeps = _minimise_model(problem, state, order, active, inner * first, dice)
        w, z = _search_line(problem, state, target)
        # A model that one sweep solves was solved too loosely to be worth another Newton step.
        inner *= 0.25 if sweeps == 1 else 1.0
        before = largest
    return w


def cross_validated_strength(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, strengths: np.ndarray, folds: int
) -> float:
    """The strength with the least held-out loss, averaged over folds; of equals the smallest.

    Rows are dealt round to folds, as scikit-learn's GroupKFold deals groups of one size.
    """
    fold = np.arange(len(y)) % folds
    losses = np.zeros(len(strengths))
    for held in range(folds):
        train, test = fold != held, fold == held
        for index, strength in enumerate(strengths):
            w = fit(x[train], y[train], weights[train], strength, draw=index)
            z = x[test] @ w
            losses[index] += (weights[test] * (np.logaddexp(0.0, z) - y[test] * z)).mean() / folds
    return float(strengths[int(np.argmin(losses))])


class _Dice:
    """liblinear's random numbers: its Mersenne twister, seeded as scikit-learn seeds it for the n-th fit."""

    def __init__(self, draw: int) -> None:
        seeds = np.random.RandomState(SEED)
        seed = [seeds.randint(np.iinfo(np.int32).max) for _ in range(draw + 1)][-1]
        self._bits = np.random.RandomState(seed)

    def below(self, bound: int) -> int:
        """A number from 0 to bound - 1, by Lemire's method."""
        while True:
            product = int(self._bits.randint(0, 2**32, dtype=np.uint32)) * bound
            if product % 2**32 >= 2**32 % bound:
                return product >> 32


def _differentiate(problem: _Problem, w: np.ndarray, z: np.ndarray) -> _State:
    p = expit(z)
    row_curvature = (problem.positive + problem.negative) * p * (1 - p)
    gradient = problem.x.T @ (problem.negative * p - problem.positive * (1 - p))
    curvature = _RIDGE + row_curvature @ (problem.x**2)
    return _State(w, z, gradient, row_curvature, curvature)


def _violation(coefficient: float, gradient: float, slack: float) -> float | None:
    """How far a coefficient is from optimal; None where it is 0 and will stay, by more than the slack."""
    if coefficient:
        return abs(gradient + math.copysign(1.0, coefficient))
    if abs(gradient) <= 1.0:
        return None if 1.0 - abs(gradient) > slack else 0.0
    return abs(gradient) - 1.0


def _screen(order: list[int], active: int, w, gradient, slack: float) -> tuple[int, float, float]:
    """Moves coefficients that will stay at 0 behind the active ones; the largest violation, and their sum."""
    largest = total = 0.0
    place = 0
    while place < active:
        k = order[place]
        violation = _violation(w[k], gradient[k], slack)
        if violation is None:
            active -= 1
            order[place], order[active] = order[active], order[place]
            continue
        largest, total, place = max(largest, violation), total + violation, place + 1
    return active, largest, total


def _minimise_model(
    problem: _Problem, state: _State, order: list[int], active: int, enough: float, dice: _Dice
) -> tuple[np.ndarray, int]:
    """Coefficients that minimise the quadratic model plus the penalty, and the sweeps that it took."""
    target, moved = state.w.copy(), np.zeros(len(state.z))
    weighted = problem.x * state.row_curvature[:, None]
    open_ones, slack = active, math.inf
    for sweep in range(1, _SWEEPS + 1):
        for place in range(open_ones):
            other = place + dice.below(open_ones - place)
            order[place], order[other] = order[other], order[place]
        largest = total = 0.0
        place = 0
        while place < open_ones:
            k = order[place]
            slope = state.gradient[k] + (target[k] - state.w[k]) * _RIDGE + weighted[:, k] @ moved
            violation = _violation(target[k], slope, slack)
            if violation is None:
                open_ones -= 1
                order[place], order[open_ones] = order[open_ones], order[place]
                continue
            largest, total, place = max(largest, violation), total + violation, place + 1
            size = _coordinate_step(target[k], slope, state.curvature[k])
            if abs(size) >= _RIDGE:
                target[k] += size
                moved += size * problem.x[:, k]
        if total > enough:
            slack = largest / problem.rows
        elif open_ones == active:
            return target, sweep
        else:
            # Solved without the coefficients set aside: once more with them.
            open_ones, slack = active, math.inf
    return target, _SWEEPS


def _coordinate_step(coefficient: float, slope: float, curvature: float) -> float:
    if slope + 1.0 < curvature * coefficient:
        step = -(slope + 1.0) / curvature
    elif slope - 1.0 > curvature * coefficient:
        step = -(slope - 1.0) / curvature
    else:
        step = -coefficient
    return min(max(step, -_LARGEST_STEP), _LARGEST_STEP)


def _search_line(problem: _Problem, state: _State, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of the points half as far each that decreases the objective enough; the old one where none does."""

    def objective(w: np.ndarray, z: np.ndarray) -> float:
        loss = problem.positive @ np.logaddexp(0.0, -z) + problem.negative @ np.logaddexp(0.0, z)
        return float(np.abs(w).sum() + loss)

    value = objective(state.w, state.z)
    promised = float(state.gradient @ (target - state.w) + np.abs(target).sum() - np.abs(state.w).sum())
    toward = problem.x @ (target - state.w)
    size = 1.0
    for _ in range(_LINE_STEPS):
        w, z = state.w + size * (target - state.w), state.z + size * toward
        if size == 1.0:
            w = target
        if objective(w, z) - value <= _DECREASE * size * promised:
            return w, z
        size /= 2
    return state.w, state.z
