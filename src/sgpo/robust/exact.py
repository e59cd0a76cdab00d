"""The exact follower: the worst distribution of gaps in a Wasserstein ball, for all pairs at once."""

from dataclasses import replace
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.ball import Ball, Problem, as_ball, check_shape, prepare
from sgpo.robust.link import as_array, is_tensor
from sgpo.robust.selection import blocks, select
from sgpo.robust.solution import WorstCase
from sgpo.robust.two_sided import solve_two_sided

_LARGEST_SUM = 1e307


def worst_case(gaps: Any, ball: Ball | float | None = None, *, weights: Any = None, **options: Any) -> WorstCase:
    r"""Worst distribution of preference gaps in a Wasserstein-1 ball.

    Solves  max_Q E_Q[f(u)]  s.t.  W1(Q, P_N) <= radius, supp Q in [a, b]  exactly.

    Args:
        gaps: (N,) beta-scaled reward differences, in nats; finite. In probability space, too: their sigmoid is computed
            here. A tensor returns tensors on its device: float64 for float64, else float32. Off the CPU the gaps stay
            on their device; the host reads back one flag, to raise for gaps that are wrong.
        ball: a `Ball`, or its radius.
        weights: (N,) sample weights >= 0 with a positive sum; None: all equal.
        **options: the other fields of `Ball`: space, window, tangents, knots, link, clip.

    Raises:
        InputError: a `ValueError` that names the argument, its value and what is allowed.

    Source: arXiv:2502.18099, Theorem 3.3; PAPER.md D1.
    """
    ball = as_ball(ball, options)
    return _from_tensor(gaps, ball, weights) if is_tensor(gaps) else solve_exact(prepare(gaps, ball, weights))


def solve_exact(problem: Problem) -> WorstCase:
    """The exact follower on a checked problem."""
    if not problem.link.decreasing:
        return solve_two_sided(problem)
    points, radius, link, window, weights = problem
    a, b = window
    shares = weights
    if weights is None and len(points) * max(b - a, abs(a), abs(b), float(link.value(np.float64(a)))) > _LARGEST_SUM:
        # A plain sum could leave the range of float64; in shares of 1/N it cannot.
        shares = problem.mass
    chosen = select(points, a, radius, shares)
    if chosen.marginal is None:
        marginal, price = b, 0.0
    else:
        marginal = chosen.marginal
        price = float(link.drop(a, np.float64(marginal))) / (marginal - a)
    moved, empirical, gain, moved_share = _sum_losses(points, chosen, link, a, shares)
    return WorstCase.of(
        problem,
        value=empirical + gain,
        empirical_value=empirical,
        price=price,
        moved=moved,
        moved_share=moved_share,
        marginal=marginal,
        full_radius=chosen.full_radius,
    )


def _sum_losses(points, chosen, link, lower, weights) -> tuple[np.ndarray, float, float, float]:
    """(N,) moved shares; and means over the data of the link, of what the moved mass adds to it, and of that mass. One
    pass over the points: the losses are computed once and never stored."""
    moved = np.empty(len(points))
    top = float(link.value(np.float64(lower)))
    sums = np.zeros(3)
    for part in blocks(len(points)):
        x, share = points[part], moved[part]
        if chosen.marginal is None:
            np.greater(x, lower, out=share)
        else:
            np.less(x, chosen.marginal, out=share)
            share[x == chosen.marginal] = chosen.split
            share *= x > lower
        loss = link.value(x)
        if weights is None:
            sums += (loss.sum(), share @ (top - loss), share.sum())
        else:
            w = weights[part]
            sums += (w @ loss, (w * share) @ (top - loss), w @ share)
    if weights is None:
        sums /= len(points)
    return moved, float(sums[0]), max(float(sums[1]), 0.0), min(float(sums[2]), 1.0)


def _from_tensor(gaps, ball: Ball, weights) -> WorstCase:
    import torch

    from sgpo.robust.device import solve_on_device

    if not gaps.is_floating_point():
        raise InputError(f"gaps has dtype {gaps.dtype}; allowed: a float dtype.")
    check_shape(tuple(gaps.shape), "gaps")
    if gaps.device.type != "cpu" and getattr(ball.link, "decreasing", True):
        return solve_on_device(gaps, ball, weights)
    # On the CPU a tensor is a NumPy array by another name, and NumPy's selection beats torch.sort.
    dtype = torch.float64 if gaps.dtype == torch.float64 else torch.float32
    solved = solve_exact(prepare(as_array(gaps), ball, weights))
    fields = ("value", "empirical_value", "price", "moved", "moved_share", "marginal", "full_radius", "points")
    optional = [field for field in ("weights", "raised") if getattr(solved, field) is not None]
    changes = {field: torch.as_tensor(getattr(solved, field), dtype=dtype) for field in (*fields, *optional)}
    return replace(solved, **{field: tensor.to(gaps.device) for field, tensor in changes.items()})
