r"""Links: convex functions f of a preference gap, as values, slopes and differences.

A gap lives in one of two spaces: "margin" (the beta-scaled reward difference xi itself, in nats) or "probability"
(p = sigma(xi)). Every method takes NumPy or PyTorch and returns the same kind.

Source: arXiv:2502.18099, Section 3 (the loss) and Theorem 3.3 (its tangents); PAPER.md D1, D4.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sgpo.choices import Knots, LinkName, Space, check_choice
from sgpo.errors import InputError

_LOOP_PIECES = 32


def is_tensor(x: Any) -> bool:
    """Whether x is a PyTorch tensor; does not import PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def namespace(x: Any) -> Any:
    """The module, `numpy` or `torch`, that computes on x."""
    return sys.modules["torch"] if is_tensor(x) else np


def as_float(x: Any) -> Any:
    """x as floats: a tensor as it is, anything else as a NumPy array or scalar."""
    if is_tensor(x):
        return x
    x = np.asarray(x)
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)


def as_array(x: Any) -> np.ndarray:
    """A tensor, or anything that NumPy takes, as a float64 array on the host."""
    return np.asarray(x.detach().double().cpu().numpy() if is_tensor(x) else x, dtype=np.float64)


def sigmoid(x: Any) -> Any:
    r"""sigma(x), elementwise; its gradient keeps sigma(-x), however close to 1 sigma(x) is."""
    if is_tensor(x):
        from sgpo.robust.sigmoid import torch_sigmoid

        return torch_sigmoid(x)
    x = as_float(x)
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


@dataclass(frozen=True, eq=False, repr=False)
class Link:
    """A convex function f on a gap space.

    Attributes:
        name: for messages.
        space: "margin" or "probability", the space of its argument u.
        decreasing: whether f never rises; a worst case then moves mass to the window's lower end only.
    """

    name: str
    space: str
    decreasing: bool = True

    def to_space(self, gaps: Any) -> Any:
        """Beta-scaled reward differences (nats, any shape) to points of the gap space: identity or sigmoid."""
        return gaps if self.space == "margin" else sigmoid(gaps)

    def value(self, u: Any) -> Any:
        """f(u) in nats, elementwise."""
        raise NotImplementedError

    def slope(self, u: Any) -> Any:
        """f'(u), elementwise; at a kink the slope to its right."""
        raise NotImplementedError

    def drop(self, lower: float, u: Any) -> Any:
        """f(lower) - f(u) for u >= lower, elementwise, without cancellation where u is close to lower."""
        u, end = as_float(u), _like(lower, as_float(u))
        xp, distance, difference = namespace(u), u - lower, self.value(end) - self.value(u)
        # Convexity bounds it by the slopes at its two ends; rounding does not.
        return xp.minimum(xp.maximum(difference, -self.slope(u) * distance), -self.slope(end) * distance)

    def __repr__(self) -> str:
        return f"Link({self.name}, space={self.space!r})"


def _like(number: float, u: Any) -> Any:
    if is_tensor(u):
        return sys.modules["torch"].as_tensor(number, dtype=u.dtype, device=u.device)
    return np.float64(number)


class _Logistic(Link):
    """-log sigma(xi)."""

    def value(self, u):
        if is_tensor(u):
            return -sys.modules["torch"].nn.functional.logsigmoid(u)
        u = as_float(u)
        # The same number as numpy.logaddexp(0, -u) to rounding, from ufuncs that run in vector registers.
        return np.maximum(-u, 0.0) + np.log1p(np.exp(-np.abs(u)))

    def slope(self, u):
        return -sigmoid(-as_float(u))

    def drop(self, lower, u):
        xp, u = namespace(u), as_float(u)
        distance = u - lower
        near = xp.log1p(sigmoid(-u) * xp.expm1(xp.clip(distance, -1.0, 1.0)))
        return xp.where(abs(distance) <= 1.0, near, self.value(_like(lower, u)) - self.value(u))


class _NegLog(Link):
    """-log p."""

    def value(self, u):
        if is_tensor(u):
            return -u.log()
        with np.errstate(divide="ignore"):
            return -np.log(as_float(u))

    def slope(self, u):
        with np.errstate(divide="ignore", over="ignore"):
            return -1.0 / as_float(u)

    def drop(self, lower, u):
        xp, u = namespace(u), as_float(u)
        if lower < 1e-300:
            return self.value(_like(lower, u)) - self.value(u)
        # log1p near the window's end; elsewhere the difference has all its digits.
        near = xp.log1p((xp.clip(u, 0.5 * lower, 2.0 * lower) - lower) / lower)
        return xp.where(u <= 2.0 * lower, near, self.value(_like(lower, u)) - self.value(u))


class _Hinge(Link):
    """max(0, 1 - xi)."""

    def value(self, u):
        u = as_float(u)
        return (1.0 - u).clip(0.0)

    def slope(self, u):
        xp, u = namespace(u), as_float(u)
        return xp.where(u < 1.0, -xp.ones_like(u), xp.zeros_like(u))


class _Exponential(Link):
    """exp(-xi)."""

    def value(self, u):
        if is_tensor(u):
            return (-u).exp()
        with np.errstate(over="ignore"):
            return np.exp(-as_float(u))

    def slope(self, u):
        return -self.value(u)

    def drop(self, lower, u):
        xp, u = namespace(u), as_float(u)
        return -self.value(_like(lower, u)) * xp.expm1(lower - u)


LINKS: dict[str, Link] = {
    "logistic": _Logistic("-log sigma", "margin"),
    "neg_log": _NegLog("-log p", "probability"),
    "hinge": _Hinge("hinge", "margin"),
    "exponential": _Exponential("exponential", "margin"),
}


@dataclass(frozen=True, eq=False, repr=False)
class ConvexLink(Link):
    """A custom link. It must be convex on the window; this is not checked.

    Attributes:
        value_fn, slope_fn: f and f', elementwise on whatever array kind they are called with.
    """

    value_fn: Callable[[Any], Any] = field(kw_only=True)
    slope_fn: Callable[[Any], Any] = field(kw_only=True)

    def value(self, u):
        return self.value_fn(as_float(u))

    def slope(self, u):
        return self.slope_fn(as_float(u))


@dataclass(frozen=True, eq=False, repr=False)
class TangentLink(Link):
    """The maximum of K tangents of a link: an under-estimate that equals it at the knots.

    Attributes:
        base: the link that it approximates.
        knots: (K,) where it touches, ascending.
        slopes, intercepts: (K,) the pieces l_k(u) = slopes[k] * u + intercepts[k], slopes ascending.
        kinks: (K-1,) where piece k ends and piece k + 1 begins.
    """

    base: Link = field(kw_only=True)
    knots: np.ndarray = field(kw_only=True)
    slopes: np.ndarray = field(kw_only=True)
    intercepts: np.ndarray = field(kw_only=True)
    kinks: np.ndarray = field(kw_only=True)

    def piece(self, u: Any) -> np.ndarray:
        """Index k of the active piece at each u, (N,) int."""
        return np.searchsorted(self.kinks, np.asarray(u, dtype=np.float64), side="right")

    def value(self, u):
        u, xp = as_float(u), namespace(u)
        if len(self.slopes) > _LOOP_PIECES:
            return self._gather(self.slopes, u) * u + self._gather(self.intercepts, u)
        pieces = zip(self.slopes.tolist(), self.intercepts.tolist(), strict=True)
        slope, intercept = next(pieces)
        best = u * slope + intercept
        for slope, intercept in pieces:
            best = xp.maximum(best, u * slope + intercept)
        return best

    def slope(self, u):
        return self._gather(self.slopes, as_float(u))

    def _gather(self, table: np.ndarray, u: Any) -> Any:
        if not is_tensor(u):
            return table[self.piece(u)]
        torch = sys.modules["torch"]
        kinks = torch.as_tensor(self.kinks, dtype=u.dtype, device=u.device)
        return torch.as_tensor(table, dtype=u.dtype, device=u.device)[torch.bucketize(u.detach(), kinks, right=True)]


def tangent_link(base: Link, knots: Any) -> TangentLink:
    r"""The surrogate max_k l_k, l_k the tangent of `base` at knots[k].

    Args:
        base: the link to approximate from below.
        knots: (K,) points of the gap space, finite, where `base` has a finite value and slope.

    Raises:
        InputError: knots that are empty or where the link is not finite.

    Source: arXiv:2502.18099, Theorem 3.3; with knots k/K of -log p, Section 4's l_k(p) = -(K/k)(p - k/K) - log(k/K).
    """
    knots = np.unique(np.asarray(knots, dtype=np.float64).ravel())
    if knots.size == 0:
        raise InputError("knots is empty; allowed: at least one point of the gap space.")
    value, slope = np.asarray(base.value(knots), float), np.asarray(base.slope(knots), float)
    bad = ~(np.isfinite(knots) & np.isfinite(value) & np.isfinite(slope))
    if bad.any():
        raise InputError(f"knots holds {knots[bad][0]}, where {base.name} is not finite; allowed: finite tangents.")
    intercept = value - slope * knots
    slopes, first = np.unique(slope, return_index=True)
    # Equal slopes are one line up to rounding; the higher one is the tighter under-estimate.
    intercepts = np.maximum.reduceat(
        intercept[np.argsort(slope, kind="stable")], np.searchsorted(np.sort(slope), slopes)
    )
    # A piece ends between its own knot and the next one, even where rounding disturbs slopes that nearly agree.
    kinks = np.clip((intercepts[:-1] - intercepts[1:]) / np.diff(slopes), knots[first][:-1], knots[first][1:])
    name = f"{len(slopes)} tangents of {base.name}"
    return TangentLink(
        name, base.space, base.decreasing, base=base, knots=knots[np.sort(first)], slopes=slopes, intercepts=intercepts,
        kinks=kinks,
    )  # fmt: skip


def _place_knots(rule: Knots, tangents: int, window: Sequence[float] | None, points: Any) -> np.ndarray:
    """(K,) ascending, from the window [a, b] or (N,) points of the gap space."""
    check_choice("knots", rule, Knots)
    if isinstance(tangents, bool) or not isinstance(tangents, int | np.integer) or tangents < 1:
        raise InputError(f"tangents is {tangents!r}; allowed: an integer >= 1, or None for the exact link.")
    if rule == "paper":
        return np.arange(1, tangents + 1) / tangents
    if rule == "equispaced":
        if window is None:
            raise InputError("window is None with tangents in margin space; allowed: [a, b], where the knots go.")
        a, b = window
        return np.linspace(a, b, tangents) if tangents > 1 else np.array([a + 0.5 * (b - a)])
    if points is None:
        raise InputError("gaps is None with knots='quantiles'; allowed: the gaps whose quantiles carry the knots.")
    return np.quantile(np.asarray(points, dtype=np.float64), (np.arange(tangents) + 0.5) / tangents)


def make_link(
    space: Space = "margin",
    tangents: int | None = None,
    *,
    name: LinkName | None = None,
    knots: Knots | None = None,
    window: Sequence[float] | None = None,
    gaps: Any = None,
) -> Link:
    r"""A built-in link, exact or as its tangents.

    Args:
        space: "margin" or "probability".
        tangents: K tangents instead of the exact link; None takes the exact one.
        name: "logistic" (-log sigma, margin; its default), "neg_log" (-log p, probability; its default), "hinge" or
            "exponential" (margin).
        knots: where the tangents touch: "equispaced" over the window, ends included (one knot: its middle), "quantiles"
            (the (k - 1/2)/K quantiles of the gaps) or "paper" (k/K, k = 1..K, on [0, 1]); default "paper" in
            probability space, else "equispaced".
        window: [a, b], for equispaced knots.
        gaps: (N,) beta-scaled reward differences (nats), for knots at their quantiles.

    Raises:
        InputError: an unknown name, rule or combination.

    Source: arXiv:2502.18099, Theorem 3.3 and Section 4; PAPER.md D4.
    """
    check_choice("space", space, Space)
    name = name or ("logistic" if space == "margin" else "neg_log")
    if name not in LINKS or LINKS[name].space != space:
        fitting = [key for key, link in LINKS.items() if link.space == space]
        raise InputError(f"link is {name!r} with space={space!r}; allowed: {', '.join(map(repr, fitting))}, or a Link.")
    link = LINKS[name]
    if tangents is None:
        if knots is not None:
            raise InputError(f"knots is {knots!r} without tangents; allowed: None, or tangents >= 1.")
        return link
    rule = knots or ("paper" if space == "probability" else "equispaced")
    if rule == "paper" and space == "margin":
        raise InputError("knots is 'paper' (k/K) in margin space; allowed: 'equispaced' or 'quantiles'.")
    points = None if gaps is None else link.to_space(as_float(gaps.detach().cpu().numpy() if is_tensor(gaps) else gaps))
    if window is None and space == "probability":
        window = (0.0, 1.0)
    return tangent_link(link, _place_knots(rule, tangents, window, points))
