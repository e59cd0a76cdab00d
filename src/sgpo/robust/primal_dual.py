"""A stochastic primal-dual follower: the price of radius, tracked from minibatches."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.ball import check_radius, prepare, resolve_link
from sgpo.robust.duality import dual_value
from sgpo.robust.exact import solve_exact, worst_case
from sgpo.robust.link import Link, is_tensor


class PriceTracker:
    r"""Tracks the price of radius lambda while gaps arrive in minibatches and, perhaps, drift.

    The follower's dual is  min over lambda >= 0 of  E max(f(u), f(a) - lambda (u - a)) + lambda radius,  convex in one
    number. Each minibatch gives its subgradient, radius - E[(u - a); moved]: raise the price when the batch would
    spend more than the radius, lower it when it would spend less. The first batch's exact price is where it starts and
    sets the scale; steps shrink with the squared subgradients seen (AdaGrad), so that the average price over T
    batches is within O(1/sqrt(T)) of the exact robust value.

    Attributes:
        price: lambda now, nats per unit of the gap space; None before the first batch.
        average_price: mean of the prices played; what the guarantee is about while the gaps do not drift.
        batches: minibatches seen.

    Source: the dual of arXiv:2502.18099, Theorem 3.3, whose authors name primal-dual followers as future work; steps by
    Duchi, Hazan and Singer, JMLR 12 (2011).
    """

    def __init__(
        self,
        radius: float,
        *,
        space: str | None = None,
        window: Sequence[float] | None = None,
        tangents: int | None = None,
        link: Link | str | None = None,
        clip: bool = False,
        memory: float | None = None,
    ) -> None:
        """
        Args:
            radius, space, window, tangents, link, clip: as `worst_case`.
            memory: minibatches after which a subgradient has lost most of its say in the step size; None forgets
                nothing (gaps that do not drift), a number keeps the steps alive.
        Raises: InputError as `worst_case`, and for memory below 1.
        """
        self.radius = check_radius(radius)
        if memory is not None and not (math.isfinite(memory) and memory >= 1):
            raise InputError(f"memory is {memory!r}; allowed: a finite number of minibatches >= 1, or None.")
        self.link, self.window = resolve_link(link, space, tangents, None, window, None)
        if not self.link.decreasing:
            raise InputError(f"link is {self.link.name}, which is not monotone; allowed: a non-increasing link.")
        self.price: float | None = None
        self.average_price = 0.0
        self.batches = 0
        self._clip = clip
        self._keep = 1.0 if memory is None else 1.0 - 1.0 / memory
        self._squares = 0.0
        self._scale = 0.0

    def update(self, gaps: Any) -> float:
        """Sees a minibatch (B,) of gaps in nats, NumPy or tensor, and returns the new price."""
        if is_tensor(gaps):
            gaps = gaps.detach().double().cpu().numpy()
        problem = prepare(gaps, self.radius, link=self.link, window=self.window, clip=self._clip)
        points, a = problem.points, self.window[0]
        if self.price is None:
            self.price = solve_exact(problem).price
            # A first batch that the radius exhausts says nothing of the scale; the steepest price then stands in.
            self._scale = self.price or -float(self.link.slope(np.float64(a)))
        self.batches += 1
        self.average_price += (self.price - self.average_price) / self.batches
        moved = self.link.value(np.float64(a)) - self.price * (points - a) > self.link.value(points)
        subgradient = self.radius - float((moved * (points - a)).mean())
        self._squares = self._keep * self._squares + subgradient**2
        # The radius is the unit of a subgradient; with it the first steps are no larger than the scale.
        unit = math.sqrt(self.radius**2 + self._squares)
        if unit > 0:
            self.price = max(0.0, self.price - 0.5 * self._scale * subgradient / unit)
        return self.price


def price_regret(price: float, gaps: Any, radius: float, **options: Any) -> float:
    """What a price costs: the dual at it minus the exact robust value, in nats; >= 0, and 0 at the exact price.

    Args:
        price: lambda >= 0.
        gaps, radius, **options: as `worst_case`, in NumPy.
    """
    if not (math.isfinite(price) and price >= 0):
        raise InputError(f"price is {price!r}; allowed: a finite number >= 0.")
    problem = prepare(gaps, radius, **options)
    points, radius, link, window, weights = problem
    exact = worst_case(gaps, radius, **options).value
    return dual_value(points, price, radius, link=link, window=window, weights=weights) - exact
