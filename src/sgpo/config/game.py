"""The two players of a round: the follower finds the worst case, the leader trains against it."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import create_model, model_validator

from sgpo.choices import Accept, FoundRadius, PairSource, Schedule, Solver, Space, Step, WindowRule
from sgpo.config.section import Count, CountOrZero, NotNegative, Positive, Section, ShareBelowOne, key, keys_of, setting


@dataclass
class FollowerSettings:
    """The settings of the follower, and of the leader's step against it.

    `SGPOConfig` inherits them, and the recipe's section `follower` is made from them.
    """

    radius: NotNegative = setting(0.01, "Wasserstein radius, in the unit of the gap space; 0 is DPO.")
    source_radius: dict[str, Any] | str | None = setting(
        None, "Radius by the name in the dataset's source column, in place of radius; JSON."
    )
    space: Space = setting("probability", "Gap space: `margin`, the gap in nats, or `probability`, its sigmoid.")
    tangents: CountOrZero = setting(6, "Number of tangents of the link, the paper's K; 0: the exact link.")
    window: list[float] | None = setting(
        None, "Support [a, b]; by default [0, 1] in probability space, required in margin space."
    )
    window_rule: WindowRule = setting("explicit", "`window` as given, or computed from the gaps.")
    window_margin: NotNegative = setting(0.0, "How far the rules widen the window.")
    window_quantiles: list[float] | None = setting(None, "Levels for rule `quantiles`; by default 0.01, 0.99.")
    schedule: Schedule = setting(
        "round", "When the follower answers: once a `round`, every `epoch`, or every optimiser `step`."
    )
    recent_pairs: Count | None = setting(
        None, "Pairs per source in the running window of schedule `step`; by default 1024."
    )
    solver: Solver = setting("exact", "Solver of the worst case; the paper used `slsqp`.")
    group_size: Count | None = setting(
        None, "Pairs in a random group that is solved separately (the paper's G, 100); by default all at once."
    )
    step: Step = setting("envelope", "How the leader meets the worst case; PAPER.md D3.")
    proximal: NotNegative = setting(0.0, "Pull towards the displaced gaps, with step `mixture`.")


_KEYS = keys_of(
    FollowerSettings,
    source_radius=(
        dict[PairSource, NotNegative] | None,
        "Radius of human seeds and of self-annotated pairs, in place of `radius`.",
    ),
    tangents=(
        Annotated[Count | None, "a whole number >= 1, or null for the exact link"],
        "Number of tangents of the link, the paper's K; null: the exact link.",
    ),
    window=(tuple[float, float] | None, None),
    window_quantiles=(tuple[float, float] | None, None),
)
_STEP_KEYS = {name: _KEYS.pop(name) for name in ("step", "proximal")}


class _Radius(Section):
    radius: NotNegative | FoundRadius = key(
        _KEYS.pop("radius")[1].default,
        "Wasserstein radius, in the unit of the gap space; 0 is DPO. Or found in each round; see below.",
    )
    radius_factor: NotNegative = key(1.0, "What the measured radius is multiplied by.")
    radius_grid: list[NotNegative] = key(
        [0.0, 0.01, 0.05, 0.1], "What the validated radius is chosen from; each costs a training."
    )


class FollowerConfig(create_model("_Follower", __base__=_Radius, **_KEYS)):
    """The adversary: worst case of the gaps in a Wasserstein ball. SGPOConfig checks combinations of settings."""

    @model_validator(mode="after")
    def _check_radii(self) -> "FollowerConfig":
        if isinstance(self.radius, str) and self.source_radius is not None:
            raise ValueError(f"source_radius is given with radius={self.radius!r}; allowed: one of them")
        if 0 not in self.radius_grid:
            raise ValueError(f"radius_grid is {self.radius_grid}; allowed: radii with 0 (plain DPO) among them")
        return self


class LeaderConfig(Section):
    """The policy's training in a round."""

    beta: Positive = key(0.1, "Scale of the implicit reward.")
    learning_rate: Positive = key(5e-7, "Peak of the schedule.")
    epochs: Positive = key(1.0, "Epochs of every round but round 0.")
    seed_epochs: Positive = key(3.0, "Epochs of DPO on the seed pairs (round 0).")
    seed_learning_rate: Positive | None = key(None, "Learning rate of round 0; null: learning_rate.")
    final_epochs: NotNegative | None = key(
        None,
        "Epochs of the last DPO, on all human pairs; null: seed_epochs if a round is chosen at the end, else 0.",
    )
    batch_size: Count = key(32, "Pairs per optimiser step, over all processes.")
    micro_batch_size: Count = key(4, "Pairs per forward pass and process.")
    max_length: Count = key(1024, "Tokens of prompt and response together.")
    lr_scheduler: str = key("cosine", "A scheduler of transformers, by name.")
    warmup_share: ShareBelowOne = key(0.1, "Share of the steps over which the learning rate rises.")
    step: Step = _STEP_KEYS["step"][1]
    proximal: NotNegative = _STEP_KEYS["proximal"][1]
    accept: Accept = key(
        "supported", "Ship the latest round that validation pairs support, reject rounds one by one, or ship the last."
    )
    lora: dict[str, Any] | None = key(
        None, "Arguments of PEFT's LoraConfig; null trains all weights. Rounds merge the adapter."
    )
    trainer: dict[str, Any] = key({}, "Any other argument of SGPOConfig, by its own name.")

    @model_validator(mode="after")
    def _batches_divide(self) -> "LeaderConfig":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}; allowed: a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self
