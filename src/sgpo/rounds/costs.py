r"""What a run costs: bytes of training, floating-point operations of each stage, hours.

A forward pass takes 2 operations per weight and token and a backward pass 4 (Kaplan et al., arXiv:2001.08361, Section
2.1); recomputing activations in the backward pass takes another 2. Attention over the sequence is left out. These are
estimates of the order of magnitude.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from sgpo.config import HardwareConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}
_FORWARD, _TRAIN = 2, 8


class StagePlan(NamedTuple):
    """One stage of a run: its name, what it does, and its hours if the recipe describes the hardware."""

    name: str
    work: str
    hours: float | None = None


class Architecture(NamedTuple):
    """What the memory of activations depends on."""

    layers: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Scale:
    """What the stages of a run depend on: weights, human pairs, prompts of each round, mean tokens, and the answers or
    pairs of each evaluation, by name, where they are known."""

    parameters: int
    seeds: int
    validation: int
    heldout: int
    pools: list[int]
    prompt_tokens: float
    response_tokens: float
    evaluated: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> float:
        """Mean tokens of a prompt with a response."""
        return self.prompt_tokens + self.response_tokens


def state_bytes(parameters: int, dtype: str) -> int:
    """Bytes of weights, gradients and Adam's two moments, all in the model's dtype."""
    return 4 * parameters * BYTES[dtype]


def activation_bytes(architecture: Architecture, tokens: int, dtype: str) -> int:
    """Bytes of activations of a microbatch's pass that keeps each layer's input and recomputes: these, one layer's
    inside (34 numbers per token and width in 16 bits, arXiv:2205.05198), and 4,096 tokens' float32 logits with
    gradients."""
    size = BYTES[dtype]
    kept = architecture.layers * tokens * architecture.hidden * size
    inside = 34 * tokens * architecture.hidden * size // 2
    logits = 2 * min(tokens, 4096) * architecture.vocabulary * 4
    return kept + inside + logits


def forward_flops(parameters: int, tokens: float) -> float:
    """Operations of one pass over tokens, which are generated or scored."""
    return _FORWARD * parameters * tokens


def training_flops(parameters: int, tokens: float) -> float:
    """Operations to train once on a pair of two responses of this many tokens, prompt included, with recomputation."""
    return _TRAIN * parameters * 2 * tokens


def hours(hardware: HardwareConfig | None, flops: float, *, generating: bool = False) -> float | None:
    """Hours that the devices take for operations at their utilisation; None without a description of them."""
    if hardware is None:
        return None
    utilisation = hardware.generation_utilisation if generating else hardware.utilisation
    return flops / (hardware.devices * hardware.teraflops * 1e12 * utilisation) / 3600
