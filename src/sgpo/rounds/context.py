"""What every stage of a run works with."""

from dataclasses import dataclass
from pathlib import Path

from sgpo.config import RunConfig
from sgpo.rounds.policies import Policies
from sgpo.store.progress import Reporter
from sgpo.store.stages import Stages


@dataclass(frozen=True)
class Run:
    """A run: its recipe, the stages on disk and the processes that share them, and its policies."""

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
