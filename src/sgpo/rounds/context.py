"""What every step of a run works with."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, load_from_disk

from sgpo.config import RunConfig
from sgpo.rounds.policies import Policies
from sgpo.store.progress import Reporter
from sgpo.store.stages import Stages


@dataclass(frozen=True)
class Run:
    """A run: its recipe, its stages on disk, and its policies."""

    config: RunConfig
    stages: Stages
    policies: Policies

    @property
    def root(self) -> Path:
        """The run directory."""
        return self.stages.run.root

    @property
    def reporter(self) -> Reporter:
        """Where progress is shown."""
        return self.stages.reporter

    def load(self, stage: str) -> Dataset:
        """The dataset of a finished stage."""
        return load_from_disk(self.root / stage)
