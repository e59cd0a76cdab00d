"""Batches of sequences of similar length."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sgpo.store.progress import Advance


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
    """Fills `out`, (N, ...), with what `compute` returns for each batch, of at most `batch_tokens` tokens with padding
    (or one longer row), without gradients. The longest rows come first, so that too large a batch fails at once; of
    equal lengths the largest of `ties`."""
    ties = [0] * len(lengths) if ties is None else ties
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], -ties[place]))
    done = 0
    while done < len(order):
        batch = order[done : done + max(1, batch_tokens // lengths[order[done]])]
        out[batch] = compute([rows[place] for place in batch])
        done += len(batch)
        if progress is not None:
            progress(len(batch))


def pad_right(sequences: Sequence[list[int]], device: torch.device) -> torch.Tensor:
    """(B, L) token ids; a shorter sequence repeats its last token. A causal model needs no attention mask for that: no
    real token sees the padding, and without a mask PyTorch takes its fastest attention kernel."""
    length = max(map(len, sequences))
    return torch.tensor([ids + ids[-1:] * (length - len(ids)) for ids in sequences], device=device)
