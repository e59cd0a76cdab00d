"""Guards of a training: alerts, once each, and a stop before a number that is not finite reaches the weights."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from sgpo.errors import InputError
from sgpo.stats.alarms import collapsed, idle, saturated


class LeaderAlert(UserWarning):
    """Training continues, but its numbers need attention."""


class Guards(TrainerCallback):
    """Watches the log: collapse of the chosen log-probability, a follower that moves nothing or everything."""

    def __init__(self, moved_shares: Callable[[], dict[str, float]]) -> None:
        """Takes a function that returns the share of moved mass by source, from the follower's latest answer."""
        self._moved_shares = moved_shares
        self._shown: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        self._shown.clear()

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs):
        if not state.is_world_process_zero or not logs or "logps/chosen" not in logs:
            return
        # The reference's score of the same responses: batches differ too much to be compared with each other.
        reference = logs["logps/chosen"] - logs["rewards/chosen"] / args.beta
        self._watch_chosen(logs["logps/chosen"], reference, state.global_step)
        for source, share in self._moved_shares().items():
            self._watch_share(source, share, state.global_step)

    def _watch_chosen(self, chosen: float, reference: float, step: int) -> None:
        if collapsed(chosen, reference):
            self._warn(
                "collapse",
                f"step {step}: the mean log-probability of the chosen responses fell to {chosen:.1f} nats, from "
                f"{reference:.1f} under the reference. The policy moves away from the responses that it should "
                "prefer; a larger beta or a smaller learning rate prevents that.",
            )

    def _watch_share(self, source: str, share: float, step: int) -> None:
        of = "" if source == "all" else f" of source {source!r}"
        if idle(share):
            self._warn(
                f"idle {source}",
                f"step {step}: the follower moves a share of {share:.4f} of the pairs{of}, so this is nearly plain "
                "DPO; a larger radius moves more.",
            )
        elif saturated(share):
            self._warn(
                f"saturated {source}",
                f"step {step}: the follower moves a share of {share:.3f} of the pairs{of}, so little of the data is "
                "left to learn from; a smaller radius leaves more.",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._shown:
            self._shown.add(kind)
            warnings.warn(message, LeaderAlert, stacklevel=2)


def refuse_bad_loss(loss: Tensor, rows: Tensor | None, accelerator: Accelerator, step: int, output_dir: str) -> None:
    """Stops training at a loss that is not finite, on every process, before its gradient exists.

    Args:
        loss: of one microbatch of this process.
        rows: (B,) its pairs' rows in the training set; None for a stream.
        accelerator: of the trainer.
        step: optimiser steps done.
        output_dir: where checkpoints are.

    Raises:
        InputError: names the step, the rows of the process whose loss it was, and the last checkpoint.
    """
    local = loss.detach().float()
    # All processes must stop together, or the others wait forever in the next collective call.
    everywhere = accelerator.gather(local.reshape(1)) if accelerator.num_processes > 1 else local.reshape(1)
    if math.isfinite(everywhere.sum().item()) or bool(torch.isfinite(everywhere).all()):
        return
    if accelerator.num_processes > 1 and rows is not None:
        rows = accelerator.gather(accelerator.pad_across_processes(rows, pad_index=-1)).reshape(len(everywhere), -1)
        rows = rows[~torch.isfinite(everywhere)]
    where = "a stream" if rows is None else f"rows {sorted(set(rows.flatten().tolist()) - {-1})} of train_dataset"
    bad = everywhere[~torch.isfinite(everywhere)][0].item()
    raise InputError(f"step {step + 1}: the loss is {bad} on {where}; {_advice(output_dir)}")


def refuse_bad_gradient(norm: float, step: int, rows: list[int], output_dir: str) -> None:
    """Stops training at a gradient that is not finite, before the optimiser takes it.

    Raises:
        InputError: names the step, the rows of this process's pairs in it, and the last checkpoint.
    """
    if not math.isfinite(norm):
        raise InputError(
            f"step {step + 1}: the gradient's norm is {norm} on rows {sorted(rows)} of train_dataset; "
            f"{_advice(output_dir)}"
        )


def _advice(output_dir: str) -> str:
    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint was saved before it"
    return f"training stops with the weights of the step before, and {kept}. Check the texts and scores of these pairs."
