"""The exact follower: the worst distribution of gaps in a Wasserstein ball, for all pairs at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from sgpo.robust.ball import Problem, prepare
from sgpo.robust.link import Link, is_tensor
from sgpo.robust.selection import blocks, select
from sgpo.robust.solution import WorstCase
from sgpo.robust.two_sided import solve_two_sided

_LARGEST_SUM = 1e307

__all__ = ["WorstCase", "worst_case"]


def worst_case(
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
) -> WorstCase:
    r"""Worst distribution of preference gaps in a Wasserstein-1 ball.

    Solves  max_Q E_Q[f(u)]  s.t.  W1(Q, P_N) <= radius, supp Q in [a, b]  exactly.

    Args:
        gaps: (N,) beta-scaled reward differences, in nats; finite. Also in probability space, where their sigmoid is
            taken here. A tensor is answered by tensors on its device: float64 for float64, else float32. Off the CPU
            the gaps stay where they are; the host reads back one flag, to raise what is wrong with them.
        radius: Wasserstein radius, in the unit of the gap space; >= 0.
        space: "margin" (the gap itself) or "probability" (its sigmoid); default: the link's, or "margin".
        window: (a, b), the support, in the unit of the gap space; holds every gap. Required in margin space, [0, 1] by
            default in probability space.
        tangents: K tangents of the link instead of the link; None takes the exact one.
        knots: where they touch: "equispaced", "quantiles" or "paper", see `make_link`.
        link: a `Link`, its name ("logistic", "neg_log", "hinge", "exponential"), or None for the loss of the space.
        weights: (N,) sample weights >= 0, any positive sum; None: all equal.
        clip: move gaps outside the window to its nearest end instead of refusing them.
    Returns: WorstCase.
    Raises: InputError (a ValueError) naming the argument, its value and what is allowed.
    Source: arXiv:2502.18099, Theorem 3.3; PAPER.md D1.
    """
    options = {
        "space": space,
        "window": window,
        "tangents": tangents,
        "knots": knots,
        "link": link,
        "weights": weights,
        "clip": clip,
    }
    if is_tensor(gaps):
        return _from_tensor(gaps, radius, options)
    return solve_exact(prepare(gaps, radius, **options))


def solve_exact(problem: Problem) -> WorstCase:
    """The exact follower on a problem that is checked already."""
    if not problem.link.decreasing:
        return solve_two_sided(problem)
    points, radius, link, window, weights = problem
    a, b = window
    shares = weights
    if weights is None and len(points) * max(b - a, abs(a), abs(b), float(link.value(np.float64(a)))) > _LARGEST_SUM:
        # A plain sum could leave the range of float64; in shares of 1/N it cannot.
        shares = np.full(len(points), 1.0 / len(points))
    chosen = select(points, a, radius, shares)
    if chosen.marginal is None:
        marginal, price = b, 0.0
    else:
        marginal = chosen.marginal
        price = float(link.drop(a, np.float64(marginal))) / (marginal - a)
    sums, moved = _sum_losses(points, chosen, link, a, shares)
    return WorstCase(
        value=sums.empirical + sums.gain,
        empirical_value=sums.empirical,
        price=price,
        moved=moved,
        moved_share=sums.share,
        marginal=marginal,
        radius=radius,
        full_radius=chosen.full_radius,
        space=link.space,
        window=window,
        link=link,
        points=points,
        weights=weights,
    )


class _Sums(NamedTuple):
    """Means over the data: the link, what the moved mass adds to it, and the moved mass."""

    empirical: float
    gain: float
    share: float


def _sum_losses(points, chosen, link, lower, weights) -> tuple[_Sums, np.ndarray]:
    """One pass over the points: the losses are read once and never stored."""
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
    return _Sums(float(sums[0]), max(float(sums[1]), 0.0), min(float(sums[2]), 1.0)), moved


def _from_tensor(gaps, radius, options) -> WorstCase:
    import torch

    from sgpo.robust.device import check_tensor, solve_on_device

    check_tensor(gaps)
    if gaps.device.type != "cpu" and (options["link"] is None or getattr(options["link"], "decreasing", True)):
        return solve_on_device(gaps, radius, **options)
    # On the CPU a tensor is a NumPy array by another name, and NumPy's selection beats torch.sort.
    dtype = torch.float64 if gaps.dtype == torch.float64 else torch.float32
    solved = worst_case(gaps.detach().double().cpu().numpy(), radius, **options)
    changes = {}
    for field in ("value", "empirical_value", "price", "moved_share", "marginal", "full_radius"):
        changes[field] = torch.tensor(getattr(solved, field), dtype=dtype, device=gaps.device)
    for field in ("moved", "points", "weights", "raised"):
        array = getattr(solved, field)
        changes[field] = None if array is None else torch.from_numpy(array).to(gaps.device, dtype)
    return replace(solved, **changes)
