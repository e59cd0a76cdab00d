"""The scale of preference gaps: one temperature fitted on human pairs, and the likelihood with the scale removed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps

LEVEL = 0.95
# Level of an interval of one standard error on either side.
ONE_ERROR = 0.6826894921370859
# Where even the smallest scaled gap exceeds this, all losses are linear up to rounding: no temperature lies there.
_FLAT = 600.0


class Temperature(NamedTuple):
    """The scale c at which sigma(c * gap) fits the human order best.

    Attributes:
        scale: c; 1 means that the gaps are calibrated, less that they are too large, 0 or less that they carry no
            information. inf or -inf where all gaps have the same sign, 0 where they all are 0.
        low, high: its interval; an end is infinite where the pairs do not bound it.
        log_loss: mean of -log sigma(c * gap) at c, in nats.
        log_loss_raw: the same at c = 1, in nats.
    """

    scale: float
    low: float
    high: float
    log_loss: float
    log_loss_raw: float


class ScaleFree(NamedTuple):
    """Held-out human gaps with their scale removed.

    Attributes:
        temperature: c, see `Temperature.scale`.
        low: lower end of its interval of one standard error; above 0 the gaps carry information about the human order.
        nll: mean of -log sigma(c * gap) at max(c, 0), in nats; at most log 2.
        standard_error: of `nll` over the pairs, in nats; nan for one pair.
        deflated: the same mean at min(max(c, 0), 1): gaps that are too large are corrected, gaps that are too small are
            not.
        losses: (N,) the losses that `nll` is the mean of.
    """

    temperature: float
    low: float
    nll: float
    standard_error: float
    deflated: float
    losses: np.ndarray


def fit_temperature(gaps: ArrayLike, *, level: float = LEVEL) -> Temperature:
    r"""The scale c that minimises the mean of `-log sigma(c * gap)`, and its score interval.

    The interval holds each c whose score  `s_i = gap_i sigma(-c gap_i)`  has a mean within z standard errors of 0,
    |sum s| <= z sqrt(sum s^2). It needs no model of the labels' noise and stays valid where few gaps decide.

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


def remove_scale(gaps: ArrayLike) -> ScaleFree:
    """Separates the direction of held-out gaps from their size.

    Self-annotation inflates the scale of the gaps, so that the plain log-likelihood of noisy human pairs falls even
    where their order is right. The likelihood at the fitted temperature does not change when all gaps are scaled.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards of held-out human pairs, in nats; finite.

    Raises:
        InputError: no gap, or one that is not finite.

    Source: PAPER.md D8.
    """
    gaps = check_gaps(gaps)
    fit = fit_temperature(gaps, level=ONE_ERROR)
    if math.isinf(fit.scale):
        losses = np.where(gaps == 0, math.log(2), 0.0) if fit.scale > 0 else np.full(gaps.size, math.log(2))
    else:
        losses = np.logaddexp(0.0, -max(fit.scale, 0.0) * gaps)
    deflated = float(np.logaddexp(0.0, -min(max(fit.scale, 0.0), 1.0) * gaps).mean())
    return ScaleFree(fit.scale, fit.low, float(losses.mean()), standard_error(losses), deflated, losses)


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of (N,) values; nan for one value."""
    return float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else math.nan


def _root(excess: Callable[[float, float], float], bound: float, farthest: float) -> float:
    """The scale at which the score passes a bound; an infinity where it does not before `farthest`."""
    side = 1.0 if excess(0.0, bound) > 0 else -1.0
    near, far = 0.0, side
    while side * excess(far, bound) > 0:
        near, far = far, 2 * far
        if abs(far) > farthest:
            return side * math.inf
    return float(brentq(excess, min(near, far), max(near, far), args=(bound,), xtol=1e-12))
