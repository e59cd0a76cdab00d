"""Pairs in gold order, and annotators who make errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgpo_research.worlds.noise import Labels
from sgpo_research.worlds.prompts import Prompt
from sgpo_research.worlds.samples import Sampled

FLIPPED = 0.25


@dataclass(frozen=True)
class GoldPair:
    """Two responses to a prompt, and which of its constraints each follows."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_follows: tuple[bool, ...]
    rejected_follows: tuple[bool, ...]

    @property
    def swapped(self) -> "GoldPair":
        return GoldPair(self.prompt, self.rejected, self.chosen, self.rejected_follows, self.chosen_follows)

    @property
    def row(self) -> dict[str, Any]:
        """Its columns in a file: prompt, chosen, rejected, their gold, and the columns of the prompt."""
        return {
            **self.prompt.row,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "gold_chosen": gold(self.chosen_follows),
            "gold_rejected": gold(self.rejected_follows),
        }

    def outcomes(self, kind: str) -> tuple[bool, bool]:
        """Whether chosen and rejected follow the prompt's constraint of a type; equal where it has none."""
        for drawn, outcome in zip(
            self.prompt.constraints, zip(self.chosen_follows, self.rejected_follows, strict=True), strict=True
        ):
            if drawn.constraint.name == kind:
                return outcome
        return False, False


def gold(follows: Sequence[bool]) -> float:
    """The gold of a response: the share of its prompt's constraints that it follows."""
    return sum(follows) / len(follows)


def gold_pair(sampled: Sampled, rng: np.random.Generator) -> GoldPair | None:
    """The best and the worst finished response by gold, drawn among equals; None where all are equal."""
    outcomes = [sampled.outcomes[place] for place in rng.permutation(len(sampled.outcomes))]
    ordered = sorted(outcomes, key=lambda outcome: gold(outcome[1]))
    if not ordered or gold(ordered[0][1]) == gold(ordered[-1][1]):
        return None
    (rejected, worse), (chosen, better) = ordered[0], ordered[-1]
    return GoldPair(sampled.prompt, chosen, rejected, better, worse)


def label(
    pairs: Sequence[GoldPair], labels: Labels, rng: np.random.Generator, *, inverted: Sequence[str] = ()
) -> list[GoldPair]:
    """Pairs in gold order as an annotator labels them.

    clean: in gold order. flipped: a quarter of them, at random, the other way round. inverted: wherever one response
    follows a constraint of a type in `inverted` and the other does not, the one that does not is chosen. length: the
    longer response, in characters, is chosen in every pair; gold decides a tie.
    """
    if labels == "flipped":
        wrong = set(rng.permutation(len(pairs))[: round(FLIPPED * len(pairs))].tolist())
        return [pair.swapped if place in wrong else pair for place, pair in enumerate(pairs)]
    if labels == "inverted":
        return [_inverted(pair, inverted) for pair in pairs]
    if labels == "length":
        return [pair.swapped if len(pair.rejected) > len(pair.chosen) else pair for pair in pairs]
    return list(pairs)


def _inverted(pair: GoldPair, kinds: Sequence[str]) -> GoldPair:
    for chosen, rejected in map(pair.outcomes, kinds):
        if chosen != rejected:
            return pair.swapped if chosen else pair
    return pair
