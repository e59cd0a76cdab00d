"""What one optimiser step saw, from every rank and microbatch."""

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor


def collect_step(accelerator: Accelerator, stash: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and values of all processes, each row once; every rank must call it, and gets the same.

    Args:
        accelerator: of the trainer.
        stash: microbatches of this rank in order, (B,) rows of the dataset and (B,) values each; at least one.

    Returns: (N,) ascending rows and (N,) float64 values. A row that was seen twice (ranks that run out of pairs are
        given some again) has the value that was seen first.
    """
    device = stash[0][0].device
    lengths = torch.tensor([len(rows) for rows, _ in stash], device=device)
    order = torch.arange(len(stash), device=device).repeat_interleave(lengths)
    columns = [order, *(torch.cat(column) for column in zip(*stash, strict=True))]
    if accelerator.num_processes > 1:
        columns = [accelerator.gather(accelerator.pad_across_processes(column, pad_index=-1)) for column in columns]
    order, rows, values = (column.cpu().numpy() for column in columns)
    real = order >= 0
    by_time = np.argsort(order[real], kind="stable")
    rows, values = rows[real][by_time], values[real][by_time].astype(np.float64)
    rows, first = np.unique(rows, return_index=True)
    return rows, values[first]
