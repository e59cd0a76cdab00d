"""The leader's robust losses in PyTorch: the robust value with its envelope gradient, and the dual at a fixed price."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgpo.errors import InputError
from sgpo.robust.exact import worst_case
from sgpo.robust.link import Link


class PricedLoss(NamedTuple):
    """Loss per pair (B,) in nats, differentiable, and which pairs the follower would move (B,) bool."""

    loss: Tensor
    moved: Tensor


def robust_value(
    gaps: Tensor,
    radius: float,
    *,
    space: str | None = None,
    window: Sequence[float] | None = None,
    tangents: int | None = None,
    knots: str | None = None,
    link: Link | str | None = None,
    weights: Any = None,
    clip: bool = False,
) -> Tensor:
    r"""V(radius), the mean link under the worst case, differentiable by Danskin's theorem.

    With moved mass m_i, price lambda and u_i the gap's point, the gradient with respect to u_i is
    w_i * ((1 - m_i) * f'(u_i) - m_i * lambda); in probability space the sigmoid multiplies it by p_i * (1 - p_i). A gap
    at the window's lower end counts as moved when radius > 0: it can only rise, and the follower would send it back.
    Once only: the second derivative is not provided.

    Args: as `worst_case`, with gaps a tensor (N,).
    Returns: a tensor of no axes, in nats.
    Raises: InputError as `worst_case`.
    Source: arXiv:2502.18099, Theorem 3.3; the `envelope` objective of PAPER.md D3.
    """
    worst = worst_case(
        gaps.detach(), radius, space=space, window=window, tangents=tangents, knots=knots, link=link, weights=weights,
        clip=clip,
    )  # fmt: skip
    a, b = worst.window
    points = worst.link.to_space(gaps.to(worst.points.dtype))
    if clip:
        points = points.clamp(a, b)
    down, up = worst.moved, torch.zeros_like(worst.moved)
    if worst.link.decreasing:
        down = torch.where(worst.points <= a, float(radius > 0), down)
    else:
        up = worst.raised
    pull = worst.mass * ((1.0 - down - up) * worst.link.slope(worst.points) + (up - down) * worst.price)
    return worst.value + (pull * (points - points.detach())).sum()


def priced_loss(gaps: Tensor, *, price: Any, lower: float, link: Link) -> PricedLoss:
    r"""The follower's dual at a fixed price of radius, pair by pair: max(f(u), f(a) - price * (u - a)).

    mean(loss) + price * radius bounds the robust value from above at every price, and equals it at the gaps that the
    price was solved for. It is a sum over pairs, so it does not depend on how a batch is cut.

    Args:
        gaps: (B,) beta-scaled reward differences, in nats; also for a link on probability space.
        price: lambda >= 0, nats per unit of the gap space; a number or a tensor of no axes.
        lower: a, the window's lower end, in the unit of the gap space.
        link: the link f.
    Returns: PricedLoss(loss (B,), moved (B,)).
    Raises: InputError for a link that is not monotone: its mass may go to the window's upper end, too.
    Source: the dual of arXiv:2502.18099, Theorem 3.3; PAPER.md D3.
    """
    if not link.decreasing:
        raise InputError(f"link is {link.name}, which is not monotone; allowed: a non-increasing link.")
    points = link.to_space(gaps)
    stay = link.value(points)
    go = link.value(torch.as_tensor(lower, dtype=points.dtype, device=points.device)) - price * (points - lower)
    moved = go > stay
    return PricedLoss(torch.where(moved, go, stay), moved)
