"""Which prompts get a human label: a random draw, or farthest points of an embedding."""

from dataclasses import dataclass

import numpy as np

from sgpo.choices import Selection, check_choice
from sgpo.preferences.farthest import farthest_points


@dataclass(frozen=True)
class SeedChoice:
    """A rule with its own seed, so that runs can differ in this choice only.

    Attributes:
        rule: "random" or "farthest".
        seed: of the draw, or of the first of the farthest points.

    Raises:
        InputError: no such rule.
    """

    rule: Selection = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, Selection)

    def pick(self, embedding: np.ndarray, count: int) -> np.ndarray:
        """Rows of the prompts to label, (count,), from (N, e) embeddings of the candidates."""
        if self.rule == "farthest":
            return farthest_points(embedding, count, seed=self.seed).rows
        return np.random.default_rng(self.seed).permutation(len(embedding))[:count]


AT_RANDOM = SeedChoice()
