"""What all ways of generating share: how to sample, what a response is, seeds, and the checks of a request."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from sgpo.choices import Failure, FinishReason
from sgpo.errors import InputError, check_whole
from sgpo.policy.tokens import Messages, tokenize_prompts
from sgpo.store.progress import Advance


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    Attributes:
        n: responses per prompt, >= 1.
        temperature: > 0 samples; 0 takes the most likely token, with n = 1.
        top_p: nucleus, in (0, 1].
        max_new_tokens: a response is cut after this many tokens.
        stop: texts that end a response, in addition to the policy's own end tokens; they are not part of the response.

    Raises:
        InputError: an attribute is out of range.
    """

    n: int = 2
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 300
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_whole("n", self.n, 1)
        check_whole("max_new_tokens", self.max_new_tokens, 1)
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}; allowed: a number >= 0.")
        if self.temperature == 0 and self.n > 1:
            raise InputError(f"n is {self.n} with temperature 0; allowed: n=1, or a temperature > 0.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; allowed: a number in (0, 1].")
        if not all(self.stop):
            raise InputError(f"stop is {self.stop}; allowed: texts that are not empty.")

    def find_stop(self, text: str) -> int | None:
        """The character at which the first stop text begins; None if there is none."""
        return min((place for stop in self.stop if (place := text.find(stop)) >= 0), default=None)


@dataclass(frozen=True, slots=True)
class Response:
    """A generated text without special tokens, whether the policy ended it ("stop") or it was cut ("length"), and its
    number of tokens, the end-of-sequence token included. Where there is none, the reason is a `Failure`."""

    text: str
    finish_reason: FinishReason | Failure
    n_tokens: int

    @property
    def failed(self) -> bool:
        """Whether there is no response."""
        return self.finish_reason not in FinishReason.__args__

    @classmethod
    def missing(cls, failure: Failure) -> "Response":
        """What stands for a response that there is none of."""
        return cls("", failure, 0)


class Generator(Protocol):
    """Generates responses: in process, in a subprocess, or on servers."""

    def generate(
        self, prompts: Sequence[Messages], seeds: Sequence[int], sampling: Sampling, *, progress: Advance | None = None
    ) -> list[list[Response]]:
        """Samples `sampling.n` responses to each of P prompts.

        Args:
            prompts: P conversations that end in a user turn.
            seeds: (P,) one seed per prompt; a prompt's responses are a function of the prompt and its seed.
            sampling: how to sample.
            progress: called with the number of prompts newly answered.

        Returns: P lists of n responses, in the order of the prompts. A response is cut where the context ends; there is
            none (`Response.failed`) to a prompt that leaves no room, or that a server refuses.

        Raises:
            InputError: the template refuses a prompt (the row is named), the number of seeds is not P, or the backend
                fails.
        """
        ...


def prompt_seeds(seed: int, count: int, *, first: int = 0) -> list[int]:
    """Seeds of prompts `first` to `first + count - 1` of a pool: 31-bit numbers, however the pool is divided.

    `seed` is a whole number >= 0.
    """
    check_whole("seed", seed, 0)
    return [derive_seed(seed, row) for row in range(first, first + count)]


def derive_seed(seed: int, number: int) -> int:
    """31 bits of a seed and a number: the seed of a prompt of a pool, or of a response to a prompt."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) >> 1


def tokenize_requests(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], seeds: Sequence[int]
) -> list[list[int]]:
    """Token ids of P prompts, each of which must have a seed."""
    if len(seeds) != len(prompts):
        raise InputError(f"seeds has {len(seeds)} numbers; allowed: one per prompt, {len(prompts)}.")
    return tokenize_prompts(tokenizer, prompts)


def room_for(prompt: Sequence[int], sampling: Sampling, context: int | None) -> int:
    """Most tokens of a response: `max_new_tokens`, or what a prompt of these tokens leaves of the context."""
    return sampling.max_new_tokens if context is None else min(sampling.max_new_tokens, context - len(prompt))
