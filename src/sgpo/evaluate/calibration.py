"""Whether the gaps of held-out human pairs mean what they say: sigma(gap) against how often the order is right."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from sgpo.errors import InputError
from sgpo.evaluate.intervals import LEVEL, share_interval

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


class Bin(NamedTuple):
    """Pairs whose confidence lies in one bin: their mean confidence, and the share ranked as the human did."""

    confidence: float
    accuracy: float
    low: float
    high: float
    pairs: int


class Calibration(NamedTuple):
    """Reliability of sigma(|gap|) as the probability that the order is right.

    Attributes:
        bins: the bins that hold a pair, by confidence.
        error: expected calibration error, the mean over pairs of |accuracy - confidence| of their bin; it is not 0
            for calibrated gaps either, but of the size of the bins' sampling error.
        temperature: the scale that mends it.
        error_scaled: the expected calibration error of the gaps times that scale; nan where it is infinite or <= 0.
    """

    bins: list[Bin]
    error: float
    temperature: Temperature
    error_scaled: float


def calibrate(gaps: ArrayLike, *, bins: int = 10) -> Calibration:
    """Reliability bins, calibration error and temperature of held-out pairs.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards, in nats; finite.
        bins: bins of equal width that cut the confidence, 0.5 to 1.

    Raises:
        InputError: no gap, one that is not finite, or no bin.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017; PAPER.md D8.
    """
    gaps = _check_gaps(gaps)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InputError(f"bins is {bins!r}; allowed: an integer >= 1.")
    filled = _fill_bins(gaps, bins)
    temperature = fit_temperature(gaps)
    usable = math.isfinite(temperature.scale) and temperature.scale > 0
    scaled = _error(_fill_bins(temperature.scale * gaps, bins)) if usable else math.nan
    return Calibration(filled, _error(filled), temperature, scaled)


def fit_temperature(gaps: ArrayLike) -> Temperature:
    r"""The scale c that minimises the mean of `-log sigma(c * gap)`, and its 95% score interval.

    The interval holds each c whose score  `s_i = gap_i sigma(-c gap_i)`  has a mean within 1.96 standard errors of 0,
    |sum s| <= 1.96 sqrt(sum s^2): it needs no model of the labels' noise and stays right where few gaps decide.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards, in nats; finite.

    Raises:
        InputError: no gap, or one that is not finite.

    Source: PAPER.md D8.
    """
    gaps = _check_gaps(gaps)
    raw = float(np.logaddexp(0.0, -gaps).mean())
    largest = float(np.abs(gaps).max())
    if largest == 0:
        return Temperature(0.0, -math.inf, math.inf, math.log(2), raw)
    unit = gaps / largest
    z = float(norm.ppf((1 + LEVEL) / 2))

    def excess(scale: float, level: float) -> float:
        score = unit * expit(-scale * unit)
        # All scores vanish together where every gap has one sign; their ratio must not.
        score /= np.abs(score).max()
        return float(score.sum() / np.sqrt((score**2).sum())) - level

    farthest = min(_FLAT / float(np.abs(unit[unit != 0]).min()), 1e300)
    scale, low, high = (_root(excess, level, farthest) / largest for level in (0.0, z, -z))
    # A gap of 0 costs log 2 at every scale; the others cost nothing at an infinite one.
    loss = float(np.logaddexp(0.0, -scale * gaps).mean()) if math.isfinite(scale) else math.log(2) * np.mean(gaps == 0)
    return Temperature(scale, low, high, float(loss), raw)


def _root(excess: Callable[[float, float], float], level: float, farthest: float) -> float:
    """The scale at which the score passes a level; an infinity where it does not before `farthest`."""
    side = 1.0 if excess(0.0, level) > 0 else -1.0
    near, far = 0.0, side
    while side * excess(far, level) > 0:
        near, far = far, 2 * far
        if abs(far) > farthest:
            return side * math.inf
    return float(brentq(excess, min(near, far), max(near, far), args=(level,), xtol=1e-12))


def _fill_bins(gaps: np.ndarray, bins: int) -> list[Bin]:
    confidence = expit(np.abs(gaps))
    right = (gaps > 0) + 0.5 * (gaps == 0)
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return [
        Bin(
            float(confidence[place == at].mean()),
            float(right[place == at].mean()),
            *share_interval(right[place == at]),
            int((place == at).sum()),
        )
        for at in np.unique(place)
    ]


def _error(bins: list[Bin]) -> float:
    pairs = sum(part.pairs for part in bins)
    return sum(part.pairs * abs(part.accuracy - part.confidence) for part in bins) / pairs


def _check_gaps(gaps: ArrayLike) -> np.ndarray:
    array = np.asarray(gaps, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"gaps has the shape {array.shape}; allowed: (N,) with N >= 1.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"gaps row {row} is {array[row]}; allowed: finite numbers.")
    return array
