"""Guards of a training: alerts, once each, and a stop before a number that is not finite reaches the weights."""

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from sgpo.errors import InputError
from sgpo.robust.solution import WorstCase
from sgpo.stats.alarms import collapsed, idle, saturated


class LeaderAlert(UserWarning):
    """Training continues, but its numbers need attention."""


class Guards(TrainerCallback):
    """Watches the log: collapse of the chosen log-probability, a follower that moves nothing or everything."""

    def __init__(self, worst_cases: Callable[[], Mapping[str, WorstCase]]) -> None:
        """Takes a function that returns the follower's latest answer by source."""
        self._worst_cases = worst_cases
        self._shown: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        self._shown.clear()

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs):
        if not state.is_world_process_zero or not logs or "logps/chosen" not in logs:
            return
        where, chosen = f"step {state.global_step}:", logs["logps/chosen"]
        # The reference's score of the same responses: batches differ too much to be compared with each other.
        reference = chosen - logs["rewards/chosen"] / args.beta
        if collapsed(chosen, reference):
            self._warn(
                "collapse",
                f"{where} the mean log-probability of the chosen responses fell to {chosen:.1f} nats, from "
                f"{reference:.1f} under the reference. The policy moves away from the responses that it should "
                "prefer; a larger beta or a smaller learning rate prevents that.",
            )
        for source, worst in self._worst_cases().items():
            share = float(worst.moved_share)
            moves = f"{where} the follower moves a share of {share:.4f} of the pairs"
            moves += "" if source == "all" else f" of source {source!r}"
            if idle(share):
                self._warn(f"idle {source}", f"{moves}, so this is nearly plain DPO; a larger radius moves more.")
            elif saturated(share):
                what = "so little of the data is left to learn from; a smaller radius leaves more."
                self._warn(f"saturated {source}", f"{moves}, {what}")

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._shown:
            self._shown.add(kind)
            warnings.warn(message, LeaderAlert, stacklevel=2)


def refuse_bad_loss(loss: Tensor, rows: Tensor | None, accelerator: Accelerator, step: int, output_dir: str) -> None:
    """Stops training, on every process, at a microbatch's loss that is not finite, before its gradient exists. The
    InputError names the step, the (B,) rows of the process whose loss it was (None: a stream) and the last
    checkpoint."""
    # All processes must stop together, or the others wait forever in the next collective call.
    losses = accelerator.gather(loss.detach().float().reshape(1))
    bad = ~torch.isfinite(losses)
    if not bad.any():
        return
    where = "a stream"
    if rows is not None:
        rows = accelerator.gather(accelerator.pad_across_processes(rows, pad_index=-1))
        rows = rows.reshape(len(losses), -1)[bad]
        where = f"rows {sorted(set(rows.flatten().tolist()) - {-1})} of train_dataset"
    raise InputError(f"step {step + 1}: the loss is {losses[bad][0].item()} on {where}; {_advice(output_dir)}")


def refuse_bad_gradient(norm: float, step: int, rows: list[int], output_dir: str) -> None:
    """Stops training at a gradient that is not finite, on these rows of this process, before the optimiser takes it."""
    if not math.isfinite(norm):
        raise InputError(
            f"step {step + 1}: the gradient's norm is {norm} on rows {sorted(rows)} of train_dataset; "
            f"{_advice(output_dir)}"
        )


def last_checkpoint(output_dir: str) -> str | None:
    """The latest checkpoint in a folder, which need not exist."""
    return get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None


def _advice(output_dir: str) -> str:
    last = last_checkpoint(output_dir)
    kept = f"the last good checkpoint is {last}" if last else "no checkpoint was saved before it"
    return f"training stops with the weights of the step before, and {kept}. Check the texts and scores of these pairs."
