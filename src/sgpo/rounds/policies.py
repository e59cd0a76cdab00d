"""The policies of a run: their folders, how they are loaded, and their fingerprints."""

from pathlib import Path

from sgpo.config import RunConfig
from sgpo.policy.fingerprints import fingerprint_policy
from sgpo.policy.generators import load_model
from sgpo.policy.load import Policy
from sgpo.store.run_dir import RunDir

FINAL = "final"


class Policies:
    """Loads the reference of a run and the policies of its rounds; nothing is kept in memory."""

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        self._model, self._run, self._rounds = config.model, run, config.rounds
        self._fingerprints: dict[str, str] = {}

    @property
    def final(self) -> int:
        """The number of the last DPO on human pairs, which follows the rounds."""
        return self._rounds + 1

    def folder(self, number: int) -> str:
        """The folder of a round in the run directory."""
        return FINAL if number == self.final else f"round-{number}"

    def path(self, number: int) -> Path:
        """The folder of a round's policy."""
        return self._run.path(f"{self.folder(number)}/policy")

    def at(self, folder: Path) -> Policy:
        """Loads a policy of the run from its folder."""
        return load_model(self._model.at(folder))

    def of_round(self, number: int) -> Policy:
        """Loads the policy of a round."""
        return self.at(self.path(number))

    def reference(self) -> Policy:
        """Loads the SFT model."""
        return load_model(self._model)

    def fingerprint(self, number: int) -> str:
        """`fingerprint_policy` of a round's policy."""
        return self._fingerprint(self.path(number), adapter=None)

    def fingerprint_reference(self) -> str:
        """`fingerprint_policy` of the SFT model."""
        return self._fingerprint(self._model.path, adapter=self._model.adapter)

    def _fingerprint(self, path: str | Path, adapter: str | None) -> str:
        # Reading all weights takes a while, and every shard of a stage needs it.
        key = f"{path}+{adapter}"
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint_policy(path, adapter=adapter)
        return self._fingerprints[key]
