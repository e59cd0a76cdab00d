"""Margins of a preference batch: from per-token log-probabilities to beta-scaled reward differences."""

from typing import NamedTuple

import torch
from torch import Tensor


class PairLogps(NamedTuple):
    """Summed log-probabilities of the chosen and the rejected responses, (B,) each, in nats."""

    chosen: Tensor
    rejected: Tensor


def sum_pair_logps(per_token_logps: Tensor, completion_mask: Tensor, ld_alpha: float | None) -> PairLogps:
    """Sums per-token log-probabilities to one number per response.

    Args:
        per_token_logps: (2B, L) log-probabilities in nats, chosen rows before rejected rows, 0 outside completions.
        completion_mask: (2B, L) 1 on completion tokens.
        ld_alpha: None sums all tokens; a number weighs the tokens beyond the shorter response of a pair by it
            (LD-DPO, arXiv:2409.06411, as TRL's `ld_alpha`).

    Returns: the two sums, (B,) each.
    """
    if ld_alpha is None:
        return PairLogps(*per_token_logps.sum(dim=1).chunk(2))
    position = completion_mask.cumsum(dim=1)
    chosen_length, rejected_length = completion_mask.sum(dim=1).chunk(2)
    shared_length = torch.minimum(chosen_length, rejected_length).repeat(2).unsqueeze(1)
    weight = torch.where(position <= shared_length, 1.0, ld_alpha) * completion_mask
    return PairLogps(*(per_token_logps * weight).sum(dim=1).chunk(2))


def pair_margins(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    r"""Gaps `xi = beta * [(log pi - log pi_ref)(x, y_w) - (log pi - log pi_ref)(x, y_l)]`, (B,) float32, in nats.

    Source: arXiv:2502.18099, Section 3.1.
    """
    chosen = policy.chosen.float() - reference.chosen.float()
    rejected = policy.rejected.float() - reference.rejected.float()
    return beta * (chosen - rejected)
