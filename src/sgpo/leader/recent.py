"""The running window of gaps that the follower answers to when it answers after every step."""

import numpy as np


class RecentGaps:
    """The latest gaps, in whole optimiser steps; what they do not fill yet comes from the gaps before training.

    Attributes:
        capacity: how many pairs it holds; one step larger than that is kept whole.
    """

    def __init__(self, gaps: np.ndarray, rows: np.ndarray, capacity: int) -> None:
        """Takes (N,) initial gaps in nats, the row of each, and the capacity; it never holds more than N."""
        order = np.argsort(gaps, kind="stable")
        self._initial_gaps, self._initial_rows = gaps[order], rows[order]
        self.capacity = min(capacity, len(gaps))
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []

    def push(self, gaps: np.ndarray, rows: np.ndarray) -> None:
        """Adds one optimiser step's pairs and forgets the oldest steps that no longer fit."""
        if len(gaps) == 0:
            return
        # Sorted by row, so that nothing downstream can depend on the order of ranks or microbatches.
        order = np.argsort(rows, kind="stable")
        self._steps.append((gaps[order], rows[order]))
        while len(self._steps) > 1 and self._pushed() > self.capacity:
            self._steps.pop(0)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Gaps and rows in the window: an evenly spaced selection of the sorted initial ones, then the steps'."""
        count, room = len(self._initial_gaps), max(self.capacity - self._pushed(), 0)
        chosen = ((np.arange(room) + 0.5) * count / room).astype(np.int64) if room else np.empty(0, np.int64)
        gaps = [self._initial_gaps[chosen], *(gaps for gaps, _ in self._steps)]
        rows = [self._initial_rows[chosen], *(rows for _, rows in self._steps)]
        return np.concatenate(gaps), np.concatenate(rows)

    def state(self) -> dict[str, np.ndarray]:
        """The steps as arrays: all gaps, all rows, and the length of each step."""
        return {
            "gaps": np.concatenate([np.empty(0), *(gaps for gaps, _ in self._steps)]),
            "rows": np.concatenate([np.empty(0, np.int64), *(rows for _, rows in self._steps)]),
            "lengths": np.array([len(gaps) for gaps, _ in self._steps], dtype=np.int64),
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Takes back what `state` gave."""
        cuts = np.cumsum(state["lengths"])[:-1]
        self._steps = []
        if len(state["lengths"]):
            self._steps = list(zip(np.split(state["gaps"], cuts), np.split(state["rows"], cuts), strict=True))

    def _pushed(self) -> int:
        return sum(len(gaps) for gaps, _ in self._steps)
