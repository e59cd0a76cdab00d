"""What proves and describes a worst case: its dual certificate, its value at every radius."""

from typing import NamedTuple

import numpy as np

from sgpo.robust.link import Link, as_array
from sgpo.robust.selection import blocks
from sgpo.robust.solution import WorstCase
from sgpo.robust.two_sided import segments_of


class Certificate(NamedTuple):
    """A proof that a worst case is optimal up to `gap`, in nats: E[f] under the law of the moved shares (primal), the
    bound for every law in the ball (dual), their difference, and the Wasserstein-1 cost of the law."""

    primal: float
    dual: float
    gap: float
    transport: float


class Curve(NamedTuple):
    """Breakpoints of V: radius (M,) ascending from 0, value (M,) in nats; constant beyond the last."""

    radius: np.ndarray
    value: np.ndarray

    def at(self, radius) -> np.ndarray:
        """V at any radius >= 0, elementwise."""
        return np.interp(radius, self.radius, self.value)


def dual_value(
    points: np.ndarray,
    price: float,
    radius: float,
    *,
    link: Link,
    window: tuple[float, float],
    weights: np.ndarray | None = None,
) -> float:
    r"""E max(f(u), f(a) - price * (u - a)[, f(b) - price * (b - u)]) + price * radius, in nats.

    Every price >= 0 gives an upper bound on the robust value; the least of them is the robust value.

    Args:
        points: (N,) in the gap space, inside the window.
        price: nats per unit of the gap space, >= 0.
        radius, link, window: of the ball.
        weights: (N,) that sum to 1; None: all equal.

    Source: the Lagrangian dual of arXiv:2502.18099, Theorem 3.3; PAPER.md D1. The upper end matters only for a link
        that is not monotone.
    """
    a, b = window
    top_a, top_b = float(link.value(np.float64(a))), float(link.value(np.float64(b)))
    total = 0.0
    for part in blocks(len(points)):
        u = points[part]
        best = np.maximum(link.value(u), top_a - price * (u - a))
        if not link.decreasing:
            best = np.maximum(best, top_b - price * (b - u))
        total += best.sum() / len(points) if weights is None else weights[part] @ best
    return float(total) + price * radius


def certify(worst: WorstCase) -> Certificate:
    """The dual certificate of a worst case, computed from its points, moved shares and price alone."""
    u, down, mass = as_array(worst.points), as_array(worst.moved), as_array(worst.mass)
    (a, b), link = worst.window, worst.link
    up = np.zeros_like(u) if worst.raised is None else as_array(worst.raised)
    top_a, top_b = float(link.value(np.float64(a))), float(link.value(np.float64(b)))
    primal = float(mass @ ((1.0 - down - up) * link.value(u) + down * top_a + up * top_b))
    dual = dual_value(u, float(worst.price), worst.radius, link=link, window=worst.window, weights=mass)
    return Certificate(primal, dual, dual - primal, float(mass @ (down * (u - a) + up * (b - u))))


def value_curve(worst: WorstCase) -> Curve:
    """The robust value at every radius, for the data, link and window of a worst case. O(N log N).

    V is piecewise linear, concave and non-decreasing.

    Source: PAPER.md D1: each gap is a segment of length w_i (u_i - a) and slope (f(a) - f(u_i)) / (u_i - a).
    """
    u, mass = as_array(worst.points), as_array(worst.mass)
    link, (a, b) = worst.link, worst.window
    empirical = float(mass @ link.value(u))
    if link.decreasing:
        order = np.argsort(u, kind="stable")
        cost, gain = (mass * (u - a))[order], (mass * link.drop(a, u))[order].clip(0.0)
    else:
        slopes, cost = segments_of(u, mass, link, (a, b))
        order = np.argsort(-slopes, kind="stable")
        cost, gain = cost[order], (slopes * cost)[order]
    # A segment of length 0 (no weight, or already at the end) is no breakpoint.
    cost, gain = cost[cost > 0], gain[cost > 0]
    return Curve(np.concatenate([[0.0], np.cumsum(cost)]), empirical + np.concatenate([[0.0], np.cumsum(gain)]))
