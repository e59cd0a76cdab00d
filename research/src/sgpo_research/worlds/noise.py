"""Noise in human labels: random flips, a length bias, or errors on the closest pairs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sgpo.choices import check_choice
from sgpo.demo.shop import prefers_first
from sgpo.errors import InputError

NoiseKind = Literal["none", "symmetric", "length", "close"]
# Who labels pairs with an exact gold: see `gold_pairs.label`.
Labels = Literal["clean", "flipped", "inverted", "length"]


@dataclass(frozen=True)
class LabelNoise:
    """Label noise in addition to the randomness of Bradley-Terry.

    Attributes:
        kind: "none"; "symmetric": a label is flipped with probability `rate`; "length": with probability `rate` the
            annotator prefers the longer response without reading; "close": all of the share `rate` of pairs whose gold
            rewards differ least are labelled against gold (an adversary that is hard to detect).
        rate: in [0, 1]; 0 for kind "none", above 0 otherwise.

    Raises:
        InputError: no such kind, or a rate that does not go with it.
    """

    kind: NoiseKind = "none"
    rate: float = 0.0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, NoiseKind)
        if not 0 <= self.rate <= 1 or (self.kind == "none") != (self.rate == 0):
            raise InputError(f"rate is {self.rate} with kind {self.kind!r}; allowed: 0 with 'none', else above 0 to 1.")

    @property
    def label(self) -> str:
        """Its name in tables, such as "symmetric 25%"."""
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
    """Labels pairs as a Bradley-Terry annotator with noise.

    Args:
        first, second: (N,) gold rewards, in nats.
        first_length, second_length: (N,) lengths, in any unit; only their order counts, and a tie is labelled by gold.
        noise: the noise.
        rng: source of the draws. The number of draws does not depend on the noise, so that worlds which differ only in
            their noise share all other labels.

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
