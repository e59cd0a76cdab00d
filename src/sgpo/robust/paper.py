r"""The follower as the paper states it: the program of Theorem 3.3, by HiGHS, by SLSQP, and in groups.

References for the exact follower, and a way to reproduce the paper. For every point i and piece k of a piecewise
linear link, a mass s_ik >= 0 and a displacement q_ik:

    max  sum_i w_i sum_k (s_ik * l_k(u_i) - slope_k * q_ik)
    s.t. sum_k s_ik = 1,   sum_i w_i sum_k |q_ik| <= radius,   a * s_ik <= u_i * s_ik - q_ik <= b * s_ik.

The objective is the paper's s_ik * l_k(u_i - q_ik / s_ik), which is linear because the pieces are. q is the difference
of a downward and an upward part, both >= 0; a non-increasing link needs the downward part alone.

Source: arXiv:2502.18099, Theorem 3.3 and Section 4; PAPER.md D1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.sparse import csr_array, diags_array, eye_array, hstack, kron, vstack

from sgpo.choices import Solver, check_choice
from sgpo.errors import InputError
from sgpo.robust.ball import Ball, Problem, as_ball, prepare
from sgpo.robust.exact import solve_exact, worst_case
from sgpo.robust.link import LINKS, Link, TangentLink, is_tensor
from sgpo.robust.solution import WorstCase


def solve_worst_case(
    gaps: Any,
    ball: Ball | float | None = None,
    *,
    solver: Solver = "exact",
    group_size: int | None = None,
    seed: int = 0,
    weights: Any = None,
    **options: Any,
) -> WorstCase:
    """The follower by a named solver, for all gaps at once or in groups.

    Args:
        gaps, ball, weights, **options: as `worst_case`; NumPy, unless the solver is "exact" without groups.
        solver: "exact" (any link), "highs" or "slsqp" (piecewise linear links: tangents, or "hinge").
        group_size: G, each group is solved separately with the whole radius (the paper: 100); None: one group.
        seed: of the random groups.

    Returns: WorstCase. From "highs" and "slsqp" `value` is what the solver reached, `price` its multiplier of the
        radius, and `moved` each gap's displacement as a share of its way to the window's end, so that `atoms` is the
        extreme law of the same cost. For groups see `solve_groups`.

    Raises:
        InputError: as `worst_case`, and for an unknown solver or a link that is not piecewise linear.
        RuntimeError: the solver does not converge.

    Source: arXiv:2502.18099, Theorem 3.3 and Section 4.
    """
    check_choice("solver", solver, Solver)
    ball = as_ball(ball, options)
    if solver == "exact" and group_size is None:
        return worst_case(gaps, ball, weights=weights)
    if is_tensor(gaps):
        raise InputError(
            f"gaps is a Tensor with solver={solver!r} and group_size={group_size}; allowed: a NumPy array, or the "
            "exact solver without groups."
        )
    problem = prepare(gaps, ball, weights)
    solve = {"exact": solve_exact, "highs": solve_highs, "slsqp": solve_slsqp}[solver]
    if group_size is None:
        return solve(problem)
    return solve_groups(problem, split_groups(len(problem.points), group_size, seed=seed), solve)


def split_groups(count: int, group_size: int, *, seed: int = 0) -> list[np.ndarray]:
    """Indices of random groups of `group_size` of `count` pairs; the last group may be smaller, and a size below 1 is
    an InputError. Source: arXiv:2502.18099, Section 4 (G = 100)."""
    if isinstance(group_size, bool) or not isinstance(group_size, int | np.integer) or group_size < 1:
        raise InputError(f"group_size is {group_size!r}; allowed: an integer >= 1, or None for one group.")
    order = np.random.default_rng(seed).permutation(count)
    return [order[start : start + group_size] for start in range(0, count, group_size)]


def solve_groups(problem: Problem, groups: list[np.ndarray], solve: Callable[[Problem], WorstCase]) -> WorstCase:
    """The laws of groups that are solved separately, each with the whole radius, as one record: its numbers are means
    by mass, `marginal` and `full_radius` the groups' largest. A group without mass stays as it is."""
    points, weights = problem.points, problem.weights
    moved = np.zeros(len(points))
    raised = None if problem.link.decreasing else np.zeros(len(points))
    solved, masses = [], []
    for group in groups:
        mass = len(group) / len(points) if weights is None else float(weights[group].sum())
        if mass == 0:
            continue
        part = problem._replace(points=points[group], weights=None if weights is None else weights[group] / mass)
        answer = solve(part)
        moved[group] = answer.moved
        if raised is not None:
            raised[group] = answer.raised
        solved.append(answer)
        masses.append(mass)

    means = ("value", "empirical_value", "price", "moved_share")
    numbers = {name: float(np.dot(masses, [getattr(one, name) for one in solved])) for name in means}
    numbers |= {name: max(getattr(one, name) for one in solved) for name in ("marginal", "full_radius")}
    return WorstCase.of(problem, moved=moved, raised=raised, **numbers)


def link_pieces(link: Link) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts, (K,) each, of a piecewise linear link; InputError for another one."""
    if isinstance(link, TangentLink):
        return link.slopes, link.intercepts
    if link is LINKS["hinge"]:
        return np.array([-1.0, 0.0]), np.array([1.0, 0.0])
    raise InputError(
        f"link is {link.name}, which is not piecewise linear, with a solver of Theorem 3.3; allowed: tangents >= 1, "
        "the hinge, or solver='exact'."
    )


class _Program(NamedTuple):
    """max objective @ x s.t. sums @ x = 1, limits @ x <= bounds (last row: the radius), x >= 0, with x = (s, down[,
    up]), each (N * K,)."""

    objective: np.ndarray
    sums: csr_array
    limits: csr_array
    bounds: np.ndarray


def _program(problem: Problem) -> _Program:
    u, (a, b) = problem.points, problem.window
    slopes, intercepts = link_pieces(problem.link)
    count, pieces = len(u), len(slopes)
    mass = problem.mass
    each = np.ones(pieces)
    value = (mass[:, None] * (u[:, None] * slopes + intercepts)).ravel()
    rise = (mass[:, None] * slopes).ravel()
    spend = np.kron(mass, each)
    ways = 1 if problem.link.decreasing else 2
    same = eye_array(count * pieces)
    to_lower = diags_array(np.kron(u - a, each))
    to_upper = diags_array(np.kron(b - u, each))
    rows = [hstack([-to_lower, same, *[-same] * (ways - 1)])]
    if ways == 2:
        rows.append(hstack([-to_upper, -same, same]))
    rows.append(csr_array(np.concatenate([np.zeros_like(spend), *[spend] * ways])[None]))
    limits = csr_array(vstack(rows))
    bounds = np.zeros(limits.shape[0])
    bounds[-1] = problem.radius
    sums = csr_array(hstack([kron(eye_array(count), each[None]), *[csr_array((count, count * pieces))] * ways]))
    return _Program(np.concatenate([value, -rise, *[rise] * (ways - 1)]), sums, limits, bounds)


def solve_highs(problem: Problem) -> WorstCase:
    """The linear program of Theorem 3.3 by SciPy's HiGHS, with sparse constraints; RuntimeError without an optimum."""
    program = _program(problem)
    solved = linprog(
        -program.objective,
        A_ub=program.limits,
        b_ub=program.bounds,
        A_eq=program.sums,
        b_eq=np.ones(program.sums.shape[0]),
        method="highs",
    )
    if solved.status != 0:
        raise RuntimeError(f"HiGHS did not solve the follower's program: {solved.message}")
    return _record(problem, solved.x, -solved.fun, -solved.ineqlin.marginals[-1])


def solve_slsqp(problem: Problem) -> WorstCase:
    """The program of Theorem 3.3 by SciPy's SLSQP, as the paper solves it: dense, and slow beyond a hundred points;
    RuntimeError if it does not converge."""
    program = _program(problem)
    sums, limits, bounds = program.sums.toarray(), program.limits.toarray(), program.bounds
    count, pieces = len(problem.points), len(link_pieces(problem.link)[0])
    start = np.concatenate([np.full(count * pieces, 1.0 / pieces), np.zeros(limits.shape[1] - count * pieces)])
    # 0 <= q <= (u - a) * s already holds s >= 0 where u > a, and SLSQP's time grows with the cube of its constraints.
    free = np.repeat(problem.points > problem.window[0], pieces)
    # SLSQP starts from unit curvature, so gradients of 1/N would be too small, and steep ones would overshoot.
    scale = count / max(1.0, abs(link_pieces(problem.link)[0]).max())
    objective = -scale * program.objective
    solved = minimize(
        lambda x: objective @ x,
        start,
        jac=lambda x: objective,
        method="SLSQP",
        bounds=[(None if loose else 0, None) for loose in free] + [(0, None)] * (len(start) - len(free)),
        constraints=[
            {"type": "eq", "fun": lambda x: sums @ x - 1.0, "jac": lambda x: sums},
            {"type": "ineq", "fun": lambda x: bounds - limits @ x, "jac": lambda x: -limits},
        ],
        options={"maxiter": 1000, "ftol": 1e-9},
    )
    if solved.status != 0:
        raise RuntimeError(f"SLSQP did not solve the follower's program: {solved.message}")
    return _record(problem, solved.x, -solved.fun / scale, solved.multipliers[-1] / scale)


def _record(problem: Problem, x: np.ndarray, value: float, price: float) -> WorstCase:
    u, (a, b), link, mass = problem.points, problem.window, problem.link, problem.mass
    parts = x.reshape(2 if link.decreasing else 3, len(u), -1).sum(axis=2)
    down = np.divide(parts[1], u - a, out=np.zeros(len(u)), where=u > a).clip(0.0, 1.0)
    up = (
        None if link.decreasing else np.divide(parts[2], b - u, out=np.zeros(len(u)), where=u < b).clip(0.0, 1.0 - down)
    )
    stays = u[(u > a) & (down + (0.0 if up is None else up) < 1.0 - 1e-9)]
    ways = u - a if link.decreasing else np.where(link.value(a) >= link.value(b), u - a, b - u)
    return WorstCase.of(
        problem,
        value=float(value),
        empirical_value=float(mass @ np.asarray(link.value(u))),
        price=max(float(price), 0.0),
        moved=down,
        moved_share=float(mass @ (down if up is None else down + up)),
        marginal=float(stays.min()) if stays.size else b,
        full_radius=float(mass @ ways),
        raised=up,
    )
