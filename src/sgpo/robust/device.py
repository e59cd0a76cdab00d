"""The exact follower in PyTorch operations alone, for gaps that live on an accelerator."""

from typing import Any

import torch
from torch import Tensor

from sgpo.robust.ball import Ball, Problem, check_finite, check_inside, check_weights
from sgpo.robust.solution import WorstCase


def solve_on_device(gaps: Tensor, ball: Ball, weights: Any = None) -> WorstCase:
    """`worst_case` for a tensor and a non-increasing link, by sorting; one flag returns to the host, which checks
    weights and places "quantiles" knots. Points and losses have the gaps' dtype, at least float32; sums are float64."""
    gaps = gaps.detach()
    gaps = gaps if gaps.dtype == torch.float64 else gaps.float()
    link, (a, b) = ball.resolve(gaps)
    points = link.to_space(gaps)
    _check_points(gaps, points, (a, b), ball.clip)
    if ball.clip:
        points = points.clamp(a, b)
    mass = torch.full_like(points, 1.0 / len(points), dtype=torch.float64)
    if weights is not None:
        mass = torch.as_tensor(check_weights(weights, len(points)), device=points.device)
    ranked, order = points.sort()
    cost = mass * (points.double() - a)
    spent = cost[order].cumsum(0)
    everything = ball.radius >= spent[-1]
    place = torch.searchsorted(spent, spent.new_tensor([ball.radius]), right=True).clamp(max=len(points) - 1)
    marginal = torch.where(everything, torch.as_tensor(b, dtype=points.dtype, device=points.device), ranked[place][0])

    below, tied = points < marginal, points == marginal
    split = ((ball.radius - (cost * below).sum()) / (cost * tied).sum()).clamp(0.0, 1.0)
    moved = torch.where(everything, torch.ones_like(cost), below + tied * split.nan_to_num(0.0)) * (points > a)
    losses = link.value(points).double()
    top = link.value(torch.as_tensor(a, dtype=torch.float64, device=points.device))
    empirical = (mass * losses).sum()
    price = torch.where(everything, 0.0, link.drop(a, marginal.double()) / (marginal.double() - a))
    numbers = {
        "value": empirical + (mass * moved * (top - losses)).sum().clamp(min=0.0),
        "empirical_value": empirical,
        "price": price,
        "moved": moved,
        "moved_share": (mass * moved).sum(),
        "full_radius": spent[-1],
    }
    problem = Problem(points, ball.radius, link, (a, b), None if weights is None else mass.to(points.dtype))
    return WorstCase.of(
        problem, marginal=marginal, **{name: number.to(points.dtype) for name, number in numbers.items()}
    )


def _check_points(gaps: Tensor, points: Tensor, window: tuple[float, float], clip: bool) -> None:
    sound = gaps.isfinite().all()
    if not clip:
        sound = sound & (points.amin() >= window[0]) & (points.amax() <= window[1])
    if not sound.item():
        check_finite(gaps.double().cpu().numpy(), "gaps")
        check_inside(points.double().cpu().numpy(), window, clip)
