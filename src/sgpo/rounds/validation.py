"""Validation pairs: human pairs that no round trains on. They measure a round's radius and judge its policy.

Source: PAPER.md D7, D8.
"""

import os
import shutil
from math import isnan
from pathlib import Path

import numpy as np

from sgpo.leader.scores import POLICY_COLUMNS, stored_gaps
from sgpo.policy.load import Policy
from sgpo.rounds.context import Run
from sgpo.rounds.scoring import add_scores
from sgpo.rounds.seeds import VALIDATION
from sgpo.rounds.training import TRAINING_LOG, train_round
from sgpo.rounds.worst_case import WORST_CASE, solve_follower
from sgpo.stats.acceptance import accept_round, choose_radius
from sgpo.stats.certificate import measured_radius
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.files import read_json, write_json
from sgpo.store.records import Decision, Tried

GAPS, DECISION = "validation.json", "decision.json"


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
    return follower.radius_factor * measured_radius(human, own, space=follower.space)


def try_radii(run: Run, number: int) -> None:
    """Trains the round with each radius, and takes what the validation pairs choose; the trials are removed."""
    stages, folder = run.stages, f"round-{number}"
    if not stages.has(f"{folder}/policy"):
        grid = run.config.follower.radius == "validated"
        radii = run.config.follower.radius_grid if grid else [round_radius(run, number)]
        for place, radius in enumerate(radii):
            try_radius(run, number, radius, _trial(number, place))
        decide_round(run, number, radii)
    # A run directory of an older version may hold the policy and not yet the worst case.
    solve_follower(run, number, Decision.read(run.root / folder / DECISION).radius, folder)
    if stages.processes.is_main:
        shutil.rmtree(run.root / folder / "trials", ignore_errors=True)


def try_radius(run: Run, number: int, radius: float, trial: str) -> None:
    """Solves, trains and scores a round with one radius, in a folder of its own."""
    solve_follower(run, number, radius, trial)
    train_round(run, number, radius, trial)
    policy = run.root / trial / "policy"
    run.stages.alone(f"{trial}/{GAPS}", lambda path: write_validation_gaps(run, run.policies.at(policy), path))


def decide_round(run: Run, number: int, radii: list[float]) -> None:
    """Chooses among the trials, and moves worst case and policy of the chosen one to the round's place.

    If none is accepted the policy is that of the round before, and the worst case that of the best radius.
    """
    alone, folder = run.stages.alone, f"round-{number}"
    alone(f"{folder}/{DECISION}", lambda path: _decide(run, number, radii).write(path))
    decision = Decision.read(run.root / folder / DECISION)
    tried = run.root / _trial(number, radii.index(decision.radius))

    def adopt_policy(path: Path) -> None:
        if decision.accepted:
            _link_tree(tried / "policy", path)
        else:
            _link_tree(run.policies.path(number - 1), path, without=TRAINING_LOG)

    alone(f"{folder}/{WORST_CASE}", lambda path: _link(str(tried / WORST_CASE), str(path)))
    alone(f"{folder}/policy", adopt_policy)


def _decide(run: Run, number: int, radii: list[float]) -> Decision:
    before = validation_gaps(run, f"round-{number - 1}")
    after = [validation_gaps(run, _trial(number, place)) for place in range(len(radii))]
    decisions = [accept_round(before, gaps) for gaps in after]
    place = choose_radius(decisions, radii)
    # A round that is not accepted is reported with the radius that came nearest to it.
    nearest = place if place is not None else int(np.argmax([one.change for one in decisions]))
    return Decision(
        place=place,
        radius=radii[nearest],
        accepted=place is not None,
        accuracy_before=ranking_accuracy(before).accuracy,
        pairs=len(before),
        tried=[
            Tried(
                radius=radius,
                accepted=one.accepted,
                reason=one.reason,
                change=one.change,
                # One pair has no standard error.
                standard_error=None if isnan(one.standard_error) else one.standard_error,
                accuracy=ranking_accuracy(gaps).accuracy,
            )
            for radius, one, gaps in zip(radii, decisions, after, strict=True)
        ],
    )


def _trial(number: int, place: int) -> str:
    return f"round-{number}/trials/{place}"


def _link_tree(source: Path, target: Path, *, without: str = "") -> None:
    """A copy of a folder by hard links, because no stage changes a file."""
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(without))


def _link(source: str, target: str) -> None:
    """A hard link, or a copy if the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
