"""Label smoothing of the pairs that the policy itself doubts, as SPA has it; cDPO where it doubts them all."""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import TrainerCallback

from sgpo.errors import InputError
from sgpo.leader.collect import collect_step
from sgpo.leader.guards import LeaderAlert

STATE_FILE = "sgpo_confidence.safetensors"


class SmoothedLoss(NamedTuple):
    """(B,) each: loss in nats, differentiable; 1 where the label was smoothed."""

    loss: Tensor
    smoothed: Tensor


def smoothed_loss(margins: Tensor, smoothing: Tensor) -> Tensor:
    r"""The sigmoid loss under labels that are wrong with a given probability.

    $\ell = -(1 - s) \log\sigma(\xi) - s \log\sigma(-\xi)$: cDPO's loss, and SPA's with $s = \alpha$ on the pairs that
    it doubts and 0 on the others.

    Args:
        margins: (B,) gaps xi in nats, with their graph.
        smoothing: (B,) s in [0, 1].

    Returns: (B,) nats.

    Source: Mitchell, "A note on DPO with noisy preferences" (2023), and arXiv:2406.04412 (SPA).
    """
    return -(1 - smoothing) * logsigmoid(margins) - smoothing * logsigmoid(-margins)


class RecentMargins:
    """The latest margins, in whole optimiser steps, and a quantile of them.

    Whole steps, so that neither microbatches nor ranks have a say in it; one step larger than the capacity stays whole.
    """

    def __init__(self, quantile: float, capacity: int) -> None:
        """Takes the level in (0, 1], and how many margins to keep."""
        self.quantile, self.capacity = quantile, capacity
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []

    def push(self, margins: np.ndarray, weights: np.ndarray) -> None:
        """Adds one step's (N,) margins and weights >= 0, and forgets the oldest steps that no longer fit.

        A pair of weight 0 is as good as absent.
        """
        heavy = weights > 0
        if not heavy.any():
            return
        self._steps.append((margins[heavy], weights[heavy]))
        while len(self._steps) > 1 and sum(len(step) for step, _ in self._steps) > self.capacity:
            self._steps.pop(0)

    def threshold(self) -> float:
        """The smallest kept margin that has at least a share `quantile` of the weight at or below it.

        Minus infinity before the first step; infinity at quantile 1, which doubts every pair, new ones too.
        """
        if self.quantile == 1:
            return math.inf
        if not self._steps:
            return -math.inf
        margins, weights = (np.concatenate(column) for column in zip(*self._steps, strict=True))
        return float(np.quantile(margins, self.quantile, method="inverted_cdf", weights=weights))

    def state(self) -> dict[str, np.ndarray]:
        """The steps as arrays: all margins, all weights, and the length of each step."""
        return {
            "margins": np.concatenate([np.empty(0), *(margins for margins, _ in self._steps)]),
            "weights": np.concatenate([np.empty(0), *(weights for _, weights in self._steps)]),
            "lengths": np.array([len(margins) for margins, _ in self._steps], dtype=np.int64),
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Takes back what `state` gave."""
        cuts = np.cumsum(state["lengths"])[:-1]
        self._steps = []
        if len(state["lengths"]):
            self._steps = list(zip(np.split(state["margins"], cuts), np.split(state["weights"], cuts), strict=True))


class Confidence(TrainerCallback):
    """Which pairs are doubted: those whose margin is not above a quantile of the latest ones, of all processes.

    The threshold moves after an optimiser step and holds for the whole of the next one, whatever its microbatches and
    ranks. The first `warmup` of the steps smooth nothing, and neither does a very first one, which has no threshold.

    Attributes:
        threshold: a pair is doubted at this margin or below, in nats.
    """

    def __init__(self, accelerator: Accelerator, *, smoothing: float, warmup: float, recent: RecentMargins) -> None:
        """Takes alpha in (0, 0.5], the share of all steps without it, and the margins so far."""
        self._accelerator, self._smoothing, self._warmup, self._recent = accelerator, smoothing, warmup, recent
        self._stash: list[tuple[Tensor, Tensor]] = []
        self._weights: np.ndarray | None = None
        self.threshold = recent.threshold()

    def weigh(self, rows: np.ndarray, weights: np.ndarray) -> None:
        """Takes the dataset's ascending rows and their weights; without them all pairs weigh the same."""
        self._weights = np.zeros(rows[-1] + 1)
        self._weights[rows] = weights

    def is_active(self, step: int, max_steps: int) -> bool:
        """Whether the optimiser step after `step` done ones smooths labels."""
        return step >= self._warmup * max_steps

    def loss(self, margins: Tensor, confidence: Tensor, step: int, max_steps: int) -> SmoothedLoss:
        """The loss of each pair, before weights.

        Args:
            margins: (B,) gaps in nats, with their graph.
            confidence: (B,) the gaps that the threshold judges: the same ones, or de-coupled ones.
            step: optimiser steps done.
            max_steps: all that there will be.
        """
        doubted = (confidence.detach() <= self.threshold) & self.is_active(step, max_steps)
        smoothed = doubted.to(margins.dtype)
        return SmoothedLoss(smoothed_loss(margins, self._smoothing * smoothed), smoothed)

    def see(self, rows: Tensor, confidence: Tensor) -> None:
        """Takes (B,) rows and margins of a microbatch of this rank in training."""
        self._stash.append((rows, confidence.detach()))

    def on_train_begin(self, args, state, control, **kwargs):
        self._stash.clear()
        last = state.max_steps - 1
        if not self.is_active(last, state.max_steps) or (last == 0 and self.threshold == -math.inf):
            warnings.warn(
                f"confidence_smoothing never acts in {state.max_steps} optimiser steps, of which the first "
                f"{self._warmup:.0%} are without it and the very first has no earlier margins to compare with. This is "
                "DPO.",
                LeaderAlert,
                stacklevel=2,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if not self._stash:
            return
        rows, margins = collect_step(self._accelerator, self._stash)
        self._stash.clear()
        self._recent.push(margins, np.ones(len(rows)) if self._weights is None else self._weights[rows])
        self.threshold = self._recent.threshold()

    def save(self, folder: str) -> None:
        """Writes the latest margins into a checkpoint."""
        if self._accelerator.is_main_process:
            Path(folder).mkdir(parents=True, exist_ok=True)
            save_file(self._recent.state(), Path(folder) / STATE_FILE)

    def load(self, folder: str) -> None:
        """Goes on where the checkpoint was saved.

        Raises:
            InputError: a checkpoint of a run without smoothing.
        """
        path = Path(folder) / STATE_FILE
        if not path.is_file():
            raise InputError(
                f"{folder} holds no {STATE_FILE}; allowed: a checkpoint of a run with confidence_smoothing above 0."
            )
        self._recent.load(load_file(path))
        self.threshold = self._recent.threshold()
