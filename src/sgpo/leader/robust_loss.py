"""SGPO's own loss: the follower's dual, with the follower's answers on schedule."""

from typing import Any

import numpy as np

from sgpo.config.game import FollowerSettings
from sgpo.errors import InputError
from sgpo.leader.follower import ALL, Follower, radii
from sgpo.leader.pair_loss import PairBatch, PairLoss, PairLosses, Request, Setup, weighted_mean
from sgpo.leader.pairs import require
from sgpo.leader.recent import StepMargins
from sgpo.robust.ball import Ball
from sgpo.robust.solution import WorstCase

# Settings that only some values of another setting use.
_USED_WITH = {
    "window": ("window_rule", ("explicit",)),
    "window_margin": ("window_rule", ("min_max", "quantiles")),
    "window_quantiles": ("window_rule", ("quantiles",)),
    "recent_pairs": ("schedule", ("step",)),
    "proximal": ("step", ("mixture",)),
}


class RobustLoss(PairLoss):
    """The loss of each pair under the worst case that the follower has found. It answers at `start` and then by
    schedule, at the start of an epoch or after an optimiser step; everything within one optimiser step meets the same
    answer."""

    Settings = FollowerSettings
    state_file = "sgpo_follower.safetensors"

    @classmethod
    def request(cls, args: Any) -> Request | None:
        name = "radius" if args.source_radius is None else "source_radius"
        return Request(name, getattr(args, name), "radius=0") if any(radii(args).values()) else None

    @classmethod
    def check(cls, args: Any) -> None:
        """Checks the settings of the follower; fills in the window [0, 1] in probability space."""
        for name, (key, values) in _USED_WITH.items():
            value, default = getattr(args, key), getattr(FollowerSettings, name)
            if value not in values:
                require(args, {name: default}, f"{key}={value!r}", f"{key} {' or '.join(map(repr, values))}")
        levels = args.window_quantiles
        if levels is not None and (len(levels) != 2 or not 0 <= levels[0] < levels[1] <= 1):
            raise InputError(f"window_quantiles is {levels}; allowed: two levels [low, high], 0 <= low < high <= 1.")
        if args.solver != "exact" and args.tangents == 0:
            raise InputError(
                f"tangents is 0 with solver={args.solver!r}, which needs a piecewise linear link; allowed: tangents "
                ">= 1, or solver 'exact'."
            )
        if args.window_rule == "explicit" and cls.request(args) is not None:
            ball = Ball(0.0, space=args.space, window=args.window, tangents=args.tangents or None)
            try:
                args.window = list(ball.resolve()[1])
            except InputError as error:
                found = "Or window_rule 'min_max' or 'quantiles', which find it from the gaps."
                raise InputError(f"{error} {found}") from None

    def __init__(self, setup: Setup) -> None:
        self._setup, self._schedule = setup, setup.args.schedule
        self.seen = StepMargins(setup.accelerator)
        self.follower: Follower | None = None

    @property
    def worst_cases(self) -> dict[str, WorstCase]:
        return {} if self.follower is None else self.follower.worst_cases

    def resume(self, checkpoint: str) -> None:
        if (state := self.read_state(checkpoint)) is not None:
            self.follower = Follower.restored(self._setup.args, self._setup.pairs, state)

    def start(self) -> None:
        """Has the follower answer to the initial gaps."""
        if self.follower is None:
            args, pairs = self._setup.args, self._setup.pairs
            radius = np.array(list(radii(args).values()))
            is_moved = radius[0 if pairs.sources is None else pairs.sources].any()
            gaps = self._setup.measure_gaps() if is_moved else np.zeros(len(pairs.rows))
            self.follower = Follower(args, pairs, gaps)
            self.follower.answer(self._setup.worst_cases)

    def losses(self, batch: PairBatch) -> PairLosses:
        pairs = self.follower.loss(batch.margins, batch.tags, training=batch.training)
        if batch.training and self._schedule != "round":
            self.seen.add(batch.tags.row, batch.margins)
        means = {
            "robust/value": weighted_mean(pairs.loss.detach(), batch.tags),
            "robust/moved_share": pairs.moved.mean(),
            "robust/outside": pairs.outside.mean(),
        }
        numbers = {}
        for source, worst in self.worst_cases.items():
            low, high = worst.window
            for name, number in (("price", worst.price), ("window_low", low), ("window_high", high)):
                numbers[f"robust/{name}" if source == ALL else f"robust/{name}/{source}"] = float(number)
        return PairLosses(pairs.loss, means, numbers)

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen.clear()

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
        if len(self.seen):
            self.follower.see(*self.seen.collect())
