r"""Losses that the leader minimises against a worst case, in PyTorch.

`robust_value` is the robust value itself. The three steps are sums over pairs at a fixed answer of the follower, so
that they do not depend on how a batch is split: `envelope_loss` (the follower's dual at its price, the default),
`transport_loss` (displacements held fixed) and `mixture_loss` (the active pieces).

Source: arXiv:2502.18099, Section 3.3, Theorem 3.3 and Algorithm 1; PAPER.md D3.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgpo.robust.ball import Ball, as_ball, check_monotone
from sgpo.robust.exact import worst_case
from sgpo.robust.link import Link
from sgpo.robust.solution import WorstCase

# Gaps this close to the marginal one, in the gap space's unit, count as tied with it: float32 resolves no more.
TIE = 1e-5


class EnvelopeLoss(NamedTuple):
    """Loss per pair, in nats, differentiable; and the share of each pair that the follower's price moves."""

    loss: Tensor
    moved: Tensor


def robust_value(gaps: Tensor, ball: Ball | float | None = None, *, weights: Any = None, **options: Any) -> Tensor:
    r"""V(radius), the mean link under the worst case, differentiable by Danskin's theorem.

    With moved mass m_i, price lambda and the gap's point u_i, the gradient with respect to u_i is
    w_i * ((1 - m_i) * f'(u_i) - m_i * lambda); in probability space the sigmoid multiplies it by p_i * (1 - p_i). A gap
    at the window's lower end counts as moved when radius > 0: it can only rise, and the follower would send it back.
    Differentiable once.

    Args:
        gaps: (N,) in nats.
        ball, weights, **options: as `worst_case`.

    Returns: a 0-dimensional tensor, in nats.

    Raises:
        InputError: as `worst_case`.

    Source: arXiv:2502.18099, Theorem 3.3; PAPER.md D3.
    """
    ball = as_ball(ball, options)
    worst = worst_case(gaps.detach(), ball, weights=weights)
    a, b = worst.window
    points = worst.link.to_space(gaps.to(worst.points.dtype))
    if ball.clip:
        points = points.clamp(a, b)
    down, up = worst.moved, torch.zeros_like(worst.moved)
    if worst.link.decreasing:
        down = torch.where(worst.points <= a, float(ball.radius > 0), down)
    else:
        up = worst.raised
    pull = worst.mass * ((1.0 - down - up) * worst.link.slope(worst.points) + (up - down) * worst.price)
    return worst.value + (pull * (points - points.detach())).sum()


def marginal_split(worst: WorstCase) -> float | None:
    """The share of the marginal gap that a worst case moves, a float in [0, 1]; None once everything has moved."""
    if not worst.price > 0:
        return None
    return float(worst.moved[abs(worst.points - worst.marginal).argmin()])


def envelope_loss(
    gaps: Tensor, *, price: Any, lower: float, link: Link, marginal: Any = None, split: Any = None
) -> EnvelopeLoss:
    r"""The follower's dual at a fixed price of radius, pair by pair: max(f(u), f(a) - price * (u - a)).

    mean(loss) + price * radius bounds the robust value from above at every price. At the gaps that the price was solved
    for it equals the robust value, and its gradient is the envelope gradient. The dual has a kink at the marginal gap.
    There, with `split`, the loss is (1 - split) * f(u) + split * (f(a) - price * (u - a)), whose slope is the robust
    value's. This matters where many gaps are marginal: when the reference is the initial policy every gap starts at 0,
    and rounding must not decide whether the follower moves all of them or none.

    Args:
        gaps: (..., B) beta-scaled reward differences, in nats; also for a link on probability space.
        price: lambda >= 0, nats per unit of the gap space; a number, or a tensor that broadcasts against the gaps.
        lower: a, the window's lower end, in the unit of the gap space.
        link: the link f.
        marginal: the marginal gap, as a point of the gap space; a number or a tensor, like `price`.
        split: share of the marginal gap that moves, see `marginal_split`, like `price`; None: no split (several groups
            have a marginal gap each, and their mean price has none).

    Raises:
        InputError: a link that is not monotone.

    Source: the dual of arXiv:2502.18099, Theorem 3.3; PAPER.md D3.
    """
    check_monotone(link)
    points = link.to_space(gaps)
    stay = link.value(points)
    go = link.value(torch.as_tensor(lower, dtype=points.dtype, device=points.device)) - price * (points - lower)
    pays = go > stay
    loss, moved = torch.where(pays, go, stay), pays.to(points.dtype)
    if split is None:
        return EnvelopeLoss(loss, moved)
    tolerance = TIE * (abs(marginal).clamp(min=1.0) if isinstance(marginal, Tensor) else max(1.0, abs(marginal)))
    moved = torch.where((points.detach() - marginal).abs() <= tolerance, split, moved).to(points.dtype)
    mixed = (moved > 0) & (moved < 1)
    return EnvelopeLoss(torch.where(mixed, (1 - moved) * stay + moved * go, loss), moved)


def transport_loss(gaps: Tensor, *, moved: Tensor, anchor: Tensor, lower: float, link: Link) -> Tensor:
    r"""The loss under the worst case with its displacement held fixed, in nats: (1 - m) f(u) + m f(u - (anchor - a)).

    At the follower's answer (u = anchor) its mean is the robust value, but the slope of f at a pulls the moved mass
    instead of the price of radius. Below a the link continues along its tangent at a: the worst case has no mass there,
    and a probability cannot be negative.

    Args:
        gaps: (B,) beta-scaled reward differences, in nats; also for a link on probability space.
        moved: (B,) m in [0, 1], the share of each pair's mass that moved to a.
        anchor: (B,) the gaps at the follower's answer, as points of the gap space.
        lower: a, the window's lower end, in the unit of the gap space.
        link: the link f.

    Returns: (B,), differentiable in `gaps`.

    Source: arXiv:2502.18099, Algorithm 1, step 4: the loss under alpha*.
    """
    points = link.to_space(gaps)
    displaced = points - (anchor - lower).detach()
    end = torch.full_like(points, lower)
    # At a itself, where every moved pair starts, only one of the two branches must have the slope.
    beyond = -torch.relu(lower - displaced)
    sent = link.value(displaced.clamp(min=lower)) + link.slope(end) * beyond
    return (1.0 - moved) * link.value(points) + moved * sent


def mixture_loss(
    gaps: Tensor, *, moved: Tensor, anchor: Tensor, lower: float, link: Link, proximal: Any = 0.0
) -> Tensor:
    r"""The pieces that are active under the worst case, weighted by their mass, at the policy's own gap, in nats.

    sum_k s_k l_k(u) with mass 1 - m on the piece that is active at the anchor and m on the one at a (for an exact link
    its tangents there), plus the proximal pull (proximal / 2) * ((1 - m) (u - anchor)^2 + m (u - a)^2) towards the
    displaced gaps. The pull on u is the mean slope of the worst case; without the proximal term it is constant.

    Args:
        gaps, moved, anchor, lower, link: as `transport_loss`.
        proximal: weight >= 0 of the proximal term, in nats per squared unit of the gap space.

    Returns: (B,), differentiable in `gaps`.

    Source: arXiv:2502.18099, Section 3.3.
    """
    points = link.to_space(gaps)
    anchor = anchor.detach()
    end = torch.full_like(points, lower).detach()
    stays, goes = points - anchor, points - end
    loss = (1.0 - moved) * (link.value(anchor) + link.slope(anchor) * stays)
    loss = loss + moved * (link.value(end) + link.slope(end) * goes)
    return loss + 0.5 * proximal * ((1.0 - moved) * stays**2 + moved * goes**2)
