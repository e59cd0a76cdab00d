"""Whether the gaps of held-out human pairs mean what they say: sigma(gap) against how often the order is right."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps
from sgpo.stats.intervals import share_interval
from sgpo.stats.temperature import Temperature, fit_temperature


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
    gaps = check_gaps(gaps)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InputError(f"bins is {bins!r}; allowed: an integer >= 1.")
    filled = _fill_bins(gaps, bins)
    temperature = fit_temperature(gaps)
    usable = math.isfinite(temperature.scale) and temperature.scale > 0
    scaled = _error(_fill_bins(temperature.scale * gaps, bins)) if usable else math.nan
    return Calibration(filled, _error(filled), temperature, scaled)


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
