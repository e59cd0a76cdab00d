"""The standard error of a mean, and the 95% intervals of a share and of a mean over clusters."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps

CONFIDENCE = 0.95


class Mean(NamedTuple):
    """A mean with its standard error and 95% interval, which are nan for a single cluster."""

    mean: float
    standard_error: float
    low: float
    high: float
    count: int


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of (N,) values; nan for one value."""
    return float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else math.nan


def share_interval(shares: np.ndarray) -> tuple[float, float]:
    """Wilson's score interval (JASA 22, 1927) of the mean of shares (N,) in [0, 1], at their effective number `N m (1 -
    m) / s^2` with their mean m and variance s^2, because ties vary less than wins and losses. It covers 93 to 97% of
    samples from about two expected wins or losses on."""
    mean, n = float(shares.mean()), shares.size
    # If all are ties the variance is 0, although one more prompt could have been a win.
    ratio = max(float(shares.var()) / (mean * (1 - mean)), 1 / n) if 0 < mean < 1 else 1.0
    effective = n / ratio
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * math.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2)) / (1 + z**2 / effective)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: ArrayLike, clusters: ArrayLike | None = None) -> Mean:
    r"""Mean of values with Student's interval, over clusters whose values need not be independent.

    The squared standard error is  `G / (G - 1) sum_g (sum_{i in g} (x_i - m))^2 / N^2`,  with G - 1 degrees of freedom;
    with one value per cluster it is the textbook's.

    Args:
        values: (N,) finite.
        clusters: (N,) the cluster of each, anything that compares equal; None: each value is its own.

    Raises:
        InputError: no value, one that is not finite, or another number of clusters.

    Source: K.-Y. Liang, S. Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986).
    """
    x = check_gaps(values, "values")
    groups = np.arange(x.size) if clusters is None else np.asarray(clusters)
    if groups.shape != x.shape:
        raise InputError(f"clusters has shape {groups.shape}; allowed: {x.shape}, one for each value.")
    mean = float(x.mean())
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, weights=x - mean)
    if sums.size == 1:
        return Mean(mean, math.nan, math.nan, math.nan, x.size)
    error = math.sqrt(sums.size / (sums.size - 1) * float(sums @ sums)) / x.size
    half = error * float(t.ppf((1 + CONFIDENCE) / 2, sums.size - 1))
    return Mean(mean, error, mean - half, mean + half, x.size)
