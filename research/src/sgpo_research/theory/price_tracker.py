"""A stochastic primal-dual follower: the price of radius, tracked from minibatches."""

import math
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.robust import Ball, dual_value
from sgpo.robust.ball import as_ball, check_monotone, prepare
from sgpo.robust.exact import solve_exact
from sgpo.robust.link import as_array, is_tensor


class PriceTracker:
    r"""Tracks the price of radius lambda while gaps arrive in minibatches and may drift.

    The follower's dual is  min over lambda >= 0 of  E max(f(u), f(a) - lambda (u - a)) + lambda radius,  convex in one
    number. Each minibatch gives its subgradient, radius - E[(u - a); moved]: the price rises if the batch would spend
    more than the radius, and falls if it would spend less. The first batch's exact price is the start and the scale;
    steps shrink with the squared subgradients (AdaGrad), so that the average price over T batches is within
    O(1/sqrt(T)) of the exact robust value.

    Args:
        ball, **options: as `worst_case`; "quantiles" knots need all gaps at once.
        memory: minibatches after which a subgradient has lost most of its weight in the step size; None forgets nothing
            (gaps that do not drift), a number keeps the steps large.

    Attributes:
        price: lambda now, nats per unit of the gap space; None before the first batch.
        average_price: mean of the prices used so far; the guarantee is about this one, while the gaps do not drift.
        batches: minibatches seen.

    Raises:
        InputError: as `worst_case`, and for a memory below 1.

    Source: the dual of arXiv:2502.18099, Theorem 3.3, whose authors name primal-dual followers as future work; steps by
        Duchi, Hazan and Singer, JMLR 12 (2011).
    """

    def __init__(self, ball: Ball | float | None = None, *, memory: float | None = None, **options: Any) -> None:
        ball = as_ball(ball, options)
        if memory is not None and not (math.isfinite(memory) and memory >= 1):
            raise InputError(f"memory is {memory!r}; allowed: a finite number of minibatches >= 1, or None.")
        self.radius = ball.radius
        self.link, self.window = ball.resolve()
        check_monotone(self.link)
        self.price: float | None = None
        self.average_price = 0.0
        self.batches = 0
        self._ball = Ball(ball.radius, window=self.window, link=self.link, clip=ball.clip)
        self._keep = 1.0 if memory is None else 1.0 - 1.0 / memory
        self._squares = 0.0
        self._scale = 0.0

    def update(self, gaps: Any) -> float:
        """Takes a minibatch (B,) of gaps in nats, NumPy or tensor, and returns the new price."""
        problem = prepare(as_array(gaps) if is_tensor(gaps) else gaps, self._ball)
        points, a = problem.points, self.window[0]
        if self.price is None:
            self.price = solve_exact(problem).price
            # A first batch that the radius exhausts says nothing about the scale; use the steepest price instead.
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


def price_regret(price: float, gaps: Any, ball: Ball | float | None = None, **options: Any) -> float:
    """The dual at a price minus the exact robust value, in nats; >= 0, and 0 at the exact price.

    Args:
        price: lambda >= 0.
        gaps, ball, **options: as `worst_case`, in NumPy.

    Raises:
        InputError: as `worst_case`, and for a price that is negative or not finite.
    """
    if not (math.isfinite(price) and price >= 0):
        raise InputError(f"price is {price!r}; allowed: a finite number >= 0.")
    problem = prepare(gaps, as_ball(ball, options))
    points, radius, link, window, weights = problem
    bound = dual_value(points, price, radius, link=link, window=window, weights=weights)
    return bound - solve_exact(problem).value
