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
    """One stage of a run: its name, what it does, and its hours; None where they are unknown."""

    name: str
    work: str
    hours: float | None = 0.0


class Speed(NamedTuple):
    """Operations a second while reading prompts, writing responses, scoring and training; None is unknown."""

    read: float | None
    write: float | None
    score: float
    train: float


class Architecture(NamedTuple):
    """What memory depends on; `inner` is the width inside a layer's MLP, `keys` that of the keys of all heads."""

    layers: int
    hidden: int
    vocabulary: int
    inner: int
    keys: int


@dataclass(frozen=True)
class Scale:
    """What the stages of a run depend on: weights, human pairs, prompts of each round, mean tokens, and the speed.

    `human_tokens` are those of a prompt with one response of a human pair. `evaluated` has the answers or pairs of each
    evaluation, by name, where they are known.
    """

    parameters: int
    seeds: int
    validation: int
    heldout: int
    pools: list[int]
    prompt_tokens: float
    response_tokens: float
    human_tokens: float
    evaluated: dict[str, int] = field(default_factory=dict)
    speed: Speed | None = None

    @property
    def tokens(self) -> float:
        """Mean tokens of a prompt with a response."""
        return self.prompt_tokens + self.response_tokens

    def hours(self, **tokens: float) -> float | None:
        """Hours to read, write, score and train on as many tokens; None if the speed of one is unknown."""
        seconds = 0.0
        for work, count in tokens.items():
            if self.speed is None or (speed := getattr(self.speed, work)) is None:
                return None
            seconds += (training_flops if work == "train" else forward_flops)(self.parameters, count) / speed
        return seconds / 3600


def state_bytes(parameters: int, dtype: str) -> int:
    """Bytes of weights, gradients and Adam's two moments, all in the model's dtype."""
    return 4 * parameters * BYTES[dtype]


def activation_bytes(architecture: Architecture, tokens: int, dtype: str) -> int:
    """Bytes of activations of one pass over the tokens of a microbatch that keeps each layer's input and recomputes.

    These are the inputs of all layers, one layer's inside (34 numbers per token and unit of width in 16 bits,
    Korthikanti et al., arXiv:2205.05198, without the attention matrix), and the logits of one slice of 4,096 tokens
    with their gradients in float32.
    """
    size = BYTES[dtype]
    kept = architecture.layers * tokens * architecture.hidden * size
    inside = 34 * tokens * architecture.hidden * size // 2
    logits = 2 * min(tokens, 4096) * architecture.vocabulary * 4
    return kept + inside + logits


def forward_flops(parameters: int, tokens: float) -> float:
    """Operations of one pass over tokens, which are generated or scored."""
    return _FORWARD * parameters * tokens


def training_flops(parameters: int, tokens: float) -> float:
    """Operations to train once on tokens, with recomputation."""
    return _TRAIN * parameters * tokens


def speed_of(hardware: HardwareConfig) -> Speed:
    """The speed of the hardware that a recipe describes."""
    peak = hardware.devices * hardware.teraflops * 1e12
    generating, other = peak * hardware.generation_utilisation, peak * hardware.utilisation
    return Speed(generating, generating, other, other)
