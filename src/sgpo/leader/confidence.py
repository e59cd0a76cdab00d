"""Label smoothing of the pairs that the policy itself doubts, as in SPA; cDPO where it doubts all of them."""

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from sgpo.config.section import Count, setting
from sgpo.errors import InputError
from sgpo.leader.decoupling import Decoupling
from sgpo.leader.guards import LeaderAlert
from sgpo.leader.pair_loss import PairBatch, PairLoss, PairLosses, Request, Setup
from sgpo.leader.pairs import require
from sgpo.leader.recent import RecentSteps, StepMargins


@dataclass
class SmoothingSettings:
    """The arguments of SPA's smoothing."""

    confidence_smoothing: Annotated[float, Field(ge=0, le=0.5)] = setting(
        0.0, "SPA's alpha, with radius 0: probability that the label of a doubted pair is wrong; 0 is off."
    )
    confidence_quantile: Annotated[float, Field(gt=0, le=1)] = setting(
        0.1, "A pair is doubted at or below this quantile of the latest margins; 1 doubts all pairs (cDPO)."
    )
    confidence_warmup: Annotated[float, Field(ge=0, lt=1)] = setting(
        0.2, "Share of the optimiser steps before confidence_smoothing begins."
    )
    confidence_pairs: Count = setting(128, "Number of latest margins, over all processes, that make the quantile.")
    decoupling: Annotated[float, Field(ge=1, allow_inf_nan=False)] = setting(
        1.0, "SPA's lambda: pairs are doubted under lambda * policy + (1 - lambda) * reference; 1 is off."
    )


def smoothed_loss(margins: Tensor, smoothing: Tensor) -> Tensor:
    r"""$-(1 - s) \log\sigma(\xi) - s \log\sigma(-\xi)$, (B,) in nats, for labels that are wrong with probability s:
    cDPO's loss (Mitchell, "A note on DPO with noisy preferences", 2023), and that of SPA (arXiv:2406.04412)."""
    return -(1 - smoothing) * logsigmoid(margins) - smoothing * logsigmoid(-margins)


class RecentMargins(RecentSteps):
    """The latest margins, in whole optimiser steps, and a quantile of them."""

    def __init__(self, quantile: float, capacity: int) -> None:
        super().__init__(capacity, margins=np.float64, weights=np.float64)
        self.quantile = quantile

    def push(self, margins: np.ndarray, weights: np.ndarray) -> None:
        """Adds the (N,) margins and weights >= 0 of one step; pairs of weight 0 are left out."""
        super().push(margins[weights > 0], weights[weights > 0])

    def threshold(self) -> float:
        """The smallest kept margin with at least a share `quantile` of the weight at or below it: minus infinity before
        the first step, infinity at quantile 1, which doubts every pair, new ones too."""
        if self.quantile == 1:
            return math.inf
        if not len(self):
            return -math.inf
        margins, weights = self.columns()
        return float(np.quantile(margins, self.quantile, method="inverted_cdf", weights=weights))


class SmoothedLoss(PairLoss):
    """Smooths the labels of pairs whose margin (with `decoupling`, not the policy's own) is not above a quantile of the
    latest margins of all processes. The threshold moves between optimiser steps; the first `confidence_warmup` of them,
    and the very first, smooth nothing."""

    Settings = SmoothingSettings
    state_file = "sgpo_confidence.safetensors"

    @classmethod
    def request(cls, args: Any) -> Request | None:
        alpha = args.confidence_smoothing
        return Request("confidence_smoothing", alpha, "confidence_smoothing=0") if alpha else None

    @classmethod
    def check(cls, args: Any) -> None:
        if args.confidence_smoothing == 0:
            require(args, vars(SmoothingSettings()), "confidence_smoothing=0", "a confidence_smoothing above 0")
        elif args.confidence_quantile == 1:
            unused = {name: getattr(SmoothingSettings, name) for name in ("confidence_pairs", "decoupling")}
            require(args, unused, "confidence_quantile=1, which doubts every pair", "a lower confidence_quantile")

    def __init__(self, setup: Setup) -> None:
        args, pairs = setup.args, setup.pairs
        self._smoothing, self._warmup = args.confidence_smoothing, args.confidence_warmup
        self.seen = StepMargins(setup.accelerator)
        self._recent = RecentMargins(args.confidence_quantile, args.confidence_pairs)
        self._weights = np.ones(pairs.rows.max(initial=0) + 1)
        if pairs.weights is not None:
            self._weights[pairs.rows] = pairs.weights
        self.threshold = self._recent.threshold()
        self.decoupling = Decoupling(setup) if args.decoupling > 1 else None
        self.rescores_reference = self.decoupling is not None

    def resume(self, checkpoint: str) -> None:
        state = self.read_state(checkpoint)
        if state is None:
            raise InputError(
                f"{checkpoint} holds no {self.state_file}; allowed: a checkpoint of a run with confidence_smoothing "
                "above 0."
            )
        self._recent.load(state)
        self.threshold = self._recent.threshold()

    def watch(self, who: str) -> AbstractContextManager:
        return nullcontext() if self.decoupling is None else self.decoupling.watch(who)

    def losses(self, batch: PairBatch) -> PairLosses:
        margins = batch.margins
        judged = margins.detach() if self.decoupling is None else self.decoupling.margins(batch)
        if batch.training:
            self.seen.add(batch.tags.row, judged)
        doubted = (judged <= self.threshold) & self._is_active(batch.step, batch.max_steps)
        smoothed = doubted.to(margins.dtype)
        numbers = {"confidence/threshold": self.threshold} if math.isfinite(self.threshold) else {}
        means = {"confidence/smoothed_share": smoothed.mean()}
        return PairLosses(smoothed_loss(margins, self._smoothing * smoothed), means, numbers)

    def _is_active(self, step: int, max_steps: int) -> bool:
        """Whether the optimiser step after `step` steps smooths labels."""
        return step >= self._warmup * max_steps

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen.clear()
        last = state.max_steps - 1
        if not self._is_active(last, state.max_steps) or (last == 0 and self.threshold == -math.inf):
            warnings.warn(
                f"confidence_smoothing never acts in {state.max_steps} optimiser steps: the first {self._warmup:.0%} "
                "are the warm-up, and the very first has no earlier margins to compare with. This is DPO.",
                LeaderAlert,
                stacklevel=2,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if len(self.seen):
            rows, margins = self.seen.collect()
            self._recent.push(margins, self._weights[rows])
            self.threshold = self._recent.threshold()

    def state(self) -> dict[str, np.ndarray]:
        return self._recent.state()
