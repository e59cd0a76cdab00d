"""The two players of a round: the follower, who finds the worst case, and the leader, who trains against it."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sgpo.config.section import Count, NotNegative, Positive, Section


class FollowerConfig(Section):
    """The adversary: worst case of the gaps in a Wasserstein ball. What goes together is checked by SGPOConfig."""

    radius: NotNegative | Literal["measured", "validated"] = Field(
        0.01,
        description="Wasserstein radius, in the unit of the gap space; 0 is DPO. Or found in each round; see below.",
    )
    radius_factor: NotNegative = Field(1.0, description="What the measured radius is multiplied by.")
    radius_grid: list[NotNegative] = Field(
        [0.0, 0.01, 0.05, 0.1], description="What the validated radius is chosen from; each costs a training."
    )
    source_radius: dict[Literal["human", "self"], NotNegative] | None = Field(
        None, description="Radius of human seeds and of self-annotated pairs, in place of `radius`."
    )
    space: Literal["margin", "probability"] = Field("probability", description="The gap (nats), or its sigmoid.")
    tangents: Count | None = Field(6, description="The paper's K; null: the exact link.")
    window: tuple[float, float] | None = Field(
        None, description="Support [a, b]; null: [0, 1] in probability space, required in margin space."
    )
    window_rule: Literal["explicit", "min_max", "quantiles"] = Field(
        "explicit", description="`window` as it stands, or found from the gaps."
    )
    window_margin: NotNegative = Field(0.0, description="How far the rules widen the window.")
    window_quantiles: tuple[float, float] | None = Field(None, description="Levels for `quantiles`; null: 0.01, 0.99.")
    schedule: Literal["round", "epoch", "step"] = Field("round", description="When the follower answers.")
    recent_pairs: Count | None = Field(None, description="Running window of schedule `step`; null: 1024.")
    solver: Literal["exact", "highs", "slsqp"] = Field("exact", description="The paper used `slsqp`.")
    group_size: Count | None = Field(None, description="The paper's G, 100; null: all pairs at once.")

    @model_validator(mode="after")
    def _radii_are_found_as_they_can_be(self) -> "FollowerConfig":
        if isinstance(self.radius, str) and self.source_radius is not None:
            raise ValueError(f"source_radius is given with radius={self.radius!r}; allowed: one of them")
        if 0 not in self.radius_grid:
            raise ValueError(f"radius_grid is {self.radius_grid}; allowed: radii with 0 (plain DPO) among them")
        return self


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
        "one is chosen by pairs set aside, else 0.",
    )
    batch_size: Count = Field(32, description="Pairs per optimiser step, over all processes.")
    micro_batch_size: Count = Field(4, description="Pairs per forward pass and process.")
    max_length: Count = Field(1024, description="Tokens of prompt and response together.")
    lr_scheduler: str = Field("cosine", description="A scheduler of transformers, by name.")
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the steps over which the learning rate rises."
    )
    step: Literal["envelope", "transport", "mixture"] = Field(
        "envelope", description="How the leader meets the worst case; PAPER.md D3."
    )
    proximal: NotNegative = Field(0.0, description="Pull towards the displaced gaps, with step `mixture`.")
    accept: Literal["supported", "supported_any_length", "validated", "always"] = Field(
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
