"""The paper's follower beside the exact one: what its tangents and its groups cost, and its variables."""

from typing import Any, NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.robust import Ball, Link, TangentLink, WorstCase
from sgpo.robust.ball import as_ball, check_monotone, check_window, prepare
from sgpo.robust.exact import solve_exact
from sgpo.robust.link import as_array
from sgpo.robust.paper import solve_groups, split_groups


class Transport(NamedTuple):
    """Theorem 3.3's variables: mass s (N, K), whose rows sum to 1, and displacement q (N, K) in the gap space.

    Mass s[i, k] of gap i sits at u_i - q[i, k] / s[i, k], where piece k is active.
    """

    mass: np.ndarray
    displacement: np.ndarray


def surrogate_gap(link: Link, window: tuple[float, float] | None = None) -> float:
    r"""delta_K: the most by which a tangent link lies below its base on the window, in nats.

    Exact: between two kinks the difference is convex, so that its maximum is at a kink or at an end of the window. The
    robust value of the surrogate is at most delta_K below the exact link's for any data. Infinite for -log p on a
    window that starts at 0, as the exact robust value is for any radius > 0.

    Args:
        link: a tangent link, see `make_link` and `tangent_link`.
        window: [a, b] in the gap space; defaults to [0, 1] in probability space.

    Raises:
        InputError: another kind of link, or a bad window.

    Source: arXiv:2502.18099, the error budget of the surrogate (delta_K).
    """
    if not isinstance(link, TangentLink):
        raise InputError(f"link is {link!r}; allowed: a link of tangents (make_link with tangents >= 1).")
    a, b = check_window(window, link.space)
    inside = link.kinks[(link.kinks > a) & (link.kinks < b)]
    places = np.concatenate([[a, b], inside])
    return float(np.max(link.base.value(places) - link.value(places)).clip(0.0))


def grouping_gap(
    gaps: Any,
    ball: Ball | float | None = None,
    *,
    group_size: int,
    seed: int = 0,
    **options: Any,
) -> float:
    """How far the groups' worst case stays below the worst case of all gaps at once, in nats; >= 0.

    Args:
        gaps, ball, **options: as `worst_case`, in NumPy.
        group_size, seed: of the groups, see `split_groups`.

    Raises:
        InputError: as these do.

    Source: arXiv:2502.18099, the error budget of grouping: each group spends the whole radius inside itself, so that
        together they search only a part of the ball.
    """
    problem = prepare(gaps, as_ball(ball, options))
    groups = split_groups(len(problem.points), group_size, seed=seed)
    return max(solve_exact(problem).value - solve_groups(problem, groups, solve_exact).value, 0.0)


def paper_variables(worst: WorstCase) -> Transport:
    """(s, q) of a worst case, in NumPy.

    With a tangent link the columns are its K pieces. For any other link the program has no pieces; the columns are then
    the mass that stays and the mass that moves.

    Raises:
        InputError: a link that is not monotone.

    Source: arXiv:2502.18099, Theorem 3.3.
    """
    link, (a, _) = worst.link, worst.window
    check_monotone(link)
    u, moved = as_array(worst.points), as_array(worst.moved)
    if isinstance(link, TangentLink):
        stay, go, pieces = link.piece(u), int(link.piece(a)), len(link.slopes)
    else:
        stay, go, pieces = np.zeros(len(u), dtype=int), 1, 2
    rows = np.arange(len(u))
    mass, displacement = np.zeros((len(u), pieces)), np.zeros((len(u), pieces))
    np.add.at(mass, (rows, stay), 1.0 - moved)
    mass[:, go] += moved
    displacement[:, go] = moved * (u - a)
    return Transport(mass, displacement)
