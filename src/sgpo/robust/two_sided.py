"""The follower for a convex link that is not monotone: mass may go to either end of the window."""

from typing import NamedTuple

import numpy as np

from sgpo.robust.ball import Problem
from sgpo.robust.solution import WorstCase


def solve_two_sided(problem: Problem) -> WorstCase:
    """Exact worst case of a general convex link, in O(N log N): a point's gain as a function of its budget is a concave
    envelope of at most two segments, and all segments, steepest first, are a fractional knapsack. Ties share evenly.
    Source: PAPER.md D1, extended to two ends."""
    u, radius, link, (a, b), _ = problem
    mass = problem.mass
    sides = _sides(u, link, (a, b))
    slopes, costs = _stack(sides, mass)
    share, price, full_radius = _fill(slopes, costs, radius)
    first_share, second_share = share[: len(u)], share[len(u) :]
    direct, near_is_a = sides.direct, sides.near_is_a
    to_far = np.where(direct, first_share, second_share)
    # Moving along the second segment takes back the mass at the nearer end.
    to_near = np.where(direct, 0.0, first_share - second_share)
    lowered, raised = np.where(near_is_a, (to_near, to_far), (to_far, to_near))
    losses = np.asarray(link.value(u), dtype=np.float64)
    top_a, top_b = (float(link.value(np.float64(end))) for end in (a, b))
    gain = float(mass @ (lowered * (top_a - losses) + raised * (top_b - losses)))
    empirical = float(mass @ losses)
    stays = u[(lowered + raised < 1.0) & (u > a)]
    return WorstCase.of(
        problem,
        value=empirical + max(gain, 0.0),
        empirical_value=empirical,
        price=price,
        moved=lowered,
        moved_share=float(mass @ (lowered + raised)),
        marginal=float(stays.min()) if stays.size else b,
        full_radius=full_radius,
        raised=raised,
    )


class _Sides(NamedTuple):
    """Each point's distance to its nearer and farther end, the slopes of its two segments, and whether the first leads
    straight to the far end."""

    near: np.ndarray
    far: np.ndarray
    first: np.ndarray
    second: np.ndarray
    direct: np.ndarray
    near_is_a: np.ndarray


def segments_of(points, mass, link, window) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (2N,) in nats per unit, and lengths (2N,), of all segments; length 0 where there is nothing to gain."""
    return _stack(_sides(points, link, window), mass)


def _sides(u, link, window) -> _Sides:
    a, b = window
    losses, slope = np.asarray(link.value(u), dtype=np.float64), np.asarray(link.slope(u), dtype=np.float64)
    ends = np.array(window)
    top_a, top_b = np.asarray(link.value(ends)).tolist()
    steep_a, steep_b = np.asarray(link.slope(ends)).tolist()
    # Convexity holds each chord between the slopes at its two ends; rounding, close to an end, does not.
    gain_a = np.clip(top_a - losses, -slope * (u - a), np.maximum(-steep_a, -slope) * (u - a))
    gain_b = np.clip(top_b - losses, slope * (b - u), np.maximum(steep_b, slope) * (b - u))
    near_is_a = u - a <= b - u
    near, far = np.where(near_is_a, (u - a, b - u), (b - u, u - a))
    near_gain, far_gain = np.where(near_is_a, (gain_a, gain_b), (gain_b, gain_a))
    with np.errstate(divide="ignore", invalid="ignore"):
        to_near = np.where(near > 0, near_gain / near, 0.0)
        to_far = far_gain / far
        onward = np.where(far > near, (far_gain - near_gain) / (far - near), 0.0)
    # A point at the near end is there already: nothing to gain on the way.
    direct = (to_far >= to_near) | (near == 0)
    first = np.where(direct, to_far, to_near).clip(0.0)
    second = np.where(direct, 0.0, onward).clip(0.0, first)
    return _Sides(near, far, first, second, direct, near_is_a)


def _stack(sides: _Sides, mass) -> tuple[np.ndarray, np.ndarray]:
    near, far, first, second, direct, _ = sides
    slopes = np.concatenate([first, second])
    costs = np.concatenate([mass * np.where(direct, far, near), mass * np.where(direct, 0.0, far - near)])
    return slopes, np.where(slopes > 0, costs, 0.0)


def _fill(slopes: np.ndarray, costs: np.ndarray, radius: float) -> tuple[np.ndarray, float, float]:
    """Shares of the segments within the budget, the price, and the cost of all segments that gain."""
    order = np.argsort(-slopes, kind="stable")
    spent = np.cumsum(costs[order])
    if radius >= spent[-1]:
        return (slopes > 0).astype(float), 0.0, float(spent[-1])
    price = float(slopes[order][np.searchsorted(spent, radius, side="right")])
    tied = slopes == price
    before = float(costs[slopes > price].sum())
    share = (slopes > price).astype(float)
    share[tied] = np.clip((radius - before) / costs[tied].sum(), 0.0, 1.0)
    return share, price, float(spent[-1])
