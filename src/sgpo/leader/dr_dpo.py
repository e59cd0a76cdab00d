r"""Dr. DPO over a whole optimiser step: a soft minimum, $-\beta' \log \mathrm{mean}_i \exp(-\ell_i / \beta')$.

Its gradient weights each pair by $w_i = \mathrm{softmax}_i(-\ell_i / \beta')$ over all pairs of the step. A single
microbatch does not know them, so a first pass without gradients computes the normaliser that all microbatches share.

Source: Wu et al., "Towards Robust Alignment of Language Models: Distributionally Robustifying Direct Preference
Optimization", arXiv:2407.07880.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from sgpo.config.section import setting
from sgpo.leader.pair_loss import PairBatch, PairLoss, PairLosses, Request, Setup
from sgpo.leader.pairs import require


@dataclass
class DrDPOSettings:
    """The argument of Dr. DPO."""

    dr_dpo_beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = setting(
        None, "Dr. DPO's beta' over the whole optimiser step, in nats, with radius 0; not given: off."
    )


class StepLosses(NamedTuple):
    """log sum_i exp(-l_i / beta') over the pairs of a step, and their number, over all microbatches and processes."""

    log_sum: float
    count: int


def sum_up(accelerator: Accelerator, losses: Tensor, beta: float) -> StepLosses:
    """Sums over the whole step, from (B,) losses of this process's share; every process must call it."""
    scaled = -losses.detach().double() / beta
    local = torch.stack([scaled.logsumexp(0), scaled.new_tensor(len(scaled))])
    everywhere = accelerator.gather(local[None])
    return StepLosses(float(everywhere[:, 0].logsumexp(0)), int(everywhere[:, 1].sum()))


def dr_dpo_loss(losses: Tensor, step: StepLosses, beta: float, parts: int) -> Tensor:
    """(B,) share of a microbatch: each value is the loss of the whole step, and the gradient of the mean over pairs and
    `parts` (microbatches of a process times processes) is that loss's gradient."""
    weights = (-losses.detach().double() / beta - step.log_sum).exp().to(losses.dtype)
    value = -beta * (step.log_sum - math.log(step.count))
    return len(losses) * parts * weights * (losses - losses.detach()) + value


class DrDPOLoss(PairLoss):
    """Dr. DPO in training; DPO in evaluation, which has no optimiser steps."""

    Settings = DrDPOSettings
    takes_weights = False
    looks_ahead = True

    @classmethod
    def request(cls, args: Any) -> Request | None:
        return None if args.dr_dpo_beta is None else Request("dr_dpo_beta", args.dr_dpo_beta, "no dr_dpo_beta")

    @classmethod
    def check(cls, args: Any) -> None:
        # The pass that weighs the pairs must see the losses that the weighted pass has.
        if request := cls.request(args):
            require(args, {"disable_dropout": True}, str(request), request.off)

    def __init__(self, setup: Setup) -> None:
        self._accelerator, self._beta = setup.accelerator, setup.args.dr_dpo_beta
        self._step: tuple[StepLosses, int] | None = None

    def begin_step(self, margins: Tensor, parts: int) -> None:
        self._step = sum_up(self._accelerator, -logsigmoid(margins), self._beta), parts

    def losses(self, batch: PairBatch) -> PairLosses:
        losses = -logsigmoid(batch.margins)
        if not batch.training:
            return PairLosses(losses)
        if self._step is None:
            raise RuntimeError("Dr. DPO's loss is one of a whole optimiser step; train() has not begun one.")
        step, parts = self._step
        return PairLosses(dr_dpo_loss(losses, step, self._beta, parts))
