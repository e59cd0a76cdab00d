"""The whole recipe, and the rules across its sections."""

from typing import Annotated

from pydantic import Field, model_validator

from sgpo.choices import Reference
from sgpo.config.annotation import AnnotationConfig
from sgpo.config.data import DataConfig
from sgpo.config.evaluation import EvaluateConfig
from sgpo.config.game import FollowerConfig, LeaderConfig
from sgpo.config.model import GenerationConfig, HardwareConfig, ModelConfig
from sgpo.config.section import CountOrZero, Section, key
from sgpo.config.world import SUPPLIED, WORLD_EVALUATION, WorldConfig

_SPLIT_SUPPLIES = (
    "seeds", "seeds_split", "seed_pairs", "prompts", "prompts_split", "prompts_per_round", "heldout", "heldout_split",
)  # fmt: skip


class RunConfig(Section):
    """A run of SSAPO on the user's model and data, or on an embedded world."""

    output: Annotated[str, "a folder"] = key(..., "The run directory.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = key(0, "Seed of everything random.")
    rounds: CountOrZero = key(3, "Rounds after DPO on the seeds.")
    reference: Reference = key("sft", "The reference policy: the SFT model, or the policy that the round starts from.")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    follower: FollowerConfig = FollowerConfig()
    leader: LeaderConfig = LeaderConfig()
    evaluate: list[EvaluateConfig] = key([], "After each round; see below.")
    hardware: HardwareConfig | None = key(None, "For estimates; see below.")
    world: WorldConfig | None = key(None, "An embedded world that supplies model and data; see below.")

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
        default = 0.2 if self._needs_validation else 0.0
        return default if self.data.validation_share is None else self.data.validation_share

    @property
    def final_epochs(self) -> float:
        """Epochs of the last DPO on all human pairs: the recipe's, or round 0's if a round is chosen."""
        default = self.leader.seed_epochs if self.chooses_round else 0.0
        return default if self.leader.final_epochs is None else self.leader.final_epochs

    @property
    def _needs_validation(self) -> bool:
        return self.judges_rounds or self.chooses_round or self.follower.radius == "measured"

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        self._check_sources()
        self._check_choice()
        self._check_rounds()
        if self.world is None:
            self._check_inputs()
        else:
            self._check_world(self.world)
        return self

    def _check_sources(self) -> None:
        radii = self.follower.source_radius
        sources = ["human", "self"] if self.data.seeds_in_rounds else ["self"]
        if radii is not None and sorted(radii) != sources:
            raise ValueError(
                f"follower.source_radius names {', '.join(sorted(radii)) or 'no source'}; allowed: "
                f"{' and '.join(sources)}, the sources of a round's pairs (data.seeds_in_rounds adds human)"
            )

    def _check_choice(self) -> None:
        """Validation pairs are there if something needs them, and choose once."""
        wanted, there, accept = self._needs_validation, self.validation_share > 0, self.leader.accept
        # With a last DPO they may also serve other purposes, such as a choice of learning rates.
        if wanted != there and not (there and self.leader.final_epochs):
            raise ValueError(
                f"data.validation_share is {self.data.validation_share} with "
                f"follower.radius={self.follower.radius!r} and leader.accept={accept!r}; allowed: a share > 0 if one "
                "of them needs validation pairs, else 0 or null. A number as radius and leader.accept='always' need "
                "none"
            )
        if self.follower.radius == "validated" and self.chooses_round:
            raise ValueError(
                f"leader.accept is {accept!r} with follower.radius='validated'; allowed: 'validated' or 'always'. The "
                "same pairs would choose twice, and mistake noise for a signal more often"
            )

    def _check_rounds(self) -> None:
        """Lists have one item per round, and evaluations names of their own."""
        titles = [evaluation.title for evaluation in self.evaluate]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"evaluate has {', '.join(twice)} more than once; allowed: a `name` for each")
        data = self.data
        for name, value, also in (
            ("data.prompts_per_round", data.prompts_per_round, ""),
            ("data.prompts", data.prompts, "one pool, or "),
            ("data.split.pools", data.split and data.split.pools, ""),
        ):
            if isinstance(value, list) and len(value) != self.rounds:
                raise ValueError(f"{name} has {len(value)} items; allowed: {also}one per round ({self.rounds})")

    def _check_inputs(self) -> None:
        """Model and data are named, once."""
        data = self.data
        for value, name in (
            (self.model.path, "model.path"),
            (data.seeds or data.split, "data.seeds"),
            (data.prompts or data.split or self.rounds == 0, "data.prompts"),
        ):
            if not value:
                raise ValueError(f"{name} is missing; allowed: a folder, a file or a Hub id")
        if self.model.gguf_file and self.model.adapter:
            raise ValueError("model.adapter is given with model.gguf_file; leave one of them out")
        for name in _SPLIT_SUPPLIES if data.split else ():
            if getattr(data, name) is not None:
                raise ValueError(f"data.{name} is given with data.split, which supplies it; leave it out")

    def _check_world(self, world: WorldConfig) -> None:
        """The world's model and data are given by nothing else, and its prompts have room."""
        for section, names in SUPPLIED.items():
            for name in names:
                if getattr(getattr(self, section), name) is not None:
                    raise ValueError(f"{section}.{name} is given with a world, which supplies it; leave it out")
        if WORLD_EVALUATION in (evaluation.title for evaluation in self.evaluate):
            raise ValueError(f"evaluate has {WORLD_EVALUATION!r}, the name of the world's own; allowed: another name")
        if self.generation.max_new_tokens >= world.max_length:
            raise ValueError(
                f"generation.max_new_tokens is {self.generation.max_new_tokens}; allowed: less than world.max_length "
                f"({world.max_length}), so that a prompt has room"
            )
