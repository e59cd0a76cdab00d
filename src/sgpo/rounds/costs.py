r"""What a run costs: bytes of training, floating-point operations of each stage, hours.

A forward pass takes 2 operations per weight and token and a backward pass 4 (Kaplan et al., arXiv:2001.08361, Section
2.1); recomputing activations in the backward pass takes another 2. Attention over the sequence is left out. These are
estimates of the order of magnitude.
"""

import math
from dataclasses import dataclass

from sgpo.config import RunConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}
_FORWARD, _TRAIN, _TRAIN_RECOMPUTED = 2, 6, 8


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run: its name, what it does, and its hours if the recipe describes the hardware."""

    name: str
    work: str
    hours: float | None = None


@dataclass(frozen=True)
class Architecture:
    """What the memory of activations depends on: layers, width, and size of the vocabulary."""

    layers: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a prompt and of a response."""

    prompt: float
    response: float

    @property
    def together(self) -> float:
        """Mean tokens of a prompt with its response."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Scale:
    """What the stages of a run depend on.

    Attributes:
        parameters: weights of the model.
        seeds, validation, heldout: human pairs.
        pools: prompts of each round.
        lengths: mean tokens.
    """

    parameters: int
    seeds: int
    validation: int
    heldout: int
    pools: list[int]
    lengths: Lengths


def state_bytes(parameters: int, dtype: str) -> int:
    """Bytes of weights, gradients and Adam's two moments, all in the model's dtype."""
    return 4 * parameters * BYTES[dtype]


def activation_bytes(architecture: Architecture, tokens: int, dtype: str) -> int:
    """Bytes of activations of one forward and backward pass that keeps each layer's input and recomputes the rest.

    Args:
        architecture: of the model.
        tokens: of the microbatch, padding included: pairs x 2 x length.
        dtype: of the model.

    Returns: inputs of all layers, one layer's inside (34 numbers per token and unit of width, Korthikanti et al.,
        arXiv:2205.05198, without the attention matrix), and the logits of one slice of 4,096 tokens in float32.
    """
    size = BYTES[dtype]
    kept = architecture.layers * tokens * architecture.hidden * size
    inside = 34 * tokens * architecture.hidden * size // 2
    logits = 2 * min(tokens, 4096) * architecture.vocabulary * 4
    return kept + inside + logits


def generation_flops(parameters: int, prompts: int, candidates: int, lengths: Lengths) -> float:
    """Operations to answer prompts: for each candidate the prompt is read and the response generated once."""
    return _FORWARD * parameters * prompts * candidates * lengths.together


def scoring_flops(parameters: int, responses: int, lengths: Lengths) -> float:
    """Operations of one model's pass over responses with their prompts."""
    return _FORWARD * parameters * responses * lengths.together


def training_flops(parameters: int, pairs: float, lengths: Lengths, *, recomputed: bool) -> float:
    """Operations to train on pairs (times epochs) of two responses; `recomputed`: activations are recomputed."""
    return (_TRAIN_RECOMPUTED if recomputed else _TRAIN) * parameters * 2 * pairs * lengths.together


def hours(flops: float, *, devices: int, teraflops: float, utilisation: float) -> float:
    """Hours that devices take for operations, at a share `utilisation` of their peak, `teraflops` (10^12 a second)."""
    return flops / (devices * teraflops * 1e12 * utilisation) / 3600


def recipe_hours(config: RunConfig, flops: float, *, generating: bool = False) -> float | None:
    """`hours` on the hardware that the recipe describes; None if it describes none."""
    hardware = config.hardware
    if hardware is None:
        return None
    utilisation = hardware.generation_utilisation if generating else hardware.utilisation
    return hours(flops, devices=hardware.devices, teraflops=hardware.teraflops, utilisation=utilisation)


def training_steps(config: RunConfig, pairs: int, epochs: float) -> int:
    """Optimiser steps of a training."""
    return math.ceil(epochs * math.ceil(pairs / config.leader.batch_size))


def plan_training(
    config: RunConfig, scale: Scale, name: str, what: str, *, pairs: int, epochs: float, times: int = 1
) -> StagePlan:
    """A training stage: `what` precedes the number of steps; its hours are those of training `times` over."""
    flops = times * training_flops(scale.parameters, pairs * epochs, scale.lengths, recomputed=True)
    return StagePlan(name, f"{what} {training_steps(config, pairs, epochs)} steps", recipe_hours(config, flops))
