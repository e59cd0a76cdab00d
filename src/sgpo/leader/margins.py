"""Margins of a preference batch: from per-token log-probabilities to beta-scaled reward differences."""

import torch
from torch import Tensor

# (B,) summed log-probabilities of the chosen and of the rejected responses, in nats.
PairLogps = tuple[Tensor, Tensor]


def sum_pair_logps(per_token_logps: Tensor, completion_mask: Tensor, ld_alpha: float | None) -> PairLogps:
    """Sums (2B, L) log-probabilities of tokens, chosen rows before rejected rows, 0 outside completions. `ld_alpha`
    weighs the tokens beyond the shorter response of a pair (LD-DPO, arXiv:2409.06411); None sums all alike."""
    # Prompt-learning PEFT puts virtual tokens in front of the real ones.
    per_token_logps = per_token_logps[:, -completion_mask.size(1) :]
    if ld_alpha is None:
        return per_token_logps.sum(dim=1).chunk(2)
    position = completion_mask.cumsum(dim=1)
    shared_length = torch.minimum(*completion_mask.sum(dim=1).chunk(2)).repeat(2).unsqueeze(1)
    weight = torch.where(position <= shared_length, 1.0, ld_alpha) * completion_mask
    return (per_token_logps * weight).sum(dim=1).chunk(2)


def pair_margins(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    r"""Gaps `xi = beta * [(log pi - log pi_ref)(x, y_w) - (log pi - log pi_ref)(x, y_l)]`, (B,) float32, in nats.

    Source: arXiv:2502.18099, Section 3.1.
    """
    chosen, rejected = (own.float() - base.float() for own, base in zip(policy, reference, strict=True))
    return beta * (chosen - rejected)
