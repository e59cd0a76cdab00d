"""The exact follower: the worst distribution of gaps in a Wasserstein ball, for all pairs at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sgpo.robust.arguments import check_finite, check_gaps, check_inside, check_radius, check_weights, resolve_link
from sgpo.robust.link import Link, is_tensor
from sgpo.robust.selection import select
from sgpo.robust.solution import WorstCase

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
            taken here.
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
    radius = check_radius(radius)
    if is_tensor(gaps):
        return _from_tensor(gaps, radius, locals())
    gaps = check_gaps(gaps)
    check_finite(gaps, "gaps")
    weights = check_weights(weights, len(gaps))
    link, window = resolve_link(link, space, tangents, knots, window, gaps)
    points = check_inside(link.to_space(gaps), window, clip)
    return _solve(points, radius, link, window, weights)


def _solve(points, radius, link, window, weights) -> WorstCase:
    a, b = window
    mass = np.full(len(points), 1.0 / len(points)) if weights is None else weights
    chosen = select(points, a, radius, mass)
    if chosen.marginal is None:
        moved, price = (points > a).astype(float), 0.0
    else:
        moved = ((points < chosen.marginal) & (points > a)).astype(float)
        moved[points == chosen.marginal] = chosen.split
        price = float(link.drop(a, np.float64(chosen.marginal))) / (chosen.marginal - a)
    losses = link.value(points)
    empirical = float(mass @ losses)
    gain = float((mass * moved) @ (link.value(np.float64(a)) - losses))
    return WorstCase(
        value=empirical + max(gain, 0.0),
        empirical_value=empirical,
        price=price,
        moved=moved,
        moved_share=float(mass @ moved),
        marginal=b if chosen.marginal is None else chosen.marginal,
        radius=radius,
        full_radius=chosen.full_radius,
        space=link.space,
        window=window,
        link=link,
        points=points,
        weights=weights,
    )


def _from_tensor(gaps, radius, arguments) -> WorstCase:
    import torch

    options = {key: arguments[key] for key in ("space", "window", "tangents", "knots", "link", "weights", "clip")}
    dtype = torch.float64 if gaps.dtype == torch.float64 else torch.float32
    solved = worst_case(gaps.detach().double().cpu().numpy(), radius, **options)

    def back(x):
        return torch.as_tensor(x, dtype=dtype, device=gaps.device)

    names = ("value", "empirical_value", "price", "moved", "moved_share", "marginal", "full_radius", "points")
    fields = {name: back(getattr(solved, name)) for name in names}
    weights = None if solved.weights is None else back(solved.weights)
    return WorstCase(
        **fields, radius=radius, space=solved.space, window=solved.window, link=solved.link, weights=weights
    )
