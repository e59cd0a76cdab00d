"""Carries the gaps that training sees to the follower, from every rank and microbatch, when its schedule says so."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

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
        device = self._stash[0][0].device
        lengths = torch.tensor([len(rows) for rows, _ in self._stash], device=device)
        order = torch.arange(len(self._stash), device=device).repeat_interleave(lengths)
        columns = [order, *(torch.cat(column) for column in zip(*self._stash, strict=True))]
        self._stash.clear()
        if self._accelerator.num_processes > 1:
            columns = [
                self._accelerator.gather(self._accelerator.pad_across_processes(column, pad_index=-1))
                for column in columns
            ]
        order, rows, gaps = (column.cpu().numpy() for column in columns)
        real = order >= 0
        by_time = np.argsort(order[real], kind="stable")
        rows, gaps = rows[real][by_time], gaps[real][by_time].astype(np.float64)
        rows, first = np.unique(rows, return_index=True)
        if self._schedule == "step":
            self.follower.see_step(gaps[first], rows)
        else:
            self.follower.see_epoch(gaps[first], rows)
