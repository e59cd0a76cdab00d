"""Batches of sequences of similar length."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sgpo.store.progress import Advance


def batches_by_length(
    lengths: Sequence[int], batch_tokens: int, *, ties: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Yields the positions of N sequences batch by batch, longest first: a batch too large for memory fails at once.

    Args:
        lengths: (N,) tokens of each sequence, >= 1.
        batch_tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
        ties: (N,) numbers that order sequences of equal length, largest first; None keeps their order.
    """
    ties = [0] * len(lengths) if ties is None else ties
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], -ties[place], place))
    done = 0
    while done < len(order):
        size = max(1, batch_tokens // lengths[order[done]])
        yield order[done : done + size]
        done += size


@torch.inference_mode()
def fill_in_batches(
    out: np.ndarray,
    rows: Sequence[Any],
    compute: Callable[[list[Any]], np.ndarray],
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    ties: Sequence[int] | None = None,
    progress: Advance | None = None,
) -> None:
    """Fills `out`, (N, ...), with what `compute` returns for each batch of N rows, without gradients.

    For the batches see `batches_by_length`.

    Args:
        progress: called with the number of rows of each batch.
    """
    for batch in batches_by_length(lengths, batch_tokens, ties=ties):
        out[batch] = compute([rows[place] for place in batch])
        if progress is not None:
            progress(len(batch))
