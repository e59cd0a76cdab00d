r"""Leader steps other than the envelope: losses under a worst case that is held still while the policy moves.

The follower has answered at gaps `anchor`: a share `moved` of each pair's mass went to the window's lower end a, the
rest stayed. Both losses take the policy's gaps as they are now, pair by pair, so that they do not depend on how a
batch is cut. The `envelope` step is `sgpo.robust.objective.priced_loss`.

Source: arXiv:2502.18099, Section 3.3 and Algorithm 1; PAPER.md D3.
"""

from typing import Any

import torch
from torch import Tensor

from sgpo.robust.link import Link


def transport_loss(gaps: Tensor, *, moved: Tensor, anchor: Tensor, lower: float, link: Link) -> Tensor:
    r"""The loss under the worst case with its displacement frozen, in nats: (1 - m) f(u) + m f(u - (anchor - a)).

    Where the follower answered (u = anchor) its mean is the robust value, but the moved mass is pulled by the slope of
    f at a instead of the price of radius. Below a the link goes on along its tangent at a: the worst case has no mass
    there, and a probability may not be negative.

    Args:
        gaps: (B,) beta-scaled reward differences, in nats; also for a link on probability space.
        moved: (B,) m in [0, 1], the share of each pair's mass that was sent to a.
        anchor: (B,) the gaps at the follower's answer, as points of the gap space.
        lower: a, the window's lower end, in the unit of the gap space.
        link: the link f.
    Returns: (B,) differentiable in `gaps`.
    Source: arXiv:2502.18099, Algorithm 1, step 4: the loss under alpha*.
    """
    points = link.to_space(gaps)
    displaced = points - (anchor - lower).detach()
    end = torch.full_like(points, lower)
    # At a itself, where every moved pair starts, one of the two branches must have the slope, not both.
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

    Args: as `transport_loss`, and
        proximal: weight >= 0 of the proximal term, in nats per squared unit of the gap space.
    Returns: (B,) differentiable in `gaps`.
    Source: arXiv:2502.18099, Section 3.3.
    """
    points = link.to_space(gaps)
    anchor = anchor.detach()
    end = torch.full_like(points, lower).detach()
    stays, goes = points - anchor, points - end
    loss = (1.0 - moved) * (link.value(anchor) + link.slope(anchor) * stays)
    loss = loss + moved * (link.value(end) + link.slope(end) * goes)
    return loss + 0.5 * proximal * ((1.0 - moved) * stays**2 + moved * goes**2)
