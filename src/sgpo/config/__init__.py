"""A recipe, the input of `sgpo run`: its sections, how it is read, and the message for each mistake."""

from sgpo.config.annotation import AnnotationConfig
from sgpo.config.data import DataConfig, SourceConfig, SplitConfig
from sgpo.config.evaluation import EvaluateConfig
from sgpo.config.game import FollowerConfig, LeaderConfig
from sgpo.config.model import GenerationConfig, HardwareConfig, ModelConfig
from sgpo.config.read import named_sources, read_recipe
from sgpo.config.recipe import RunConfig
from sgpo.config.section import Section, validate
from sgpo.config.world import WorldConfig

__all__ = [
    "AnnotationConfig", "DataConfig", "EvaluateConfig", "FollowerConfig", "GenerationConfig", "HardwareConfig",
    "LeaderConfig", "ModelConfig", "RunConfig", "Section", "SourceConfig", "SplitConfig", "WorldConfig",
    "named_sources", "read_recipe", "validate",
]  # fmt: skip
