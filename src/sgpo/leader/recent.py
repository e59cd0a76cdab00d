"""The latest whole optimiser steps: what they saw on all processes, and how much of it is kept."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor


class StepMargins:
    """Margins of the optimiser step in progress, until those of all processes are collected."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._stash: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self._stash)

    def see(self, rows: Tensor, margins: Tensor) -> None:
        """Takes (B,) rows of the dataset and margins of a microbatch of this process."""
        self._stash.append((rows, margins.detach()))

    def clear(self) -> None:
        """Drops what was seen, such as the margins of a step that was never finished."""
        self._stash.clear()

    def collect(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and margins of all processes since the last call; every process must call it, and gets the same.

        Returns: (N,) ascending rows and (N,) float64 margins. A row that was seen twice (processes that run out of
            pairs get some again) has the margin that was seen first.
        """
        device = self._stash[0][0].device
        lengths = torch.tensor([len(rows) for rows, _ in self._stash], device=device)
        order = torch.arange(len(self._stash), device=device).repeat_interleave(lengths)
        columns = [order, *(torch.cat(column) for column in zip(*self._stash, strict=True))]
        self._stash.clear()
        accelerator = self._accelerator
        if accelerator.num_processes > 1:
            columns = [accelerator.gather(accelerator.pad_across_processes(column, pad_index=-1)) for column in columns]
        order, rows, margins = (column.cpu().numpy() for column in columns)
        real = order >= 0
        by_time = np.argsort(order[real], kind="stable")
        rows, margins = rows[real][by_time], margins[real][by_time].astype(np.float64)
        rows, first = np.unique(rows, return_index=True)
        return rows, margins[first]


class RecentSteps:
    """Two columns of numbers of the latest whole steps; the oldest steps go first, and the newest one is always kept.

    Args:
        names: of the columns, in a checkpoint.
        dtypes: of the columns.
        capacity: how many rows to keep.
    """

    def __init__(self, names: Sequence[str], dtypes: Sequence[type], capacity: int) -> None:
        self._names, self._empty = names, [np.empty(0, dtype) for dtype in dtypes]
        self.capacity = capacity
        self._steps: list[tuple[np.ndarray, ...]] = []

    def __len__(self) -> int:
        return sum(len(step[0]) for step in self._steps)

    def push(self, *columns: np.ndarray) -> None:
        """Adds a step of (N,) rows, unless it is empty."""
        if len(columns[0]) == 0:
            return
        self._steps.append(columns)
        while len(self._steps) > 1 and len(self) > self.capacity:
            self._steps.pop(0)

    def columns(self) -> list[np.ndarray]:
        """Both columns, oldest step first."""
        return [
            np.concatenate([empty, *(step[place] for step in self._steps)]) for place, empty in enumerate(self._empty)
        ]

    def state(self) -> dict[str, np.ndarray]:
        """The columns, and the length of each step."""
        lengths = np.array([len(step[0]) for step in self._steps], dtype=np.int64)
        return {**dict(zip(self._names, self.columns(), strict=True)), "lengths": lengths}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `state` returned."""
        cuts = np.cumsum(state["lengths"])[:-1]
        self._steps = []
        if len(state["lengths"]):
            self._steps = list(zip(*(np.split(state[name], cuts) for name in self._names), strict=True))


class RecentGaps(RecentSteps):
    """The gaps that a follower with schedule "step" answers to: of the latest steps, filled up with initial gaps."""

    def __init__(self, gaps: np.ndarray, rows: np.ndarray, capacity: int) -> None:
        """Takes (N,) gaps before training in nats, their rows, and the capacity; it never holds more than N."""
        super().__init__(("gaps", "rows"), (np.float64, np.int64), min(capacity, len(gaps)))
        order = np.argsort(gaps, kind="stable")
        self._initial_gaps, self._initial_rows = gaps[order], rows[order]

    def push(self, gaps: np.ndarray, rows: np.ndarray) -> None:
        """Adds the pairs of one optimiser step, sorted by row so that the order of microbatches does not matter."""
        order = np.argsort(rows, kind="stable")
        super().push(gaps[order], rows[order])

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Gaps and rows: evenly spaced ones of the sorted initial gaps where there is room, then those of the steps."""
        count, room = len(self._initial_gaps), max(self.capacity - len(self), 0)
        chosen = ((np.arange(room) + 0.5) * count / room).astype(np.int64) if room else np.empty(0, np.int64)
        gaps, rows = self.columns()
        return np.concatenate([self._initial_gaps[chosen], gaps]), np.concatenate([self._initial_rows[chosen], rows])
