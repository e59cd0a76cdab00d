"""The scale of preference gaps: one temperature fitted on human pairs, and the likelihood with the scale removed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from sgpo.robust.ball import check_gaps
from sgpo.stats.intervals import CONFIDENCE

# Level of an interval of one standard error on either side.
ONE_ERROR = 0.6826894921370859
# Where even the smallest scaled gap exceeds this, all losses are linear up to rounding: no temperature lies there.
_FLAT = 600.0


class Temperature(NamedTuple):
    """The scale c at which sigma(c * gap) fits the human order best: 1 is calibrated, less is overconfident, 0 no
    information; infinite where all gaps have one sign. An end of its interval is infinite where the pairs do not bound
    it; losses, at c and (raw) at 1, are in nats."""

    scale: float
    low: float
    high: float
    log_loss: float
    log_loss_raw: float


def fit_temperature(gaps: ArrayLike, *, level: float = CONFIDENCE) -> Temperature:
    """The scale c of least mean `-log sigma(c * gap)` over gaps (N,) in nats, and its score interval: each c with |sum
    s| <= z sqrt(sum s^2), `s_i = gap_i sigma(-c gap_i)`, which needs no model of the labels' noise. Source: C. Guo et
    al., "On calibration of modern neural networks", ICML 2017; PAPER.md D8."""
    gaps = check_gaps(gaps)
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


def calibrated_losses(gaps: np.ndarray, scale: float) -> np.ndarray:
    """(N,) -log sigma(c * gap) in nats at the fitted scale c, at 0 where c is negative: the same when all gaps are
    scaled, while the plain likelihood falls with the scale that self-annotation inflates (PAPER.md D8)."""
    if scale == math.inf:
        return np.where(gaps == 0, math.log(2), 0.0)
    return np.logaddexp(0.0, -max(scale, 0.0) * gaps)


def _root(excess: Callable[[float, float], float], bound: float, farthest: float) -> float:
    """The scale at which the score passes a bound; an infinity where it does not before `farthest`."""
    side = 1.0 if excess(0.0, bound) > 0 else -1.0
    near, far = 0.0, side
    while side * excess(far, bound) > 0:
        near, far = far, 2 * far
        if abs(far) > farthest:
            return side * math.inf
    return float(brentq(excess, min(near, far), max(near, far), args=(bound,), xtol=1e-12))
