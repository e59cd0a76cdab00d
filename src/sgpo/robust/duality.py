"""The follower's dual: a bound at every price, and a proof of optimality at the right one."""

from typing import NamedTuple

import numpy as np

from sgpo.robust.link import Link
from sgpo.robust.selection import blocks


class Certificate(NamedTuple):
    """A proof that a worst case is optimal up to `gap`.

    Attributes:
        primal: E[f] under the law that the moved shares describe, in nats.
        dual: E max(f(u), f(a) - price * (u - a)) + price * radius, an upper bound on every law in the ball, in nats.
        gap: dual - primal; at the optimum zero but for rounding.
        transport: the Wasserstein-1 cost of the law, to be compared with the radius.
    """

    primal: float
    dual: float
    gap: float
    transport: float


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


def certify(worst) -> Certificate:
    """The certificate of a `WorstCase`, computed afresh from its points, moved shares and price."""
    u, down, mass, up = (
        None if x is None else np.asarray(x.cpu() if hasattr(x, "cpu") else x, dtype=np.float64)
        for x in (worst.points, worst.moved, worst.mass, worst.raised)
    )
    (a, b), link = worst.window, worst.link
    up = np.zeros_like(u) if up is None else up
    top_a, top_b = float(link.value(np.float64(a))), float(link.value(np.float64(b)))
    primal = float(mass @ ((1.0 - down - up) * link.value(u) + down * top_a + up * top_b))
    dual = dual_value(u, float(worst.price), worst.radius, link=link, window=worst.window, weights=mass)
    return Certificate(primal, dual, dual - primal, float(mass @ (down * (u - a) + up * (b - u))))
