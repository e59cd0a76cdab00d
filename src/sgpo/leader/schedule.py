"""Carries the gaps that training sees to the follower, from every rank and microbatch, when its schedule says so."""

from pathlib import Path

import numpy as np
from accelerate import Accelerator
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from sgpo.leader.collect import collect_step
from sgpo.leader.follower import Follower

STATE_FILE = "sgpo_follower.safetensors"


def read_state(folder: str) -> dict[str, np.ndarray] | None:
    """The follower's state in a checkpoint; None in one of plain DPO."""
    path = Path(folder) / STATE_FILE
    return load_file(path) if path.is_file() else None


class Schedule(TrainerCallback):
    """Lets the follower answer at an epoch's start or after an optimiser step.

    Everything within one optimiser step meets the same answer, and an answer depends on which pairs were seen, never on
    how they were cut into microbatches or spread over ranks.
    """

    def __init__(self, accelerator: Accelerator, schedule: str) -> None:
        self.follower: Follower | None = None
        self._accelerator, self._schedule = accelerator, schedule
        self._stash: list[tuple[Tensor, Tensor]] = []

    def see(self, rows: Tensor, margins: Tensor) -> None:
        """Takes (B,) rows and gaps of a microbatch of this rank."""
        if self._schedule != "round":
            self._stash.append((rows, margins.detach()))

    def on_train_begin(self, args, state, control, **kwargs):
        self._stash.clear()

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self._schedule == "epoch" and self.follower is not None:
            self._flush()
            self.follower.begin_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        if self._schedule == "step" and self.follower is not None:
            self._flush()

    def save(self, folder: str) -> None:
        """Writes the follower's state into a checkpoint; every rank must call it."""
        if self.follower is None:
            return
        self._flush()
        if self._accelerator.is_main_process:
            Path(folder).mkdir(parents=True, exist_ok=True)
            state = {key: np.ascontiguousarray(value) for key, value in self.follower.state().items()}
            save_file(state, Path(folder) / STATE_FILE)

    def _flush(self) -> None:
        if not self._stash:
            return
        rows, gaps = collect_step(self._accelerator, self._stash)
        self._stash.clear()
        if self._schedule == "step":
            self.follower.see_step(gaps, rows)
        else:
            self.follower.see_epoch(gaps, rows)
