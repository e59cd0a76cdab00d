r"""Dr. DPO over a whole optimiser step: a soft minimum, $-\beta' \log \mathrm{mean}_i \exp(-\ell_i / \beta')$.

Its gradient weighs each pair by $w_i = \mathrm{softmax}_i(-\ell_i / \beta')$ over all pairs of the step. A microbatch
alone does not know them (with one pair in it, it would be DPO), so a first pass without gradients finds what all of
them share.
"""

import math
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor


class StepLosses(NamedTuple):
    """log sum_i exp(-l_i / beta') over a step's pairs, and their number, over all microbatches and processes."""

    log_sum: float
    count: int

    def value(self, beta: float) -> float:
        """The loss of the whole step, in nats."""
        return -beta * (self.log_sum - math.log(self.count))


def sum_up(accelerator: Accelerator, losses: Tensor, beta: float) -> StepLosses:
    """The whole step's, from (B,) losses of this process's share; every rank must call it."""
    scaled = -losses.detach().double() / beta
    local = torch.stack(
        [scaled.logsumexp(0), torch.tensor(float(len(scaled)), dtype=scaled.dtype, device=scaled.device)]
    )
    everywhere = accelerator.gather(local[None]) if accelerator.num_processes > 1 else local[None]
    return StepLosses(float(everywhere[:, 0].logsumexp(0)), int(everywhere[:, 1].sum()))


def dr_dpo_loss(losses: Tensor, step: StepLosses, beta: float, parts: int) -> Tensor:
    """A microbatch's share of the loss, for a trainer that averages over microbatches and processes.

    Args:
        losses: (B,) of the microbatch in nats, with their graph.
        step: the whole step's, from the same weights of the policy.
        beta: beta' > 0 in nats; infinity would be DPO, and 0 the smallest loss alone.
        parts: microbatches of a process times processes.

    Returns: scalar. Its value is the whole step's loss; the mean of its gradient over the parts is that loss's
        gradient.

    Source: Wu et al., "Towards Robust Alignment of Language Models: Distributionally Robustifying Direct Preference
    Optimization", arXiv:2407.07880.
    """
    weights = (-losses.detach().double() / beta - step.log_sum).exp().to(losses.dtype)
    return parts * (weights * (losses - losses.detach())).sum() + step.value(beta)
