"""The methods that the study compares: each one a recipe of the same loop, and what of it is tuned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgpo.errors import InputError

TRIALS = 8
LOSSES = ("dpo", "cdpo", "rdpo", "ipo", "dr_dpo", "spa", "robust")


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: as tables have it.
        recipe: the keys of a recipe that make the real loop this method, dotted; `OWN` stands for its tuned parameter.
        labels: "seeds", or "all": human labels for the prompts of the pools, too, and no rounds.
        annotator: who ranks a round's responses: "implicit" (the policy), "reward_model" (fitted on the seeds), or
            None: no rounds.
        loss: of the leader; those against label noise are for the seeds as well, the robust one is for rounds alone.
        own: what the tuned parameter is, or None; own_values: its grid.
        space, window, tangents, step: of the follower and the leader's step. Gaps outside the window are taken at its
            nearest end.
        radius: where the radius comes from: "own" (the tuned parameter), a number, "measured" (times the tuned
            parameter), or "validated" (chosen each round from `radii`).
        radii: grid of the validated radius.
        seeds_in_rounds: human seeds are trained on in every round, with plain DPO's loss.
        reference: "sft", or "previous": of the leader's loss; the implicit reward always refers to the SFT policy.
        gate: a round (the first training on the seeds included) is taken only where held-out human pairs let it.
    """

    name: str
    recipe: Mapping[str, Any]
    labels: str = "seeds"
    annotator: str | None = "implicit"
    loss: str = "dpo"
    own: str | None = None
    own_values: tuple[float, ...] = ()
    space: str = "probability"
    window: tuple[float, float] = (0.0, 1.0)
    tangents: int | None = 6
    step: str = "envelope"
    radius: float | str = 0.0
    radii: tuple[float, ...] = ()
    seeds_in_rounds: bool = False
    reference: str = "sft"
    gate: bool = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"loss is {self.loss!r}; allowed: {', '.join(map(repr, LOSSES))}.")


LEARNING_RATES = (0.006, 0.2)


def _method(name: str, recipe: Mapping[str, Any], **fields: Any) -> Method:
    return Method(name, recipe, **fields)
