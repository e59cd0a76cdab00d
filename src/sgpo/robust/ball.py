"""The follower's options as one record, and the checks of everything that a caller passes to the follower."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sgpo.choices import Knots, LinkName, Space
from sgpo.errors import InputError
from sgpo.robust.link import Link, is_tensor, make_link

_CLIP = "clip=True to move it to the nearest end"


@dataclass(frozen=True)
class Ball:
    """A Wasserstein-1 ball of preference gaps, and the loss whose mean the follower maximises in it.

    Attributes:
        radius: in the unit of the gap space; >= 0.
        space: "margin" (the gap, in nats) or "probability" (its sigmoid); None: the link's, or "margin".
        window: (a, b), the support of every law in the ball, in the unit of the gap space. Required in margin space;
            None is [0, 1] in probability space.
        tangents: K tangents instead of the exact link; None: the exact link.
        knots: where the tangents touch: "equispaced", "quantiles" or "paper", see `sgpo.robust.link.make_link`.
        link: a `Link`, its name ("logistic", "neg_log", "hinge", "exponential"), or None for the loss of the space.
        clip: move gaps outside the window to its nearest end instead of raising.

    Raises:
        InputError: a radius that is negative or not finite.
    """

    radius: float
    space: Space | None = None
    window: Sequence[float] | None = None
    tangents: int | None = None
    knots: Knots | None = None
    link: Link | LinkName | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        try:
            number = float(self.radius)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise InputError(f"radius is {self.radius!r}; allowed: a finite number >= 0, in the unit of the gap space.")
        object.__setattr__(self, "radius", number)

    def resolve(self, gaps: Any = None) -> tuple[Link, tuple[float, float]]:
        """The link f and the window [a, b]; f is finite at both ends. `gaps` are (N,) in nats, for knots at their
        quantiles. InputError: options that contradict each other, or an end of the window where the link is
        infinite."""
        link, window = self._link_and_window(gaps)
        ends = np.asarray(link.value(np.array(window)), dtype=np.float64)
        if not np.isfinite(ends).all():
            end = int(np.flatnonzero(~np.isfinite(ends))[0])
            raise InputError(
                f"window is {list(window)}, where the link {link.name} is {ends[end]} at {window[end]}; allowed: ends "
                "with a finite link value, or tangents >= 1 (a finite under-estimate)."
            )
        return link, window

    def _link_and_window(self, gaps: Any) -> tuple[Link, tuple[float, float]]:
        link, space = self.link, self.space
        if isinstance(link, Link):
            if space not in (None, link.space):
                raise InputError(f"space is {space!r} with a link on {link.space!r}; allowed: None or {link.space!r}.")
            if self.tangents is not None or self.knots is not None:
                raise InputError(
                    "tangents or knots with a Link; allowed: None, or tangent_link(link, knots) as the link."
                )
            return link, check_window(self.window, link.space)
        if link is not None and not isinstance(link, str):
            raise InputError(f"link is {link!r}; allowed: a Link, the name of one, or None.")
        space = space or ("probability" if link == "neg_log" else "margin")
        exact = make_link(space, name=link)
        window = check_window(self.window, space)
        if self.tangents is None and self.knots is None:
            return exact, window
        gaps = gaps if self.knots == "quantiles" else None
        return make_link(space, self.tangents, name=link, knots=self.knots, window=window, gaps=gaps), window


def as_ball(ball: "Ball | float | None", options: dict[str, Any]) -> Ball:
    """A ball from a `Ball`, whose fields the options replace, or from a radius and the other fields."""
    names = Ball.__dataclass_fields__
    if unknown := [name for name in options if name not in names]:
        raise InputError(f"{unknown[0]} is no option of a ball; allowed: {', '.join(names)}.")
    if isinstance(ball, Ball):
        return replace(ball, **options) if options else ball
    return Ball(**options) if ball is None else Ball(ball, **options)


def check_window(window: Sequence[float] | None, space: str) -> tuple[float, float]:
    """The window as two floats a < b; None is [0, 1] in probability space."""
    if window is None:
        if space == "probability":
            return 0.0, 1.0
        raise InputError(
            "window is None in margin space; allowed: [a, b] in nats, with every gap inside. Without one the worst "
            "case is the mean loss plus the radius, and the game is DPO (PAPER.md D2)."
        )
    try:
        a, b = (float(end) for end in window)
    except (TypeError, ValueError):
        raise InputError(f"window is {window!r}; allowed: two numbers [a, b] with a < b.") from None
    if not (a < b and math.isfinite(b - a)):
        raise InputError(f"window is {window!r}; allowed: [a, b] with a < b, both and b - a finite.")
    if space == "probability" and not (a >= 0 and b <= 1):
        raise InputError(f"window is {window!r} in probability space; allowed: within [0, 1].")
    return a, b


def check_gaps(gaps: Any, name: str = "gaps") -> np.ndarray:
    """(N,) finite float64 with N >= 1, without a copy where it is one already; an InputError names the argument and the
    entry that is not."""
    try:
        array = np.asarray(gaps, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is a {type(gaps).__name__}; allowed: (N,) finite numbers.") from None
    check_shape(array.shape, name)
    check_finite(array, name)
    return array


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """One axis with at least one entry."""
    if len(shape) != 1 or shape[0] == 0:
        raise InputError(f"{name} has shape {tuple(shape)}; allowed: one axis (N,) with N >= 1.")


def check_finite(array: np.ndarray, name: str) -> None:
    """Every entry finite."""
    # An array is finite exactly where its extremes are, and finding them allocates no array of N flags.
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"{name}[{row}] is {array[row]}; allowed: finite numbers.")


def check_weights(weights: Any, count: int) -> np.ndarray | None:
    """Sample weights as (N,) float64 that sum to one; None stays None (all equal)."""
    if weights is None:
        return None
    try:
        array = np.asarray(weights.detach().cpu() if is_tensor(weights) else weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"weights is a {type(weights).__name__}; allowed: (N,) numbers >= 0.") from None
    if array.shape != (count,):
        raise InputError(f"weights has shape {array.shape}; allowed: ({count},), one weight per gap.")
    check_finite(array, "weights")
    if (array < 0).any():
        row = int(np.flatnonzero(array < 0)[0])
        raise InputError(f"weights[{row}] is {array[row]}; allowed: numbers >= 0.")
    largest = array.max()
    if largest == 0:
        raise InputError("weights sum to 0; allowed: at least one weight above 0.")
    array = array / largest
    return array / array.sum()


def check_inside(
    points: np.ndarray, window: tuple[float, float], clip: bool, name: str = "gaps", otherwise: str = _CLIP
) -> np.ndarray:
    """Points inside the window; those outside are clipped to it, or raise, and `otherwise` ends the message."""
    a, b = window
    low, high = points.min(), points.max()
    if a <= low and high <= b:
        return points
    if clip:
        return points.clip(a, b)
    row = int(points.argmin() if low < a else points.argmax())
    raise InputError(
        f"{name}[{row}] is {float(points[row])} in the gap space, outside the window [{a}, {b}]; allowed: inside it, "
        f"or {otherwise}."
    )


def check_monotone(link: Link) -> None:
    """Raises InputError for a link that may rise: its mass may also go to the window's upper end."""
    if not link.decreasing:
        raise InputError(f"link is {link.name}, which is not monotone; allowed: a non-increasing link.")


class Problem(NamedTuple):
    """The follower's problem, checked: points (N,) inside the window, radius, link, window, weights (N,) or None."""

    points: np.ndarray
    radius: float
    link: Link
    window: tuple[float, float]
    weights: np.ndarray | None

    @property
    def mass(self) -> np.ndarray:
        """(N,) mass of each point."""
        return np.full(len(self.points), 1.0 / len(self.points)) if self.weights is None else self.weights


def prepare(gaps: Any, ball: Ball, weights: Any = None) -> Problem:
    """Checks NumPy gaps (N,) in nats and sample weights against a ball, and maps the gaps to its space."""
    gaps = check_gaps(gaps)
    weights = check_weights(weights, len(gaps))
    link, window = ball.resolve(gaps)
    return Problem(check_inside(link.to_space(gaps), window, ball.clip), ball.radius, link, window, weights)
