"""Rows and margins of the latest complete optimiser steps, from all processes."""

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor


class StepMargins:
    """Margins of the optimiser step in progress, until those of all processes are collected."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._stash: list[tuple[Tensor, Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self._stash)

    def add(self, rows: Tensor, margins: Tensor) -> None:
        """Takes (B,) rows of the dataset and margins of a microbatch of this process."""
        self._stash.append((torch.full_like(rows, len(self)), rows, margins.detach()))

    def clear(self) -> None:
        """Drops what was seen, such as the margins of a step that was never finished."""
        self._stash.clear()

    def collect(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) ascending rows and float64 margins of all processes since the last call; every process must call it. A
        row that was seen twice (processes that run out of pairs get some again) has the margin that was seen first."""
        columns = [torch.cat(column) for column in zip(*self._stash, strict=True)]
        self.clear()
        padded = (self._accelerator.pad_across_processes(column, pad_index=-1) for column in columns)
        order, rows, margins = (self._accelerator.gather(column).cpu().numpy() for column in padded)
        by_time = np.argsort(order, kind="stable")[(order < 0).sum() :]
        rows, first = np.unique(rows[by_time], return_index=True)
        return rows, margins[by_time][first].astype(np.float64)


class RecentSteps:
    """Columns of numbers of the latest whole steps; the oldest steps go first, and the newest one is always kept."""

    def __init__(self, capacity: int, **dtypes: type) -> None:
        """Takes how many rows to keep, and the type of each column by its name in a checkpoint."""
        self.capacity = capacity
        self._empty = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}
        self._steps: list[tuple[np.ndarray, ...]] = []

    def __len__(self) -> int:
        return sum(len(step[0]) for step in self._steps)

    def push(self, *columns: np.ndarray) -> None:
        """Adds a step of (N,) rows, unless it is empty."""
        if len(columns[0]):
            self._steps.append(columns)
        while len(self._steps) > 1 and len(self) > self.capacity:
            self._steps.pop(0)

    def columns(self) -> list[np.ndarray]:
        """The columns, oldest step first."""
        return [np.concatenate(parts) for parts in zip(self._empty.values(), *self._steps, strict=True)]

    def state(self) -> dict[str, np.ndarray]:
        """The columns, and the length of each step."""
        lengths = np.array([len(step[0]) for step in self._steps], dtype=np.int64)
        return {**dict(zip(self._empty, self.columns(), strict=True)), "lengths": lengths}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `state` returned."""
        ends = np.cumsum(state["lengths"])
        self._steps = list(zip(*(np.split(state[name], ends)[:-1] for name in self._empty), strict=True))


class RecentGaps(RecentSteps):
    """The gaps that a follower with schedule "step" answers to: of the latest steps, filled up with initial gaps."""

    def __init__(self, gaps: np.ndarray, rows: np.ndarray, capacity: int) -> None:
        """Takes (N,) gaps before training in nats, their rows, and the capacity; it never holds more than N."""
        super().__init__(min(capacity, len(gaps)), gaps=np.float64, rows=np.int64)
        order = np.argsort(gaps, kind="stable")
        self._initial_gaps, self._initial_rows = gaps[order], rows[order]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Gaps and rows: evenly spaced ones of the sorted initial gaps where there is room, then those of the steps."""
        count, room = len(self._initial_gaps), max(self.capacity - len(self), 0)
        chosen = ((np.arange(room) + 0.5) * count / max(room, 1)).astype(np.int64)
        gaps, rows = self.columns()
        return np.concatenate([self._initial_gaps[chosen], gaps]), np.concatenate([self._initial_rows[chosen], rows])
