"""The standard error of a mean; the 95% intervals of a share, of a mean over clusters, and of a win rate."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps

CONFIDENCE = 0.95
# Rewards are sums of floating-point terms: closer than this they are equal up to the order of summation.
_TIE = 1e-9


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


def share_interval(shares: np.ndarray, clusters: ArrayLike | None = None) -> tuple[float, float]:
    """Wilson's score interval (JASA 22, 1927) of the mean m of shares (N,) in [0, 1], at their effective number
    `m (1 - m) / e^2` with the error e over `clusters` (N,), as in `mean_interval`: ties vary less than wins and losses,
    and clusters more. It covers 93 to 97% of samples from about two expected wins or losses on."""
    mean, n = float(shares.mean()), shares.size
    sums = _sum_clusters(shares - mean, clusters)
    # If all are ties the variance is 0, although one more prompt could have been a win.
    ratio = max(float(sums @ sums) / (n * mean * (1 - mean)), 1 / n) if 0 < mean < 1 else n / sums.size
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
    mean = float(x.mean())
    sums = _sum_clusters(x - mean, clusters)
    if sums.size == 1:
        return Mean(mean, math.nan, math.nan, math.nan, x.size)
    error = math.sqrt(sums.size / (sums.size - 1) * float(sums @ sums)) / x.size
    half = error * float(t.ppf((1 + CONFIDENCE) / 2, sums.size - 1))
    return Mean(mean, error, mean - half, mean + half, x.size)


def _sum_clusters(values: np.ndarray, clusters: ArrayLike | None) -> np.ndarray:
    """The sum of (N,) values in each cluster; None: each value is its own."""
    if clusters is None:
        return values
    groups = np.asarray(clusters)
    if groups.shape != values.shape:
        raise InputError(f"clusters has shape {groups.shape}; allowed: {values.shape}, one for each value.")
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values)


def check_range(values: ArrayLike, name: str, least: float, most: float, *, optional: bool = False) -> np.ndarray:
    """(N,) numbers from `least` to `most`, N >= 1; `optional` ones may be nan."""
    array = np.asarray(values, dtype=np.float64)
    known = check_gaps(np.where(np.isnan(array), least, array) if optional else array, name)
    outside = np.flatnonzero((known < least) | (known > most))
    if outside.size:
        allowed = f"{least:g} to {most:g}{', or nan for none' if optional else ''}"
        raise InputError(f"{name} row {outside[0]} is {known[outside[0]]:g}; allowed: {allowed}.")
    return array


class WinRate(NamedTuple):
    """Share of comparisons won, ties counted half, with its 95% interval over prompts."""

    win_rate: float
    low: float
    high: float
    prompts: int


def compare_rewards(rewards: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """(P,) what a policy wins at each prompt by its reward (P,) against the baseline's: 1, 0, or 1/2 for a tie."""
    rewards, baseline = check_gaps(rewards, "rewards"), check_gaps(baseline, "baseline")
    if len(rewards) != len(baseline):
        raise InputError(f"baseline has {len(baseline)} prompts; allowed: as many as rewards, {len(rewards)}.")
    difference = rewards - baseline
    return (difference > _TIE) + 0.5 * (np.abs(difference) <= _TIE)


def win_rate(shares: ArrayLike) -> WinRate:
    """Mean win share over prompts with its 95% interval, see `share_interval`.

    Prompts are the unit of the interval, so that comparisons that share a prompt need not be independent.

    Args:
        shares: (P,) share won at each prompt, in [0, 1].

    Raises:
        InputError: no share, or one outside [0, 1].
    """
    shares = check_range(shares, "shares", 0, 1)
    return WinRate(float(shares.mean()), *share_interval(shares), shares.size)
