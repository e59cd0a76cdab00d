"""How human labels go wrong: turned round at random, drawn to length, or wrong where the two are close."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sgpo.demo.annotator import prefers_first
from sgpo.errors import InputError

KINDS = ("none", "symmetric", "length", "close")


@dataclass(frozen=True)
class LabelNoise:
    """A way in which labels go wrong, beside the randomness of Bradley-Terry.

    Attributes:
        kind: "none"; "symmetric": a label is turned round with probability `rate`; "length": with probability `rate`
            the annotator takes the longer response without reading; "close": the share `rate` of the pairs whose gold
            rewards differ least is labelled against gold, every one (an adversary who may not be caught).
        rate: in [0, 1]; 0 with kind "none" and only then.

    Raises:
        InputError: no such kind, or a rate that does not go with it.
    """

    kind: str = "none"
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind is {self.kind!r}; allowed: {', '.join(map(repr, KINDS))}.")
        if not 0 <= self.rate <= 1 or (self.kind == "none") != (self.rate == 0):
            raise InputError(f"rate is {self.rate} with kind {self.kind!r}; allowed: 0 with 'none', else above 0 to 1.")

    @property
    def label(self) -> str:
        """How tables name it, such as "symmetric 25%"."""
        return self.kind if self.kind == "none" else f"{self.kind} {self.rate:.0%}"


NO_NOISE = LabelNoise()


def label_pairs(
    first: ArrayLike,
    second: ArrayLike,
    first_length: ArrayLike,
    second_length: ArrayLike,
    noise: LabelNoise,
    rng: np.random.Generator,
) -> np.ndarray:
    """Labels pairs as a Bradley-Terry annotator with noise does.

    Args:
        first, second: (N,) gold rewards, in nats.
        first_length, second_length: (N,) lengths, in any unit; only their order counts, and at a tie gold decides.
        noise: what goes wrong.
        rng: source of the draws. It is drawn from alike whatever the noise, so that worlds which differ in nothing else
            share all other labels.

    Returns: (N,) bool, True where the first is preferred.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    preferred = prefers_first(first, second, flip_rate=0.0, rng=rng)
    hit = rng.random(first.shape) < noise.rate
    if noise.kind == "symmetric":
        return preferred ^ hit
    if noise.kind == "length":
        longer = np.sign(np.asarray(first_length, dtype=np.float64) - np.asarray(second_length, dtype=np.float64))
        return np.where(hit & (longer != 0), longer > 0, preferred)
    if noise.kind == "close":
        count = round(noise.rate * first.size)
        closest = np.argsort(np.abs(first - second), kind="stable")[:count]
        preferred = preferred.copy()
        preferred[closest] = first[closest] < second[closest]
    return preferred
