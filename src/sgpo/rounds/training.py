"""The follower's worst case of a round, and the leader's trainings."""

import json
import math
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.guards import LeaderAlert
from sgpo.leader.train import build_arguments, train_leader
from sgpo.robust import WorstCase
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan
from sgpo.rounds.pairs import SEEDS, VALIDATION, most_pairs, reference_fingerprint, round_pairs
from sgpo.rounds.worst_case import read_worst_cases, write_worst_case
from sgpo.store.records import WORST_CASE

TRAINING_LOG = "training_log.json"


def leader_arguments(config: RunConfig, number: int, radius: float, *, processes: int = 1, **more: Any) -> SGPOConfig:
    """The trainer's arguments in a round, and `more`, or InputError; round 0 is DPO on seeds (Algorithm 1, line 1)."""
    leader, follower = config.leader, config.follower
    if leader.batch_size % (leader.micro_batch_size * processes):
        raise InputError(
            f"leader.batch_size is {leader.batch_size}; allowed: a multiple of leader.micro_batch_size times the "
            f"number of processes ({leader.micro_batch_size} x {processes})."
        )
    settings = {
        "beta": leader.beta,
        "learning_rate": leader.learning_rate,
        "num_train_epochs": leader.epochs,
        "per_device_train_batch_size": leader.micro_batch_size,
        "gradient_accumulation_steps": leader.batch_size // (leader.micro_batch_size * processes),
        "max_length": leader.max_length,
        "lr_scheduler_type": leader.lr_scheduler,
        "warmup_steps": leader.warmup_share,
        "bf16": config.model.dtype == "bfloat16",
        "fp16": config.model.dtype == "float16",
        "seed": 0,
        "reference_fingerprint": None,
        "radius": radius,
    }
    if number == 0:
        settings |= {"num_train_epochs": leader.seed_epochs, "radius": 0.0}
        settings["learning_rate"] = leader.seed_learning_rate or leader.learning_rate
    else:
        settings |= follower.model_dump(mode="json", exclude={"radius", "radius_factor", "radius_grid"})
        settings |= {"tangents": follower.tangents or 0, "step": leader.step, "proximal": leader.proximal}
    # The trainer writes to a folder of its own.
    return build_arguments({**settings, **more}, leader.trainer, output_dir="unused")


def _arguments(run: Run, number: int, radius: float, **more: Any) -> SGPOConfig:
    count, fingerprint = run.stages.processes.count, reference_fingerprint(run, number)
    own = {"seed": run.stages.seed(f"round-{number}/policy"), "reference_fingerprint": fingerprint}
    return leader_arguments(run.config, number, radius, processes=count, **{**own, **more})


def solve_follower(run: Run, number: int, radius: float, folder: str) -> None:
    """Solves the worst case of a round's gaps, as a file in `folder`."""
    run.stages.alone(
        f"{folder}/{WORST_CASE}",
        lambda path: write_worst_case(round_pairs(run, number), _arguments(run, number, radius), path),
    )


def plan_follower(config: RunConfig, number: int) -> StagePlan:
    """The stage of `solve_follower`."""
    follower = config.follower
    return StagePlan(f"round-{number}/{WORST_CASE}", f"worst case at radius {follower.radius} ({follower.space})")


def train_round(run: Run, number: int, radius: float, folder: str) -> None:
    """Trains a round's policy against the worst case in `folder`, from that of the round before; 0 is DPO on seeds."""

    def work(path: Path) -> None:
        pairs, worst_cases = round_pairs(run, number), None
        # With schedule `step` the follower answers to a running window instead of all pairs.
        if number and run.config.follower.schedule != "step":
            worst_cases = read_worst_cases(run.root / folder / WORST_CASE, pairs["source"])
        start = number - 1 if number else None
        _fit(run, path, pairs, start=start, number=number, radius=radius, worst_cases=worst_cases)

    run.stages.together(f"{folder}/policy", work)


def train_human_pairs(run: Run, start: int) -> None:
    """The last DPO, on all human pairs, validation pairs included, from the policy of a round (PAPER.md D9). The
    settings are those of round 0 except for the epochs, and the reference is the SFT model."""
    folder = run.folder(run.final)

    def gather(path: Path) -> None:
        parts = [run.load(name) for name in (SEEDS, VALIDATION) if run.stages.run.has(name)]
        concatenate_datasets(parts).save_to_disk(path)

    def work(path: Path) -> None:
        changes = {"num_train_epochs": run.config.final_epochs, "seed": run.stages.seed(f"{folder}/policy")}
        _fit(run, path, run.load(f"{folder}/pairs"), start=start, number=0, **changes)

    run.stages.alone(f"{folder}/pairs", gather)
    run.stages.together(f"{folder}/policy", work)


def _fit(
    run: Run,
    path: Path,
    pairs: Dataset,
    *,
    start: int | None,
    number: int,
    radius: float = 0.0,
    worst_cases: dict[str, WorstCase] | None = None,
    **changes: Any,
) -> None:
    """Trains the policy `start` with the arguments of a round, and saves it with its training log."""
    # One loss needs the logits of the reference in addition to its stored scores.
    decoupled = run.config.leader.trainer.get("decoupling", 1) != 1
    reference = run.policy(run.reference(number)) if decoupled else None
    # Steps of a usual learning rate are smaller than what 16 bits can add to a weight, so the weights that are trained,
    # and saved for the next round, have 32. An adapter's always do.
    policy = run.policy(start, **({} if run.config.leader.lora else {"dtype": "float32"}))
    # Not before the models are loaded: DeepSpeed's arguments would change how.
    arguments = _arguments(run, number, radius, **changes)
    steps = training_steps(run.config, len(pairs), arguments.num_train_epochs)
    if steps == 1:
        # A warm-up starts at 0: the only step would change nothing.
        arguments.warmup_steps = 0
    with run.reporter.bar("leader steps", steps) as advance, run.reporter.showing(LeaderAlert):
        log = train_leader(
            policy,
            pairs,
            path,
            arguments,
            reference=reference,
            peft_config=run.config.leader.lora,
            worst_cases=worst_cases or None,
            advance=advance,
        )
    if run.stages.processes.is_main:
        (path / TRAINING_LOG).write_text(json.dumps(log, indent=1), encoding="utf-8")


def training_steps(config: RunConfig, pairs: int, epochs: float) -> int:
    """Optimiser steps of a training."""
    return math.ceil(epochs * math.ceil(pairs / config.leader.batch_size))


def plan_training(config: RunConfig, scale: Scale, number: int) -> StagePlan:
    """A training stage: DPO on the seeds (0), a round, trials included, or the last DPO (rounds + 1)."""
    pairs, epochs, what, times = scale.seeds, config.leader.seed_epochs, "DPO on the seeds:", 1
    tokens = scale.tokens if 0 < number <= config.rounds else scale.human_tokens
    if number > config.rounds:
        pairs, epochs = scale.seeds + scale.validation, config.final_epochs
        what = f"a last DPO on all {pairs} human pairs, from the round that is shipped:"
    elif number:
        pairs, epochs, what = most_pairs(config, scale, number), config.leader.epochs, "at most"
        if config.follower.radius == "validated" and (times := len(config.follower.radius_grid)) > 1:
            what = f"{times} radii, each with at most"
    work = f"{what} {training_steps(config, pairs, epochs)} steps"
    folder = "final" if number > config.rounds else f"round-{number}"
    time = scale.hours(config.hardware, times * epochs * 2 * pairs * tokens, training=True)
    return StagePlan(f"{folder}/policy", work, time)
