"""The follower for a convex link that is not monotone: mass may go to either end of the window."""

import numpy as np

from sgpo.robust.arguments import Problem
from sgpo.robust.solution import WorstCase


def solve_two_sided(problem: Problem) -> WorstCase:
    r"""Exact worst case of a general convex link, in O(N log N).

    By convexity mass goes to an end of the window or stays. What a point gains from its transport budget is the upper
    concave envelope of (0, 0), (u - a, f(a) - f(u)) and (b - u, f(b) - f(u)): at most two segments, of falling slope,
    and moving along the second takes back what went to the nearer end. All segments of all points, steepest first,
    are a fractional knapsack. Segments tied at the price share the rest of the budget evenly.

    Returns: WorstCase; `moved` is the share sent to window[0], `raised` the share sent to window[1]; `marginal` is the
    lowest gap that is not moved whole, and `full_radius` the radius beyond which the value stays as it is.
    Source: PAPER.md D1, extended; the dual is E max(f(u), f(a) - lambda (u - a), f(b) - lambda (b - u)) + lambda radius.
    """
    u, radius, link, (a, b), weights = problem
    mass = np.full(len(u), 1.0 / len(u)) if weights is None else weights
    losses = np.asarray(link.value(u), dtype=np.float64)
    top_a, top_b = (float(link.value(np.float64(end))) for end in (a, b))
    near_is_a = u - a <= b - u
    near = np.where(near_is_a, u - a, b - u)
    far = np.where(near_is_a, b - u, u - a)
    near_gain = np.where(near_is_a, top_a, top_b) - losses
    far_gain = np.where(near_is_a, top_b, top_a) - losses
    first, second, direct = _segments(near, near_gain, far, far_gain)

    slopes = np.concatenate([first, second])
    costs = np.concatenate([mass * np.where(direct, far, near), mass * np.where(direct, 0.0, far - near)])
    share, price, full_radius = _fill(slopes, costs, radius)
    first_share, second_share = share[: len(u)], share[len(u) :]
    to_far = np.where(direct, first_share, second_share)
    to_near = np.where(direct, 0.0, first_share - second_share)
    lowered, raised = np.where(near_is_a, (to_near, to_far), (to_far, to_near))
    gain = float(mass @ (lowered * (top_a - losses) + raised * (top_b - losses)))
    empirical = float(mass @ losses)
    stays = u[(lowered + raised < 1.0) & (u > a)]
    return WorstCase(
        value=empirical + max(gain, 0.0),
        empirical_value=empirical,
        price=price,
        moved=np.where(u > a, lowered, 0.0),
        moved_share=float(mass @ (np.where(u > a, lowered, 0.0) + np.where(u < b, raised, 0.0))),
        marginal=float(stays.min()) if stays.size else b,
        radius=radius,
        full_radius=full_radius,
        space=link.space,
        window=(a, b),
        link=link,
        points=u,
        weights=weights,
        raised=np.where(u < b, raised, 0.0),
    )


def _segments(near, near_gain, far, far_gain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slopes of each point's two segments, and whether its first leads straight to the far end."""
    with np.errstate(divide="ignore", invalid="ignore"):
        to_near = np.where(near > 0, near_gain / near, np.where(near_gain > 0, np.inf, 0.0))
        to_far = np.where(far > 0, far_gain / far, 0.0)
        onward = np.where(far > near, (far_gain - near_gain) / (far - near), 0.0)
    # A point at the near end is there already: nothing to gain on the way.
    direct = (to_far >= to_near) | (near == 0)
    first = np.where(direct, to_far, to_near).clip(0.0)
    second = np.where(direct, 0.0, onward).clip(0.0)
    return first, second, direct


def _fill(slopes: np.ndarray, costs: np.ndarray, radius: float) -> tuple[np.ndarray, float, float]:
    """Shares of the segments within the budget, the price, and the cost of all segments that gain."""
    costs = np.where(slopes > 0, costs, 0.0)
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
