"""How often an implicit reward ranks a human pair as the human did."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgpo.errors import InputError
from sgpo.stats.intervals import share_interval


class RankingAccuracy(NamedTuple):
    """Share of pairs ranked as the human ranked them, with its 95% interval."""

    accuracy: float
    low: float
    high: float
    pairs: int


def ranking_accuracy(gaps: ArrayLike) -> RankingAccuracy:
    """Share of positive gaps; a gap of exactly zero ranks nothing and counts half.

    Args:
        gaps: (N,) chosen minus rejected implicit rewards, any scale; finite.

    Raises:
        InputError: no gap, or one that is not finite.
    """
    gaps = np.asarray(gaps, dtype=np.float64)
    if gaps.ndim != 1 or gaps.size == 0 or not np.isfinite(gaps).all():
        raise InputError(f"gaps has shape {gaps.shape}; allowed: (N,) finite numbers, N >= 1.")
    shares = (gaps > 0) + 0.5 * (gaps == 0)
    return RankingAccuracy(float(shares.mean()), *share_interval(shares), int(gaps.size))
