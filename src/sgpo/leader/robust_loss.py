"""SGPO's own loss: the follower's dual, with the follower's answers on schedule."""

from typing import Any

import numpy as np
from torch import Tensor

from sgpo.config.game import FollowerSettings
from sgpo.errors import InputError
from sgpo.leader.follower import Follower, radii
from sgpo.leader.pair_loss import PairBatch, PairLoss, PairLosses, Request, Setup, weighted_mean
from sgpo.leader.recent import StepMargins
from sgpo.leader.window import check_window
from sgpo.robust.solution import WorstCase


class RobustLoss(PairLoss):
    """The loss of each pair under the worst case that the follower has found.

    The follower answers before the first step and then by schedule: at the start of an epoch or after an optimiser
    step, to what training has seen on all processes. Everything within one optimiser step meets the same answer.

    Logs `robust/value` (nats), `robust/moved_share` and `robust/outside` (share of gaps outside the window), and for
    each source `robust/price`, `robust/window_low` and `robust/window_high`.

    Attributes:
        follower: None before `start`.
    """

    Settings = FollowerSettings
    state_file = "sgpo_follower.safetensors"

    @classmethod
    def request(cls, args: Any) -> Request | None:
        if not any(radius > 0 for radius in radii(args).values()):
            return None
        if args.source_radius is not None:
            return Request("source_radius", args.source_radius, "radius=0")
        return Request("radius", args.radius, "radius=0")

    @classmethod
    def check(cls, args: Any) -> None:
        check_window(args, is_robust=cls.request(args) is not None)
        if args.proximal and args.step != "mixture":
            raise InputError(f"proximal is {args.proximal} with step={args.step!r}; allowed: 0, or step 'mixture'.")
        if args.recent_pairs is not None and args.schedule != "step":
            raise InputError(
                f"recent_pairs is {args.recent_pairs} with schedule={args.schedule!r}; allowed: None, or schedule "
                "'step'."
            )
        if args.solver != "exact" and args.tangents == 0:
            raise InputError(
                f"tangents is 0 with solver={args.solver!r}, which needs a piecewise linear link; allowed: tangents "
                ">= 1, or solver 'exact'."
            )

    def __init__(self, setup: Setup) -> None:
        self._setup, self._schedule = setup, setup.args.schedule
        self._step = StepMargins(setup.accelerator)
        self.follower: Follower | None = None

    @property
    def worst_cases(self) -> dict[str, WorstCase]:
        """The follower's latest answer by source (or under "all"); empty before the first one."""
        return {} if self.follower is None else self.follower.worst_cases

    def start(self, checkpoint: str | None) -> None:
        """Has the follower answer to the initial gaps, or restores it from a checkpoint.

        A resumed run must answer to the gaps that the first start saw, so they come from the checkpoint.

        Raises:
            InputError: see `Follower`.
        """
        state = None if checkpoint is None else self.read_state(checkpoint)
        if self.follower is not None and state is None:
            return
        args, pairs = self._setup.args, self._setup.pairs
        if state is not None:
            self.follower = Follower(args, pairs, state["gaps"])
            self.follower.load(state)
            return
        radius = np.array(list(radii(args).values()))
        is_moved = radius[0 if pairs.sources is None else pairs.sources].any()
        self.follower = Follower(args, pairs, self._setup.measure_gaps() if is_moved else np.zeros(len(pairs.rows)))
        self.follower.answer(self._setup.worst_cases)

    def losses(self, batch: PairBatch) -> PairLosses:
        pairs = self.follower.loss(batch.margins, batch.tags, training=batch.training)
        if batch.training:
            self.see(batch.tags.row, batch.margins)
        means = {
            "robust/value": weighted_mean(pairs.loss.detach(), batch.tags),
            "robust/moved_share": pairs.moved.mean(),
            "robust/outside": pairs.outside.mean(),
        }
        numbers = {}
        for source, worst in self.worst_cases.items():
            of = "" if source == "all" else f"/{source}"
            numbers[f"robust/price{of}"] = float(worst.price)
            numbers[f"robust/window_low{of}"] = float(worst.window[0])
            numbers[f"robust/window_high{of}"] = float(worst.window[1])
        return PairLosses(pairs.loss, means, numbers)

    def see(self, rows: Tensor, margins: Tensor) -> None:
        """Takes (B,) rows and gaps of a microbatch in training."""
        if self._schedule != "round":
            self._step.see(rows, margins)

    def on_train_begin(self, args, state, control, **kwargs):
        self._step.clear()

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self._schedule == "epoch":
            self._flush()
            self.follower.begin_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        if self._schedule == "step":
            self._flush()

    def state(self) -> dict[str, np.ndarray] | None:
        if self.follower is None:
            return None
        self._flush()
        return self.follower.state()

    def _flush(self) -> None:
        if not len(self._step):
            return
        rows, gaps = self._step.collect()
        if self._schedule == "step":
            self.follower.see_step(gaps, rows)
        else:
            self.follower.see_epoch(gaps, rows)
