"""Win rate of one policy against another, with its interval."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgpo.errors import InputError
from sgpo.robust.ball import check_gaps
from sgpo.stats.intervals import share_interval

# Rewards are sums of floating-point terms: closer than this they are equal up to the order of summation.
_TIE = 1e-9


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
