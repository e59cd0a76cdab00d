"""Which of the prompts that are offered get a human label: at random, or the farthest points of an embedding."""

from dataclasses import dataclass

import numpy as np

from sgpo.errors import InputError
from sgpo.preferences.farthest import farthest_points

RULES = ("random", "farthest")


@dataclass(frozen=True)
class SeedChoice:
    """A rule and its own seed, so that runs may differ in nothing but the choice.

    Attributes:
        rule: "random" or "farthest".
        seed: of the draw, or of the first of the farthest points.

    Raises:
        InputError: no such rule.
    """

    rule: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"rule is {self.rule!r}; allowed: {', '.join(map(repr, RULES))}.")

    def pick(self, embedding: np.ndarray, count: int) -> np.ndarray:
        """Rows of the prompts to label, (count,), from (N, e) embeddings of the prompts offered."""
        if self.rule == "farthest":
            return farthest_points(embedding, count, seed=self.seed).rows
        return np.random.default_rng(self.seed).permutation(len(embedding))[:count]


AT_RANDOM = SeedChoice()
