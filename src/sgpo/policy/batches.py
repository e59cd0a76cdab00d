"""Batches of sequences of similar length."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sgpo.store.progress import Advance


def batches_by_length(
    lengths: Sequence[int], batch_tokens: int, *, ties: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Yields positions batch by batch, longest sequences first, so that a batch too large for memory fails at once.

    A batch has at most `batch_tokens` tokens, padding included; a longer sequence is a batch of its own. Equal lengths
    are ordered by `ties`, largest first, then by position.
    """
    ties = [0] * len(lengths) if ties is None else ties
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], -ties[place]))
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

    For the batches see `batches_by_length`; `progress` counts rows.
    """
    for batch in batches_by_length(lengths, batch_tokens, ties=ties):
        out[batch] = compute([rows[place] for place in batch])
        if progress is not None:
            progress(len(batch))


def pad_right(sequences: Sequence[list[int]], device: torch.device) -> torch.Tensor:
    """(B, L) token ids; a shorter sequence repeats its last token, since any id of the vocabulary can pad.

    A causal model needs no attention mask for them: no real token sees the padding, and without a mask PyTorch takes
    its fastest attention kernel.
    """
    length = max(map(len, sequences))
    return torch.tensor([ids + ids[-1:] * (length - len(ids)) for ids in sequences], device=device)
