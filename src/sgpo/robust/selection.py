"""Which gaps the follower moves: the fractional knapsack of PAPER.md D1, by weighted selection instead of sorting."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# A block's temporaries stay in the second-level cache, and never become arrays of N.
BLOCK = 1 << 15
_SORT_AT_MOST = 2048
_SAMPLE = 4096


class Selection(NamedTuple):
    """The lowest point that does not move whole (None: all do), the share of it that moves, and the radius that moves
    everything."""

    marginal: float | None
    split: float
    full_radius: float


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK entries that cover `count`."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def select(points: np.ndarray, lower: float, radius: float, weights: np.ndarray | None) -> Selection:
    """Moves the lowest points (N,) to `lower` first, until their transport has cost `radius` per unit of mass. Brackets
    the marginal point by a sorted sample, keeps what is inside, and repeats: O(N), only a few thousand are ever
    sorted."""
    parts = blocks(len(points))
    full_radius = float(sum(_cost(points[part], lower, None if weights is None else weights[part]) for part in parts))
    budget = radius
    if weights is None:
        full_radius, budget = full_radius / len(points), radius * len(points)
    if radius >= full_radius:
        return Selection(None, 0.0, full_radius)
    marginal, split = _marginal(points, lower, budget, weights)
    return Selection(marginal, split, full_radius)


def _marginal(points, lower, budget, weights) -> tuple[float, float]:
    while len(points) > _SORT_AT_MOST:
        low, high = _bracket(points, lower, budget, weights)
        band, band_weights, below_cost, band_cost = _cut(points, lower, low, high, weights)
        if below_cost > budget:
            keep = points < low
        elif below_cost + band_cost <= budget and (points > high).any():
            keep = points > high
            budget -= below_cost + band_cost
        elif low == high:
            return low, float(np.clip((budget - below_cost) / band_cost, 0.0, 1.0))
        elif len(band) == len(points):
            break
        else:
            points, weights = band, band_weights
            budget -= below_cost
            continue
        points, weights = points[keep], None if weights is None else weights[keep]
    return _sorted_marginal(points, lower, budget, weights)


def _bracket(points, lower, budget, weights) -> tuple[float, float]:
    """Two values with the marginal point between them; a bad sample costs time, not correctness."""
    count = min(_SAMPLE, max(256, len(points) // 64))
    stride = len(points) // count
    sample = points[::stride]
    order = np.argsort(sample)
    sample = sample[order]
    cost = (sample - lower) if weights is None else weights[::stride][order] * (sample - lower)
    rank = int(np.searchsorted(np.cumsum(cost), budget * (len(sample) / len(points)), side="right"))
    # Costs below a point are at most its own, so the rank's standard error is about the square root of the rank.
    slack = int(4.0 * np.sqrt(rank)) + 8
    low = float(sample[rank - slack]) if rank > slack else -np.inf
    high = float(sample[rank + slack]) if rank + slack < len(sample) else np.inf
    return low, high


def _cut(points, lower, low, high, weights) -> tuple[np.ndarray, np.ndarray | None, float, float]:
    """Points between two pivots (inclusive) with their weights, and the cost of the points below and between them."""
    bands, band_weights, below_cost, band_cost = [], [], 0.0, 0.0
    for part in blocks(len(points)):
        x = points[part]
        reach = x <= high
        x = x[reach]
        w = None if weights is None else weights[part][reach]
        if low > -np.inf:
            below = x < low
            below_cost += _cost(x[below], lower, None if w is None else w[below])
            np.logical_not(below, out=below)
            x, w = x[below], None if w is None else w[below]
        band_cost += _cost(x, lower, w)
        bands.append(x)
        band_weights.append(w)
    weights = None if weights is None else np.concatenate(band_weights)
    return np.concatenate(bands), weights, below_cost, band_cost


def _cost(x, lower, w) -> float:
    return float((x - lower).sum() if w is None else w @ (x - lower))


def _sorted_marginal(points, lower, budget, weights) -> tuple[float, float]:
    if weights is None:
        points = np.sort(points)
        cost = points - lower
    else:
        order = np.argsort(points)
        points = points[order]
        cost = weights[order] * (points - lower)
    spent = np.cumsum(cost)
    # Rounding can leave the budget a hair above all that is left; the last point that costs anything is marginal then.
    index = min(int(np.searchsorted(spent, budget, side="right")), int(np.searchsorted(spent, spent[-1])))
    marginal = points[index]
    first, last = np.searchsorted(points, marginal, side="left"), np.searchsorted(points, marginal, side="right")
    before = spent[first - 1] if first else 0.0
    tied = cost[first:last].sum()
    return float(marginal), float(np.clip((budget - before) / tied, 0.0, 1.0))
