"""The policies of a run: where they lie, how they are loaded, and what they are known by."""

from pathlib import Path

from sgpo.config import Recipe
from sgpo.policy.fingerprints import fingerprint_policy
from sgpo.policy.load import Policy, load_policy
from sgpo.store.run_dir import RunDir

FINAL = "final"


class Policies:
    """Loads a run's reference and the policies of its rounds; one at a time is the caller's part."""

    def __init__(self, config: Recipe, run: RunDir) -> None:
        self._config, self._run, self._rounds = config.model, run, config.rounds
        self._fingerprints: dict[str, str] = {}

    @property
    def final(self) -> int:
        """The number of the last DPO on human pairs, after all rounds."""
        return self._rounds + 1

    def folder(self, number: int) -> str:
        """The folder of a round in the run directory."""
        return FINAL if number == self.final else f"round-{number}"

    def path(self, number: int) -> Path:
        """Where the policy of a round lies."""
        return self._run.path(f"{self.folder(number)}/policy")

    def of_round(self, number: int) -> Policy:
        """The policy that a round ended with."""
        return self.at(self.path(number))

    def reference(self) -> Policy:
        """The SFT model."""
        return self._load(self._config.path, adapter=self._config.adapter)

    def fingerprint(self, number: int) -> str:
        """`fingerprint_policy` of a round's policy."""
        return self._fingerprint(self.path(number), adapter=None)

    def fingerprint_reference(self) -> str:
        """`fingerprint_policy` of the SFT model."""
        return self._fingerprint(self._config.path, adapter=self._config.adapter)

    def at(self, folder: Path) -> Policy:
        """A policy that lies in a folder of the run."""
        return self._load(str(folder), adapter=None)

    def _load(self, path: str, adapter: str | None) -> Policy:
        return load_policy(
            path, dtype=self._config.dtype, adapter=adapter, trust_remote_code=self._config.trust_remote_code
        )

    def _fingerprint(self, path: str | Path, adapter: str | None) -> str:
        # Reading all weights takes a while, and a stage asks for each of its shards.
        key = f"{path}+{adapter}"
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint_policy(path, adapter=adapter)
        return self._fingerprints[key]
