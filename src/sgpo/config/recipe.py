"""The whole recipe, and the rules across its sections."""

from typing import Annotated

from pydantic import Field, model_validator

from sgpo.choices import Reference
from sgpo.config.annotation import AnnotationConfig
from sgpo.config.data import DataConfig
from sgpo.config.evaluation import EvaluateConfig
from sgpo.config.game import FollowerConfig, LeaderConfig
from sgpo.config.generation import GenerationConfig
from sgpo.config.hardware import HardwareConfig
from sgpo.config.model import ModelConfig
from sgpo.config.section import Section
from sgpo.config.world import SUPPLIED, WORLD_EVALUATION, WorldConfig

# Share of the seeds' prompts for validation pairs, if they are needed and the recipe does not say how many.
VALIDATION_SHARE = 0.2


class RunConfig(Section):
    """A run of SSAPO on the user's model and data, or on an embedded world."""

    output: str = Field(description="The run directory.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of everything random.")
    rounds: Annotated[int, Field(ge=0)] = Field(3, description="Rounds after DPO on the seeds.")
    reference: Reference = Field(
        "sft", description="The reference policy: the SFT model, or the policy that the round starts from."
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    follower: FollowerConfig = FollowerConfig()
    leader: LeaderConfig = LeaderConfig()
    evaluate: list[EvaluateConfig] = Field(default_factory=list, description="After each round; see below.")
    hardware: HardwareConfig | None = Field(None, description="For estimates; see below.")
    world: WorldConfig | None = Field(None, description="An embedded world that supplies model and data; see below.")

    @model_validator(mode="after")
    def _every_source_has_a_radius(self) -> "RunConfig":
        radii = self.follower.source_radius
        sources = ["human", "self"] if self.data.seeds_in_rounds else ["self"]
        if radii is not None and sorted(radii) != sources:
            raise ValueError(
                f"follower.source_radius names {', '.join(sorted(radii)) or 'no source'}; allowed: "
                f"{' and '.join(sources)}, the sources of a round's pairs (data.seeds_in_rounds adds human)"
            )
        return self

    @property
    def judges_rounds(self) -> bool:
        """Whether a round may be rejected."""
        return self.follower.radius == "validated" or self.leader.accept == "validated"

    @property
    def chooses_round(self) -> bool:
        """Whether one of the rounds is chosen at the end."""
        return self.leader.accept in ("supported", "supported_any_length")

    @property
    def validation_share(self) -> float:
        """Share of the seeds' prompts for validation pairs: the recipe's, or the default if something needs them."""
        share = self.data.validation_share
        return share if share is not None else VALIDATION_SHARE * self._needs_validation

    @property
    def final_epochs(self) -> float:
        """Epochs of the last DPO on all human pairs: the recipe's, or round 0's if a round is chosen."""
        epochs = self.leader.final_epochs
        return epochs if epochs is not None else self.leader.seed_epochs * self.chooses_round

    @property
    def _needs_validation(self) -> bool:
        return self.judges_rounds or self.chooses_round or self.follower.radius == "measured"

    @model_validator(mode="after")
    def _validation_pairs_are_there_and_used(self) -> "RunConfig":
        wanted, there = self._needs_validation, self.validation_share > 0
        # With a last DPO they may also serve other purposes, such as a choice of learning rates.
        if wanted != there and not (there and self.leader.final_epochs):
            raise ValueError(
                f"data.validation_share is {self.data.validation_share} with "
                f"follower.radius={self.follower.radius!r} and leader.accept={self.leader.accept!r}; allowed: a "
                "share > 0 if one of them needs validation pairs, else 0 or null. A number as radius and "
                "leader.accept='always' need none"
            )
        return self

    @model_validator(mode="after")
    def _pairs_choose_once(self) -> "RunConfig":
        if self.follower.radius == "validated" and self.chooses_round:
            raise ValueError(
                f"leader.accept is {self.leader.accept!r} with follower.radius='validated'; allowed: 'validated' or "
                "'always'. The same pairs would choose twice, and mistake noise for a signal more often"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_have_names_of_their_own(self) -> "RunConfig":
        titles = [evaluation.title for evaluation in self.evaluate]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"evaluate has {', '.join(twice)} more than once; allowed: a `name` for each")
        return self

    @model_validator(mode="after")
    def _prompts_cover_the_rounds(self) -> "RunConfig":
        per_round = self.data.prompts_per_round
        if isinstance(per_round, list) and len(per_round) != self.rounds:
            raise ValueError(
                f"data.prompts_per_round has {len(per_round)} numbers; allowed: one per round ({self.rounds})"
            )
        if isinstance(self.data.prompts, list) and len(self.data.prompts) != self.rounds:
            raise ValueError(
                f"data.prompts has {len(self.data.prompts)} pools; allowed: one pool, or one per round ({self.rounds})"
            )
        return self

    @model_validator(mode="after")
    def _inputs_are_named(self) -> "RunConfig":
        if self.world is not None:
            return self
        data = self.data
        for value, key in (
            (self.model.path, "model.path"),
            (data.seeds or data.split, "data.seeds"),
            (data.prompts or data.split or self.rounds == 0, "data.prompts"),
        ):
            if not value:
                raise ValueError(f"{key} is missing; allowed: a folder, a file or a Hub id")
        return self

    @model_validator(mode="after")
    def _a_split_supplies_the_data(self) -> "RunConfig":
        data = self.data
        if data.split is None:
            return self
        for key in ("seeds", "seeds_split", "seed_pairs", "prompts", "prompts_split", "prompts_per_round", "heldout"):
            if getattr(data, key) is not None:
                raise ValueError(f"data.{key} is given with data.split, which supplies it; leave it out")
        if len(data.split.pools) != self.rounds:
            raise ValueError(
                f"data.split.pools has {len(data.split.pools)} sizes; allowed: one per round ({self.rounds})"
            )
        return self

    @model_validator(mode="after")
    def _a_world_supplies_model_and_data(self) -> "RunConfig":
        world = self.world
        if world is None:
            return self
        for section, keys in SUPPLIED.items():
            for key in keys:
                if getattr(getattr(self, section), key) is not None:
                    raise ValueError(f"{section}.{key} is given with a world, which supplies it; leave it out")
        if WORLD_EVALUATION in (evaluation.title for evaluation in self.evaluate):
            raise ValueError(f"evaluate has {WORLD_EVALUATION!r}, the name of the world's own; allowed: another name")
        return self

    @model_validator(mode="after")
    def _a_world_has_room_for_responses(self) -> "RunConfig":
        world, tokens = self.world, self.generation.max_new_tokens
        if world is not None and tokens >= world.max_length:
            raise ValueError(
                f"generation.max_new_tokens is {tokens}; allowed: less than world.max_length ({world.max_length}), so "
                "that a prompt has room"
            )
        return self
