r"""What a run costs: bytes of training, floating-point operations of each stage, hours.

A forward pass takes 2 operations per weight and token and a backward pass 4 (Kaplan et al., arXiv:2001.08361, Section
2.1); recomputing activations in the backward pass takes another 2. Attention over the sequence is left out. These are
estimates of the order of magnitude.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from sgpo.config import HardwareConfig

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}
# Of max_new_tokens that a response is assumed to have: none exists yet.
RESPONSE_SHARE = 0.8
_FORWARD, _TRAIN = 2, 8


class StagePlan(NamedTuple):
    """One stage of a run: its name, what it does, and its hours if the hardware is known."""

    name: str
    work: str
    hours: float | None = None


class Architecture(NamedTuple):
    """What memory depends on; `inner` is the width inside a layer's MLP, `keys` that of the keys of all heads."""

    layers: int
    hidden: int
    vocabulary: int
    inner: int
    keys: int


@dataclass(frozen=True)
class Scale:
    """What the stages of a run depend on: weights, human pairs, prompts of each round, mean tokens, for humans those of
    a prompt with one response, and the answers or pairs of each evaluation, by name, where they are known."""

    parameters: int
    seeds: int
    validation: int
    heldout: int
    pools: list[int]
    prompt_tokens: float
    response_tokens: float
    human_tokens: float
    evaluated: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> float:
        """Mean tokens of a prompt with a response."""
        return self.prompt_tokens + self.response_tokens

    def hours(
        self, hardware: HardwareConfig | None, tokens: float, *, generating: bool = False, training: bool = False
    ) -> float | None:
        """Hours to score tokens, generate them or train on them, with recomputation; None without hardware."""
        if hardware is None:
            return None
        utilisation = hardware.generation_utilisation if generating else hardware.utilisation
        flops = (_TRAIN if training else _FORWARD) * self.parameters * tokens
        return flops / (hardware.devices * hardware.teraflops * 1e12 * utilisation) / 3600


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
