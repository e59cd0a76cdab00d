"""The follower's error budget: what a surrogate link and a split into groups each cost."""

from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.ball import check_window, prepare
from sgpo.robust.exact import solve_exact
from sgpo.robust.grouping import solve_groups, split_groups
from sgpo.robust.link import Link, TangentLink


def surrogate_gap(link: Link, window: tuple[float, float] | None = None) -> float:
    r"""delta_K: the most by which a tangent link lies below its base on the window, in nats.

    Exact: between two kinks the difference is convex, so its maximum sits at a kink or at an end of the window. The
    robust value of the surrogate is at most delta_K below the exact link's, whatever the data. Infinite where the base
    is (-log p on a window that starts at 0), as the exact robust value then is for any radius > 0.

    Args:
        link: a tangent link, see `make_link` and `tangent_link`.
        window: [a, b] in the gap space; [0, 1] by default in probability space.
    Raises: InputError for another kind of link, or a bad window.
    Source: arXiv:2502.18099, the error budget of the surrogate (delta_K).
    """
    if not isinstance(link, TangentLink):
        raise InputError(f"link is {link!r}; allowed: a link of tangents (make_link with tangents >= 1).")
    a, b = check_window(window, link.space)
    inside = link.kinks[(link.kinks > a) & (link.kinks < b)]
    places = np.concatenate([[a, b], inside])
    return float(np.max(link.base.value(places) - link.value(places)).clip(0.0))


def grouping_gap(
    gaps: Any, radius: float, *, group_size: int, grouping: str = "random", seed: int = 0, **options: Any
) -> float:
    """How far the groups' worst case stays below the worst case of all gaps at once, in nats; >= 0.

    Args:
        gaps, radius, **options: as `worst_case`, in NumPy.
        group_size, grouping, seed: as `split_groups`.
    Raises: InputError as these do.
    Source: arXiv:2502.18099, the error budget of grouping: each group spends the whole radius inside itself, so the
        groups together search a part of the ball.
    """
    problem = prepare(gaps, radius, **options)
    groups = split_groups(problem.points, group_size, grouping=grouping, seed=seed)
    grouped = solve_groups(problem, groups, solve_exact)
    return max(solve_exact(problem).value - grouped.value, 0.0)
