"""What every way of generating responses shares: how to sample, what comes back, and a seed for each prompt."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sgpo.errors import InputError
from sgpo.policy.tokens import Messages


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    Attributes:
        n: responses per prompt, >= 1.
        temperature: > 0 samples; 0 takes the most likely token, with n = 1.
        top_p: nucleus, in (0, 1].
        max_new_tokens: a response is cut after this many tokens.
        stop: texts at which a response ends, beside the policy's own end tokens; none of them is part of the response.

    Raises:
        InputError: an attribute is out of range.
    """

    n: int = 2
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 300
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("max_new_tokens", self.max_new_tokens)):
            if value < 1:
                raise InputError(f"{name} is {value}; allowed: a whole number >= 1.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is {self.temperature}; allowed: a number >= 0.")
        if self.temperature == 0 and self.n > 1:
            raise InputError(
                f"n is {self.n} with temperature 0, which gives one response; allowed: n=1, or a temperature > 0."
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; allowed: a number in (0, 1].")
        if not all(self.stop):
            raise InputError(f"stop is {self.stop}; allowed: texts that are not empty.")


@dataclass(frozen=True, slots=True)
class Response:
    """A generated response.

    Attributes:
        text: the response without special tokens.
        finish_reason: "stop" where the policy ended the response itself, "length" where it was cut.
        n_tokens: number of generated tokens, the end-of-sequence token included.
    """

    text: str
    finish_reason: str
    n_tokens: int


class Generator(Protocol):
    """A way of generating responses: in process, in a subprocess, or on servers."""

    def generate(
        self,
        prompts: Sequence[Messages],
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Response]]:
        """Samples `sampling.n` responses to each of P prompts.

        Args:
            prompts: P conversations that end in a user turn.
            seeds: (P,) one seed per prompt; a prompt's responses are a function of the prompt and its seed.
            sampling: how to sample.
            progress: called with the number of prompts newly answered.

        Returns: P lists of n responses, in the order of the prompts.
        """
        ...


def prompt_seeds(seed: int, count: int, *, first: int = 0) -> list[int]:
    """Seeds of prompts `first` to `first + count - 1` of a pool: 31-bit numbers that do not depend on how it is cut.

    Raises:
        InputError: `seed` is negative.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: a whole number >= 0.")
    return [int(np.random.SeedSequence([seed, row]).generate_state(1)[0]) >> 1 for row in range(first, first + count)]
