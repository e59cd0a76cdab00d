"""Human pairs set aside: they measure the radius of a round, and say whether the round is taken (PAPER.md D7, D8)."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_from_disk

from sgpo.config import RunConfig
from sgpo.leader.scores import POLICY_COLUMNS, stored_gaps
from sgpo.policy.load import Policy
from sgpo.rounds.policies import Policies
from sgpo.rounds.scoring import score_pairs
from sgpo.stats.acceptance import accept_round, choose_radius
from sgpo.stats.certificate import measured_radius
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.stages import Stages

PAIRS = "validation/pairs"
DECISION = "decision.json"
TRAINING_LOG = "training_log.json"


class Validation:
    """What the validation pairs say of policies. No round trains on them; only the choice is reported."""

    def __init__(self, config: RunConfig, stages: Stages, policies: Policies) -> None:
        self._config, self._stages, self._policies = config, stages, policies
        self._root = stages.run.root

    def score(self, number: int) -> None:
        """The validation gaps of a round's policy, as a stage."""
        name = f"round-{number}/validation.json"
        self._stages.alone(name, lambda path: self._write_gaps(self._policies.of_round(number), path))

    def score_trial(self, trial: str) -> None:
        """The same for a policy that is tried."""
        folder = self._root / trial / "policy"
        self._stages.alone(f"{trial}/validation.json", lambda path: self._write_gaps(self._policies.at(folder), path))

    def measured_radius(self, number: int, gaps: np.ndarray, sources: list[str]) -> float:
        """The radius of a round, from the gaps of its pairs, under the policy that the round starts from."""
        own = gaps[np.array(sources) == "self"]
        follower = self._config.follower
        return measured_radius(self.gaps(number - 1), own, space=follower.space, factor=follower.radius_factor)

    def decide(self, number: int, radii: list[float]) -> None:
        """Puts the round's policy in place: that of the radius chosen, or the policy before; the trials go."""
        self._stages.alone(f"round-{number}/{DECISION}", lambda path: self._write_decision(number, radii, path))
        chosen = self.decision(number)["place"]

        def work(path: Path) -> None:
            if chosen is None:
                _link_tree(self._policies.path(number - 1), path, without=TRAINING_LOG)
            else:
                _link_tree(self._root / f"round-{number}/trials/{chosen}/policy", path)

        self._stages.alone(f"round-{number}/policy", work)

    def clear(self, number: int) -> None:
        """Removes the trials of a round that has its policy."""
        if self._stages.processes.is_main:
            shutil.rmtree(self._root / f"round-{number}/trials", ignore_errors=True)

    def decision(self, number: int) -> dict[str, Any]:
        """What was decided of a round: radius, place in the grid (None: not taken), and why."""
        return json.loads((self._root / f"round-{number}/{DECISION}").read_text(encoding="utf-8"))

    def gaps(self, number: int) -> np.ndarray:
        """Gaps of the validation pairs under the policy of a round that `score` has seen, (N,) in nats."""
        return _read_gaps(self._root / f"round-{number}/validation.json")

    def _write_gaps(self, policy: Policy, path: Path) -> None:
        pairs = score_pairs(
            load_from_disk(self._root / PAIRS),
            policy,
            POLICY_COLUMNS,
            max_length=self._config.leader.max_length,
            who="policy",
            reporter=self._stages.reporter,
        )
        gaps = stored_gaps(pairs, self._config.leader.beta).tolist()
        path.write_text(json.dumps({"gaps": gaps}) + "\n", encoding="utf-8")

    def _write_decision(self, number: int, radii: list[float], path: Path) -> None:
        folder = self._root / f"round-{number}"
        after = [_read_gaps(folder / f"trials/{place}/validation.json") for place in range(len(radii))]
        before = self.gaps(number - 1)
        decisions = [accept_round(before, gaps) for gaps in after]
        place = choose_radius(before, after, radii) if len(radii) > 1 else (0 if decisions[0].accepted else None)
        tried = [
            {
                "radius": radius,
                "accepted": decision.accepted,
                "reason": decision.reason,
                "change": decision.change,
                "standard_error": decision.standard_error,
                "accuracy": ranking_accuracy(gaps).accuracy,
            }
            for radius, decision, gaps in zip(radii, decisions, after, strict=True)
        ]
        content = {
            "place": place,
            # A round that is not taken is reported with the radius that came nearest to it.
            "radius": radii[place if place is not None else int(np.argmax([one.change for one in decisions]))],
            "accepted": place is not None,
            "accuracy_before": ranking_accuracy(before).accuracy,
            "pairs": len(before),
            "tried": tried,
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_gaps(path: Path) -> np.ndarray:
    return np.array(json.loads(path.read_text(encoding="utf-8"))["gaps"])


def _link_tree(source: Path, target: Path, *, without: str = "") -> None:
    """A copy of a folder that shares its files, which no stage changes; copied where links cannot be made."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns(without))
