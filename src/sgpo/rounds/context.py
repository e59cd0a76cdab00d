"""What every step of a run works with: its recipe, its stages on disk, and its policies."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk
from transformers import PreTrainedTokenizerBase

from sgpo.config import ModelConfig, RunConfig
from sgpo.policy.fingerprints import fingerprint_policy
from sgpo.policy.generators import load_model
from sgpo.policy.load import Policy, load_tokenizer
from sgpo.store.progress import Reporter
from sgpo.store.stages import Stages


@dataclass(frozen=True)
class Run:
    """A run. A policy is named by its round, or None for the SFT model, and loaded where it is used."""

    config: RunConfig
    stages: Stages
    _fingerprints: dict[int | None, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The run directory."""
        return self.stages.run.root

    @property
    def reporter(self) -> Reporter:
        """Where progress is shown."""
        return self.stages.reporter

    @property
    def final(self) -> int:
        """The number of the last DPO on human pairs, which follows the rounds."""
        return self.config.rounds + 1

    def folder(self, number: int) -> str:
        """The folder of a round in the run directory."""
        return "final" if number == self.final else f"round-{number}"

    def load(self, stage: str) -> Dataset:
        """The dataset of a finished stage."""
        return load_from_disk(self.root / stage)

    def model(self, number: int | None) -> ModelConfig:
        """Where a policy is, and how it is loaded."""
        model = self.config.model
        return model if number is None else model.at(self.root / self.folder(number) / "policy")

    def policy(self, number: int | None, **changes: Any) -> Policy:
        """Loads a policy, with `changes` of how."""
        return load_model(self.model(number).model_copy(update=changes))

    def tokenizer(self, number: int | None) -> PreTrainedTokenizerBase:
        """Loads the tokenizer of a policy."""
        model = self.model(number)
        return load_tokenizer(model.path, adapter=model.adapter, trust_remote_code=model.trust_remote_code)

    def fingerprint(self, number: int | None) -> str:
        """`fingerprint_policy` of a policy."""
        # Reading all weights takes a while, and every shard of a stage needs it.
        if number not in self._fingerprints:
            model = self.model(number)
            self._fingerprints[number] = fingerprint_policy(model.path, adapter=model.adapter)
        return self._fingerprints[number]

    def reference(self, number: int) -> int | None:
        """The reference of a round's training: the policy that the round starts from, or the SFT model."""
        return number - 1 if number and self.config.reference == "previous" else None
