"""The scale at which preference gaps mean what they say: one temperature, fitted on pairs that a human ordered."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from sgpo.errors import InputError

LEVEL = 0.95
# Where even the smallest scaled gap is beyond this, all losses are linear to rounding: no temperature lies there.
_FLAT = 600.0


class Temperature(NamedTuple):
    """The scale c at which sigma(c * gap) fits the human order best.

    Attributes:
        scale: c; 1 says that the gaps are calibrated, less that they are too large, 0 or less that they carry no
            information. inf or -inf where the gaps have all one sign, 0 where they all are 0.
        low, high: its 95% interval; an end is infinite where the pairs do not bound it.
        log_loss: mean of -log sigma(c * gap) at c, in nats.
        log_loss_raw: the same at c = 1, in nats.
    """

    scale: float
    low: float
    high: float
    log_loss: float
    log_loss_raw: float


def fit_temperature(gaps: ArrayLike, *, level: float = LEVEL) -> Temperature:
    r"""The scale c that minimises the mean of `-log sigma(c * gap)`, and its score interval.

    The interval holds each c whose score  `s_i = gap_i sigma(-c gap_i)`  has a mean within z standard errors of 0,
    |sum s| <= z sqrt(sum s^2): it needs no model of the labels' noise and stays right where few gaps decide.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards, in nats; finite.
        level: of the interval, in (0, 1); 0.683 is one standard error.

    Raises:
        InputError: no gap, one that is not finite, or a level out of range.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017; PAPER.md D8.
    """
    gaps = check_gaps(gaps)
    if not 0 < level < 1:
        raise InputError(f"level is {level}; allowed: a number in (0, 1).")
    raw = float(np.logaddexp(0.0, -gaps).mean())
    largest = float(np.abs(gaps).max())
    if largest == 0:
        return Temperature(0.0, -math.inf, math.inf, math.log(2), raw)
    unit = gaps / largest
    z = float(norm.ppf((1 + level) / 2))

    def excess(scale: float, bound: float) -> float:
        score = unit * expit(-scale * unit)
        # All scores vanish together where every gap has one sign; their ratio must not.
        score /= np.abs(score).max()
        return float(score.sum() / np.sqrt((score**2).sum())) - bound

    farthest = min(_FLAT / float(np.abs(unit[unit != 0]).min()), 1e300)
    scale, low, high = (_root(excess, bound, farthest) / largest for bound in (0.0, z, -z))
    # A gap of 0 costs log 2 at every scale; the others cost nothing at an infinite one.
    loss = float(np.logaddexp(0.0, -scale * gaps).mean()) if math.isfinite(scale) else math.log(2) * np.mean(gaps == 0)
    return Temperature(scale, low, high, float(loss), raw)


def check_gaps(gaps: ArrayLike, name: str = "gaps") -> np.ndarray:
    """(N,) float64, N >= 1, finite.

    Raises:
        InputError: anything else, by the argument's name.
    """
    array = np.asarray(gaps, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} has the shape {array.shape}; allowed: (N,) with N >= 1.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"{name} row {row} is {array[row]}; allowed: finite numbers.")
    return array


def _root(excess: Callable[[float, float], float], bound: float, farthest: float) -> float:
    """The scale at which the score passes a bound; an infinity where it does not before `farthest`."""
    side = 1.0 if excess(0.0, bound) > 0 else -1.0
    near, far = 0.0, side
    while side * excess(far, bound) > 0:
        near, far = far, 2 * far
        if abs(far) > farthest:
            return side * math.inf
    return float(brentq(excess, min(near, far), max(near, far), args=(bound,), xtol=1e-12))
