"""The robust value as a function of the radius: piecewise linear, concave, non-decreasing."""

from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Breakpoints of V: radius (M,) ascending from 0, value (M,) in nats; flat beyond the last."""

    radius: np.ndarray
    value: np.ndarray

    def at(self, radius) -> np.ndarray:
        """V at any radius >= 0, elementwise."""
        return np.interp(radius, self.radius, self.value)


def value_curve(worst) -> Curve:
    """The curve through a `WorstCase`, for its data, link and window. O(N log N).

    Source: PAPER.md D1: each gap is a segment of length w_i (u_i - a) and slope (f(a) - f(u_i)) / (u_i - a).
    """
    from sgpo.robust.two_sided import segments_of

    u, mass = (np.asarray(x.cpu() if hasattr(x, "cpu") else x, dtype=np.float64) for x in (worst.points, worst.mass))
    link, (a, b) = worst.link, worst.window
    empirical = float(mass @ link.value(u))
    if link.decreasing:
        order = np.argsort(u, kind="stable")
        cost, gain = (mass * (u - a))[order], (mass * link.drop(a, u))[order].clip(0.0)
    else:
        slopes, cost = segments_of(u, mass, link, (a, b))
        order = np.argsort(-slopes, kind="stable")
        cost, gain = cost[order], (slopes * cost)[order]
    # A segment without length (no weight, or at the end already) is no breakpoint.
    cost, gain = cost[cost > 0], gain[cost > 0]
    return Curve(np.concatenate([[0.0], np.cumsum(cost)]), empirical + np.concatenate([[0.0], np.cumsum(gain)]))
