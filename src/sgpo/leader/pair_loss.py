"""What a loss of preference pairs is to the trainer: an object that turns margins into losses and keeps its own state.

A new loss is a subclass of `PairLoss` in a file of its own, and a line in `sgpo.leader.pair_losses`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import TrainerCallback

from sgpo.leader.pairs import Pairs, PairTags
from sgpo.robust.solution import WorstCase

# (B,) summed log-probabilities of the chosen and of the rejected responses, in nats.
PairLogps = tuple[Tensor, Tensor]


class Request(NamedTuple):
    """The argument that asks for a loss, its value, and what to write to keep the sigmoid loss instead."""

    name: str
    value: Any
    off: str

    def __str__(self) -> str:
        return f"{self.name} {self.value}"


@dataclass(frozen=True)
class Setup:
    """What a trainer gives its loss: a function that measures the (N,) gaps before training, in nats; the causal
    language models without wrappers (no reference where only scores are stored); the follower's first answer if there
    is one."""

    args: Any
    accelerator: Accelerator
    pairs: Pairs
    measure_gaps: Callable[[], np.ndarray]
    policy: nn.Module
    reference: nn.Module | None
    sharded: bool
    worst_cases: Mapping[str, WorstCase] | None = None


class PairBatch(NamedTuple):
    """One microbatch of a process: (B,) margins in nats with their graph, the batch as the model takes it with the
    reference's log-probabilities, (2B, L) the policy's by token in nats, and optimiser steps done and in all."""

    margins: Tensor
    tags: PairTags
    training: bool
    inputs: dict[str, Any]
    log_probs: Tensor
    step: int
    max_steps: int


class PairLosses(NamedTuple):
    """(B,) losses in nats, before weights; scalar metrics to average over processes; metrics that are equal on all."""

    loss: Tensor
    means: Mapping[str, Tensor] = {}
    numbers: Mapping[str, float] = {}


class PairLoss(TrainerCallback):
    """DPO's loss pair by pair; its subclasses replace it.

    It is a callback of the trainer: its state may change between optimiser steps, never within one, and must not depend
    on how a step is split into microbatches and processes.

    Attributes:
        Settings: dataclass of the arguments that it adds to `SGPOConfig`.
        takes_weights: whether the dataset may weight its pairs.
        looks_ahead: whether `begin_step` needs the margins of a whole optimiser step.
        rescores_reference: whether the reference must be run at each step, even if its scores are stored.
        state_file: name of its file in a checkpoint.
        worst_cases: the follower's latest answer by source, or under "all"; empty without a follower.
    """

    Settings: ClassVar[type]
    takes_weights: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = False
    rescores_reference: bool = False
    state_file: ClassVar[str] = ""
    worst_cases: Mapping[str, WorstCase] = {}

    @classmethod
    def request(cls, args: Any) -> Request | None:
        """What in the arguments asks for this loss; None if nothing does."""
        return None

    @classmethod
    def check(cls, args: Any) -> None:
        """Raises InputError for arguments of this loss that do not go together, or that would be ignored."""

    def resume(self, checkpoint: str) -> None:
        """Takes its state from a checkpoint, before the checkpoint's weights are loaded."""

    def start(self) -> None:
        """Makes the state of a new training, unless it exists; called before training and before each batch."""

    def watch(self, who: Literal["policy", "reference"]) -> AbstractContextManager:
        """Is open while a model scores a batch; the reference comes first."""
        return nullcontext()

    def begin_step(self, margins: Tensor, parts: int) -> None:
        """Takes the (B,) margins in nats of an optimiser step on this process, if `looks_ahead`; all processes call it.
        `parts` is the number of microbatches of a process times processes."""

    def losses(self, batch: PairBatch) -> PairLosses:
        """The loss of each pair; in training it also remembers what it has seen."""
        return PairLosses(-logsigmoid(batch.margins))

    def state(self) -> dict[str, np.ndarray] | None:
        """What a checkpoint must hold; every process must call it."""
        return None

    def save(self, folder: str, accelerator: Accelerator) -> None:
        """Writes `state` into a checkpoint; every process must call it."""
        state = self.state()
        if state is not None and accelerator.is_main_process:
            Path(folder).mkdir(parents=True, exist_ok=True)
            arrays = {key: np.ascontiguousarray(value) for key, value in state.items()}
            save_file(arrays, Path(folder) / self.state_file)

    @classmethod
    def read_state(cls, folder: str) -> dict[str, np.ndarray] | None:
        """The state in a checkpoint; None in a checkpoint of another loss."""
        path = Path(folder) / cls.state_file
        return load_file(path) if path.is_file() else None


def sum_pair_logps(per_token_logps: Tensor, completion_mask: Tensor, ld_alpha: float | None) -> PairLogps:
    """Sums (2B, L) log-probabilities of tokens, chosen rows before rejected rows, 0 outside completions. `ld_alpha`
    weighs the tokens beyond the shorter response of a pair (LD-DPO, arXiv:2409.06411); None sums all alike."""
    # Prompt-learning PEFT puts virtual tokens in front of the real ones.
    per_token_logps = per_token_logps[:, -completion_mask.size(1) :]
    if ld_alpha is None:
        return per_token_logps.sum(dim=1).chunk(2)
    position = completion_mask.cumsum(dim=1)
    shared_length = torch.minimum(*completion_mask.sum(dim=1).chunk(2)).repeat(2).unsqueeze(1)
    weight = torch.where(position <= shared_length, 1.0, ld_alpha) * completion_mask
    return (per_token_logps * weight).sum(dim=1).chunk(2)


def pair_margins(policy: PairLogps, reference: PairLogps, beta: float) -> Tensor:
    r"""Gaps `xi = beta * [(log pi - log pi_ref)(x, y_w) - (log pi - log pi_ref)(x, y_l)]`, (B,) float32, in nats.

    Source: arXiv:2502.18099, Section 3.1.
    """
    chosen, rejected = (own.float() - base.float() for own, base in zip(policy, reference, strict=True))
    return beta * (chosen - rejected)


def weighted_mean(loss: Tensor, tags: PairTags) -> Tensor:
    """Mean of (B,) losses under the weights of the pairs, whose mean is 1 over the dataset."""
    return (loss if tags.weight is None else tags.weight * loss).mean()
