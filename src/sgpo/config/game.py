"""The two players of a round: the follower finds the worst case, the leader trains against it."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, create_model, model_validator

from sgpo.choices import Accept, FoundRadius, PairSource, Schedule, Solver, Space, Step, WindowRule
from sgpo.config.section import Count, NotNegative, Positive, Section
from sgpo.config.settings import keys_of, setting


@dataclass
class FollowerSettings:
    """The settings of the follower, and of the leader's step against it.

    `SGPOConfig` inherits them, and the recipe's section `follower` is made from them.
    """

    radius: NotNegative = setting(0.01, "Wasserstein radius, in the unit of the gap space; 0 is DPO.")
    source_radius: dict[str, Any] | str | None = setting(
        None, "Radius by the name in the dataset's source column, in place of radius; JSON."
    )
    space: Space = setting("probability", "The gap (nats), or its sigmoid.")
    tangents: Annotated[int, Field(ge=0)] = setting(6, "The paper's K; 0: the exact link.")
    window: list[float] | None = setting(
        None, "Support [a, b]; by default [0, 1] in probability space, required in margin space."
    )
    window_rule: WindowRule = setting("explicit", "`window` as given, or computed from the gaps.")
    window_margin: NotNegative = setting(0.0, "How far the rules widen the window.")
    window_quantiles: list[float] | None = setting(None, "Levels for `quantiles`; by default 0.01, 0.99.")
    schedule: Schedule = setting("round", "When the follower answers.")
    recent_pairs: Count | None = setting(
        None, "Pairs per source in the running window of schedule `step`; by default 1024."
    )
    solver: Solver = setting("exact", "The paper used `slsqp`.")
    group_size: Count | None = setting(None, "The paper's G, 100; by default all pairs at once.")
    step: Step = setting("envelope", "How the leader meets the worst case; PAPER.md D3.")
    proximal: NotNegative = setting(0.0, "Pull towards the displaced gaps, with step `mixture`.")


_KEYS = keys_of(
    FollowerSettings,
    radius=(
        NotNegative | FoundRadius,
        "Wasserstein radius, in the unit of the gap space; 0 is DPO. Or found in each round; see below.",
    ),
    source_radius=(
        dict[PairSource, NotNegative] | None,
        "Radius of human seeds and of self-annotated pairs, in place of `radius`.",
    ),
    tangents=(Count | None, "The paper's K; null: the exact link."),
    window=(tuple[float, float] | None, None),
    window_quantiles=(tuple[float, float] | None, None),
)
_STEP_KEYS = {name: _KEYS.pop(name) for name in ("step", "proximal")}


class _Follower(Section):
    """The adversary: worst case of the gaps in a Wasserstein ball. SGPOConfig checks combinations of settings."""

    @model_validator(mode="after")
    def _radii_are_found_as_they_can_be(self) -> "_Follower":
        if isinstance(self.radius, str) and self.source_radius is not None:
            raise ValueError(f"source_radius is given with radius={self.radius!r}; allowed: one of them")
        if 0 not in self.radius_grid:
            raise ValueError(f"radius_grid is {self.radius_grid}; allowed: radii with 0 (plain DPO) among them")
        return self


FollowerConfig = create_model(
    "FollowerConfig",
    __base__=_Follower,
    __doc__=_Follower.__doc__,
    **{
        "radius": _KEYS.pop("radius"),
        "radius_factor": (NotNegative, Field(1.0, description="What the measured radius is multiplied by.")),
        "radius_grid": (
            list[NotNegative],
            Field(
                [0.0, 0.01, 0.05, 0.1], description="What the validated radius is chosen from; each costs a training."
            ),
        ),
        **_KEYS,
    },
)


class LeaderConfig(Section):
    """The policy's training in a round."""

    beta: Positive = Field(0.1, description="Scale of the implicit reward.")
    learning_rate: Positive = Field(5e-7, description="Peak of the schedule.")
    epochs: Positive = Field(1.0, description="Epochs of every round but round 0.")
    seed_epochs: Positive = Field(3.0, description="Epochs of DPO on the seed pairs (round 0).")
    seed_learning_rate: Positive | None = Field(None, description="Learning rate of round 0; null: learning_rate.")
    final_epochs: NotNegative | None = Field(
        None,
        description="Epochs of a last DPO on all human pairs, from the round that is shipped; null: seed_epochs where "
        "validation pairs choose one, else 0.",
    )
    batch_size: Count = Field(32, description="Pairs per optimiser step, over all processes.")
    micro_batch_size: Count = Field(4, description="Pairs per forward pass and process.")
    max_length: Count = Field(1024, description="Tokens of prompt and response together.")
    lr_scheduler: str = Field("cosine", description="A scheduler of transformers, by name.")
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the steps over which the learning rate rises."
    )
    step: Step = _STEP_KEYS["step"][1]
    proximal: NotNegative = _STEP_KEYS["proximal"][1]
    accept: Accept = Field(
        "supported",
        description="Ship the latest round that validation pairs support, turn rounds down one by one, or ship the "
        "last one; see below.",
    )
    lora: dict[str, Any] | None = Field(
        None, description="Arguments of PEFT's LoraConfig; null trains all weights. Rounds merge the adapter."
    )
    trainer: dict[str, Any] = Field(
        default_factory=dict, description="Any other argument of SGPOConfig, by its own name."
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> "LeaderConfig":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}; allowed: a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self
