"""Validation pairs: human pairs that no round trains on. They measure a round's radius, and judge its policy.

Source: PAPER.md D7, D8.
"""

import os
import shutil
from math import isnan
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from sgpo.config import RunConfig
from sgpo.leader.scores import stored_gaps
from sgpo.policy.generators import load_model
from sgpo.policy.load import Policy
from sgpo.policy.tokens import tokenize_pairs
from sgpo.rounds.context import Run
from sgpo.rounds.costs import StagePlan
from sgpo.rounds.pairs import VALIDATION, gaps_under
from sgpo.rounds.training import TRAINING_LOG, solve_follower, train_round
from sgpo.stats.acceptance import ENOUGH_PAIRS, ERROR_LEVEL, accept_round, choose_radius, latest_supported
from sgpo.stats.certificate import measured_radius
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.files import read_json, reading_back, write_json
from sgpo.store.records import WORST_CASE, Decision, Evidence, Shipped, Tried

GAPS, DECISION, SHIPPED = "validation.json", "decision.json", "shipped.json"


def score_validation_pairs(run: Run, number: int) -> None:
    """The gaps of the validation pairs under the policy of a round, if the recipe has validation pairs."""
    if run.config.validation_share:
        run.stages.alone(f"round-{number}/{GAPS}", lambda path: _write_gaps(run, run.policy(number), path))


def _write_gaps(run: Run, policy: Policy, path: Path) -> None:
    write_json(path, {"gaps": gaps_under(run, VALIDATION, policy).tolist()}, indent=None)


def _read_gaps(run: Run, folder: str) -> np.ndarray:
    """(N,) in nats."""
    with reading_back(run.root / folder / GAPS):
        return np.array(read_json(run.root / folder / GAPS)["gaps"], dtype=np.float64)


def round_radius(run: Run, number: int) -> float:
    """The follower's radius in a round: the recipe's number, or the measured one (PAPER.md D7)."""
    follower = run.config.follower
    if follower.radius != "measured":
        return follower.radius
    pairs = run.load(f"round-{number}/pairs")
    own = stored_gaps(pairs, run.config.leader.beta)[np.array(pairs["source"]) == "self"]
    human = _read_gaps(run, f"round-{number - 1}")
    return follower.radius_factor * measured_radius(human, own, space=follower.space)


def try_radii(run: Run, number: int) -> None:
    """Trains the round with each radius, and takes what the validation pairs choose; the trials are removed."""
    stages, folder = run.stages, f"round-{number}"
    if not stages.has(f"{folder}/policy"):
        grid = run.config.follower.radius == "validated"
        radii = run.config.follower.radius_grid if grid else [round_radius(run, number)]
        for place, radius in enumerate(radii):
            _try_radius(run, number, radius, _trial(number, place))
        decide_round(run, number, radii)
    # A run directory of an older version may hold the policy and not yet the worst case.
    solve_follower(run, number, Decision.read(run.root / folder / DECISION).radius, folder)
    if stages.processes.is_main:
        shutil.rmtree(run.root / folder / "trials", ignore_errors=True)


def _trial(number: int, place: int) -> str:
    return f"round-{number}/trials/{place}"


def _try_radius(run: Run, number: int, radius: float, trial: str) -> None:
    solve_follower(run, number, radius, trial)
    train_round(run, number, radius, trial)
    model = run.config.model.at(run.root / trial / "policy")
    run.stages.alone(f"{trial}/{GAPS}", lambda path: _write_gaps(run, load_model(model), path))


def decide_round(run: Run, number: int, radii: list[float]) -> None:
    """Chooses among the trials, and moves worst case and policy of the chosen one to the round's place. If none is
    accepted the policy is that of the round before, and the worst case that of the best radius."""
    alone, folder = run.stages.alone, f"round-{number}"
    alone(f"{folder}/{DECISION}", lambda path: _decide(run, number, radii).write(path))
    decision = Decision.read(run.root / folder / DECISION)
    tried = run.root / _trial(number, radii.index(decision.radius))

    def adopt_policy(path: Path) -> None:
        # Hard links are a copy, because no stage changes a file.
        source = tried if decision.accepted else run.root / f"round-{number - 1}"
        ignore = None if decision.accepted else shutil.ignore_patterns(TRAINING_LOG)
        shutil.copytree(source / "policy", path, copy_function=_link, ignore=ignore)

    alone(f"{folder}/{WORST_CASE}", lambda path: _link(str(tried / WORST_CASE), str(path)))
    alone(f"{folder}/policy", adopt_policy)


def _link(source: str, target: str) -> None:
    """A hard link, or a copy if the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _decide(run: Run, number: int, radii: list[float]) -> Decision:
    before = _read_gaps(run, f"round-{number - 1}")
    after = [_read_gaps(run, _trial(number, place)) for place in range(len(radii))]
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


def choose_round(run: Run) -> int | None:
    """The round that the run ships, None for the SFT model: the last one, or the latest that validation pairs support,
    a choice that is written to shipped.json."""
    if not run.config.chooses_round:
        return run.config.rounds
    score_validation_pairs(run, run.config.rounds)
    run.stages.alone(SHIPPED, lambda path: _choose(run).write(path))
    return Shipped.read(run.root / SHIPPED).round


def plan_choice(config: RunConfig) -> list[StagePlan]:
    """The stage of `choose_round`."""
    work = "the latest round that the validation pairs support, or the SFT model"
    return [StagePlan(SHIPPED, work)] if config.chooses_round else []


def _choose(run: Run) -> Shipped:
    config, control = run.config, None
    gaps = [_read_gaps(run, f"round-{number}") for number in range(config.rounds + 1)]
    if config.leader.accept == "supported":
        control = _extra_tokens(run.load(VALIDATION), run.tokenizer(0))
    shipment = latest_supported(gaps, control=control)
    number, path = shipment.place, config.model.path
    if number is not None:
        path = f"{run.folder(run.final if config.final_epochs else number)}/policy"
    return Shipped(
        round=number,
        path=path,
        pairs=len(gaps[0]),
        enough=ENOUGH_PAIRS,
        level=ERROR_LEVEL,
        rounds=[
            Evidence(round=place, **found._asdict(), threshold=float(bound), accuracy=ranking_accuracy(row).accuracy)
            for place, (found, bound, row) in enumerate(zip(shipment.evidence, shipment.thresholds, gaps, strict=True))
        ],
    )


def _extra_tokens(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """How many tokens the chosen response of each of N pairs is longer than the rejected one, (N,) float64."""
    lengths = [[len(row.response_ids) for row in rows] for rows in tokenize_pairs(tokenizer, pairs)]
    return np.subtract(*lengths, dtype=np.float64)
