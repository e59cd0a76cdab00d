"""Which gaps the follower moves: the fractional knapsack of PAPER.md D1."""

from typing import NamedTuple

import numpy as np


class Selection(NamedTuple):
    """The marginal gap.

    Attributes:
        marginal: the lowest point that is not moved whole; None if everything moves.
        split: share of the mass at the marginal point that moves, in [0, 1).
        full_radius: radius from which on everything moves.
    """

    marginal: float | None
    split: float
    full_radius: float


def select(points: np.ndarray, lower: float, radius: float, weights: np.ndarray) -> Selection:
    """Fills the lowest points first until their transport to `lower` has cost `radius`."""
    order = np.argsort(points, kind="stable")
    points, weights = points[order], weights[order]
    spent = np.cumsum(weights * (points - lower))
    index = int(np.searchsorted(spent, radius, side="right"))
    if index == len(points):
        return Selection(None, 0.0, float(spent[-1]))
    marginal = points[index]
    first, last = np.searchsorted(points, marginal, side="left"), np.searchsorted(points, marginal, side="right")
    before = spent[first - 1] if first else 0.0
    split = (radius - before) / (spent[last - 1] - before)
    return Selection(float(marginal), float(np.clip(split, 0.0, 1.0)), float(spent[-1]))
