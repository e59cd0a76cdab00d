"""Splitting the follower's problem into groups, as the paper does to afford its solver."""

from collections.abc import Callable

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.ball import Problem
from sgpo.robust.solution import WorstCase

GROUPINGS = ("random", "sorted", "stratified")


def split_groups(points: np.ndarray, group_size: int, *, grouping: str = "random", seed: int = 0) -> list[np.ndarray]:
    """Indices of each group; every group has `group_size` entries but for the last, which may be smaller.

    Args:
        points: (N,) gaps in either space.
        group_size: G, at least 1.
        grouping: "random" (the paper's), "sorted" (neighbours in order of the gap share a group) or "stratified" (every
            group takes its share from the whole range).
        seed: of the random grouping.
    Raises: InputError for an unknown grouping or a size below 1.
    Source: arXiv:2502.18099, Section 4 (random groups of G = 100).
    """
    if isinstance(group_size, bool) or not isinstance(group_size, int | np.integer) or group_size < 1:
        raise InputError(f"group_size is {group_size!r}; allowed: an integer >= 1, or None for one group.")
    count = len(points)
    if grouping == "random":
        order = np.random.default_rng(seed).permutation(count)
    elif grouping == "sorted":
        order = np.argsort(points, kind="stable")
    elif grouping == "stratified":
        groups = -(-count // group_size)
        ranked = np.argsort(points, kind="stable")
        return [ranked[first::groups] for first in range(groups)]
    else:
        raise InputError(f"grouping is {grouping!r}; allowed: {', '.join(map(repr, GROUPINGS))}.")
    return [order[start : start + group_size] for start in range(0, count, group_size)]


def solve_groups(problem: Problem, groups: list[np.ndarray], solve: Callable[[Problem], WorstCase]) -> WorstCase:
    """The law that the groups choose by themselves, each within the whole radius.

    Its value, price, empirical value and moved share are the groups' means by mass; `marginal` and `full_radius` are
    the groups' largest. A group without mass stays as it is.
    """
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

    def mean(name: str) -> float:
        return float(np.dot(masses, [getattr(answer, name) for answer in solved]))

    return WorstCase(
        value=mean("value"),
        empirical_value=mean("empirical_value"),
        price=mean("price"),
        moved=moved,
        moved_share=mean("moved_share"),
        marginal=max(answer.marginal for answer in solved),
        radius=problem.radius,
        full_radius=max(answer.full_radius for answer in solved),
        space=problem.link.space,
        window=problem.window,
        link=problem.link,
        points=points,
        weights=weights,
        raised=raised,
    )
