"""Win rate of one policy against another, with its interval."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from sgpo.errors import InputError

# Rewards are sums of floating-point terms: closer than this they are the same sum in another order.
_TIE = 1e-9


class WinRate(NamedTuple):
    """Share of comparisons won, ties counted half, with its 95% interval over prompts."""

    win_rate: float
    low: float
    high: float
    prompts: int


def compare_rewards(rewards: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """Share of comparisons that a policy wins at each prompt, ties counted half, (P,) in [0, 1].

    Args:
        rewards: (P,) or (P, n) rewards of the policy's n responses to each of P prompts; finite.
        baseline: (P,) or (P, m) rewards of the baseline's responses to the same prompts; each of the n is compared
            with each of the m.

    Raises:
        InputError: an array is empty or not finite, or the two have another number of prompts.
    """
    first, second = (_as_rows(values, name) for values, name in ((rewards, "rewards"), (baseline, "baseline")))
    if len(first) != len(second):
        raise InputError(f"baseline has {len(second)} prompts; allowed: as many as rewards, {len(first)}.")
    difference = first[:, :, None] - second[:, None, :]
    won = (difference > _TIE) + 0.5 * (np.abs(difference) <= _TIE)
    return won.mean(axis=(1, 2))


def win_rate(shares: ArrayLike) -> WinRate:
    r"""Mean win share over prompts with its 95% interval.

    Wilson's score interval at the effective number of prompts `N m (1 - m) / s^2`, where m is the mean and s^2 the
    variance of the shares: ties and several comparisons per prompt make shares less variable than wins and losses.
    Prompts are the unit of the interval, so comparisons that share a prompt need not be independent.

    Args:
        shares: (P,) share won at each prompt, in [0, 1].

    Raises:
        InputError: no share, or one outside [0, 1].

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    shares = np.asarray(shares, dtype=np.float64)
    if shares.ndim != 1 or shares.size == 0:
        raise InputError(f"shares has the shape {shares.shape}; allowed: (P,) with P >= 1.")
    if not ((shares >= 0) & (shares <= 1)).all():
        row = int(np.flatnonzero(~((shares >= 0) & (shares <= 1)))[0])
        raise InputError(f"shares row {row} is {shares[row]}; allowed: a number in [0, 1].")
    mean, n = float(shares.mean()), shares.size
    # With nothing but ties the variance is 0, and one more prompt could still have been a win.
    ratio = max(float(shares.var()) / (mean * (1 - mean)), 1 / n) if 0 < mean < 1 else 1.0
    effective = n / ratio
    z = float(norm.ppf(0.975))
    centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * math.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2)) / (1 + z**2 / effective)
    return WinRate(mean, max(0.0, centre - half), min(1.0, centre + half), n)


def _as_rows(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
        raise InputError(f"{name} has the shape {array.shape}; allowed: (P,) or (P, n) finite numbers, P, n >= 1.")
    return array
