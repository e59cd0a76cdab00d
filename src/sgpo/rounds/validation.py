"""Validation pairs: human pairs that no round trains on. They measure a round's radius and judge its policy."""

from pathlib import Path

import numpy as np

from sgpo.leader.scores import POLICY_COLUMNS, stored_gaps
from sgpo.policy.load import Policy
from sgpo.rounds.context import Run
from sgpo.rounds.scoring import add_scores
from sgpo.rounds.seeds import VALIDATION
from sgpo.stats.certificate import measured_radius
from sgpo.store.files import read_json, write_json

GAPS = "validation.json"


def score_validation_pairs(run: Run, number: int) -> None:
    """The gaps of the validation pairs under the policy of a round, if the recipe has validation pairs."""
    if run.config.validation_share:
        run.stages.alone(
            f"round-{number}/{GAPS}", lambda path: write_validation_gaps(run, run.policies.of_round(number), path)
        )


def validation_gaps(run: Run, folder: str) -> np.ndarray:
    """Gaps of the validation pairs under the policy of a folder that was scored, (N,) in nats."""
    return np.array(read_json(run.root / folder / GAPS)["gaps"])


def write_validation_gaps(run: Run, policy: Policy, path: Path) -> None:
    """Scores the validation pairs by a policy, and writes their gaps."""
    pairs = add_scores(run, run.load(VALIDATION), policy, POLICY_COLUMNS, who="policy")
    write_json(path, {"gaps": stored_gaps(pairs, run.config.leader.beta).tolist()}, indent=None)


def round_radius(run: Run, number: int) -> float:
    """The follower's radius in a round: the recipe's number, or the measured one (PAPER.md D7)."""
    follower = run.config.follower
    if follower.radius != "measured":
        return follower.radius
    pairs = run.load(f"round-{number}/pairs")
    own = stored_gaps(pairs, run.config.leader.beta)[np.array(pairs["source"]) == "self"]
    human = validation_gaps(run, f"round-{number - 1}")
    return measured_radius(human, own, space=follower.space, factor=follower.radius_factor)
