"""Checks of what a caller hands to the follower: each ends in one message that names the argument."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.link import Link, is_tensor, make_link


def check_radius(radius: Any) -> float:
    """The radius as a float: finite and >= 0."""
    try:
        number = float(radius)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"radius is {radius!r}; allowed: a finite number >= 0, in the unit of the gap space.")
    return number


def check_window(window: Sequence[float] | None, space: str) -> tuple[float, float]:
    """The window as two floats a < b; [0, 1] where probability space leaves it out."""
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


def check_gaps(gaps: Any) -> np.ndarray:
    """Gaps as a float64 array (N,), without a copy where they are one already."""
    try:
        array = np.asarray(gaps)
        array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise InputError(f"gaps is a {type(gaps).__name__}; allowed: (N,) finite numbers.") from None
    check_shape(array.shape, "gaps")
    return array


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """One axis, at least one entry."""
    if len(shape) != 1 or shape[0] == 0:
        raise InputError(f"{name} has shape {tuple(shape)}; allowed: one axis (N,) with N >= 1.")


def check_finite(array: np.ndarray, name: str) -> None:
    """Every entry finite."""
    # The extremes of an array are finite exactly where all of it is, and finding them makes no array of N flags.
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


def check_inside(points: np.ndarray, window: tuple[float, float], clip: bool, name: str = "gaps") -> np.ndarray:
    """Points inside the window, clipped to it if asked to; outside and not clipped is an error."""
    a, b = window
    low, high = points.min(), points.max()
    if a <= low and high <= b:
        return points
    if clip:
        return points.clip(a, b)
    row = int(points.argmin() if low < a else points.argmax())
    raise InputError(
        f"{name}[{row}] is {float(points[row])} in the gap space, outside the window [{a}, {b}]; allowed: inside it, "
        "or clip=True to move it to the nearest end."
    )


def resolve_link(
    link: Link | str | None,
    space: str | None,
    tangents: int | None,
    knots: str | None,
    window: Sequence[float] | None,
    gaps: Any,
) -> tuple[Link, tuple[float, float]]:
    """The link that the arguments describe, and its window; the link must be finite at the window's ends."""
    if isinstance(link, Link):
        if space not in (None, link.space):
            raise InputError(f"space is {space!r} with a link on {link.space!r}; allowed: None or {link.space!r}.")
        if tangents is not None or knots is not None:
            raise InputError("tangents or knots with a Link; allowed: None, or tangent_link(link, knots) as the link.")
        bounds = check_window(window, link.space)
    elif link is None or isinstance(link, str):
        space = space or ("probability" if link == "neg_log" else "margin")
        exact = make_link(space, name=link)
        bounds = check_window(window, space)
        link = exact if tangents is None and knots is None else make_link(
            space, tangents, name=link, knots=knots, window=bounds, gaps=gaps if knots == "quantiles" else None
        )  # fmt: skip
    else:
        raise InputError(f"link is {link!r}; allowed: a Link, the name of one, or None.")
    ends = np.asarray(link.value(np.array(bounds)), dtype=np.float64)
    if not np.isfinite(ends).all():
        end = int(np.flatnonzero(~np.isfinite(ends))[0])
        raise InputError(
            f"window is {list(bounds)}, where the link {link.name} is {ends[end]} at {bounds[end]}; allowed: ends with "
            "a finite link value, or tangents >= 1 (a finite under-estimate)."
        )
    return link, bounds


class Problem(NamedTuple):
    """The follower's problem, checked: points (N,) inside the window, radius, link, window, weights (N,) or None."""

    points: np.ndarray
    radius: float
    link: Link
    window: tuple[float, float]
    weights: np.ndarray | None


def prepare(
    gaps: Any,
    radius: float,
    *,
    space: str | None = None,
    window: Sequence[float] | None = None,
    tangents: int | None = None,
    knots: str | None = None,
    link: Link | str | None = None,
    weights: Any = None,
    clip: bool = False,
) -> Problem:
    """Checks the arguments of `worst_case` for NumPy gaps, and takes the gaps to their space."""
    radius = check_radius(radius)
    gaps = check_gaps(gaps)
    check_finite(gaps, "gaps")
    weights = check_weights(weights, len(gaps))
    link, bounds = resolve_link(link, space, tangents, knots, window, gaps)
    points = check_inside(link.to_space(gaps), bounds, clip)
    return Problem(points, radius, link, bounds, weights)
