"""Win rate of one policy against another, with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgpo.errors import InputError
from sgpo.stats.intervals import share_interval

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
    """Mean win share over prompts with its 95% interval, see `sgpo.stats.intervals.share_interval`.

    Prompts are the unit of the interval, so comparisons that share a prompt need not be independent.

    Args:
        shares: (P,) share won at each prompt, in [0, 1].

    Raises:
        InputError: no share, or one outside [0, 1].
    """
    shares = np.asarray(shares, dtype=np.float64)
    if shares.ndim != 1 or shares.size == 0:
        raise InputError(f"shares has the shape {shares.shape}; allowed: (P,) with P >= 1.")
    if not ((shares >= 0) & (shares <= 1)).all():
        row = int(np.flatnonzero(~((shares >= 0) & (shares <= 1)))[0])
        raise InputError(f"shares row {row} is {shares[row]}; allowed: a number in [0, 1].")
    return WinRate(float(shares.mean()), *share_interval(shares), shares.size)


def _as_rows(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
        raise InputError(f"{name} has the shape {array.shape}; allowed: (P,) or (P, n) finite numbers, P, n >= 1.")
    return array
