"""Training of a policy: DPO on the seeds, the leader's step of a round, and the last DPO on all human pairs."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from sgpo.config import RunConfig
from sgpo.leader.guards import LeaderAlert
from sgpo.leader.train import train_leader
from sgpo.policy.load import Policy
from sgpo.robust import WorstCase
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan, plan_training, training_steps
from sgpo.rounds.game import round_pairs, round_settings
from sgpo.rounds.pairs import most_pairs
from sgpo.rounds.policies import FINAL
from sgpo.rounds.seeds import SEEDS, VALIDATION
from sgpo.rounds.worst_case import WORST_CASE, read_worst_cases

TRAINING_LOG = "training_log.json"


def train_seeds(run: Run) -> None:
    """Round 0: DPO on the seeds, from the SFT model."""
    train_round(run, 0, 0.0, "round-0")


def train_round(run: Run, number: int, radius: float, folder: str) -> None:
    """Trains a round's policy against the worst case in `folder`, from the policy of the round before."""

    def work(path: Path) -> None:
        pairs, settings, answers = round_pairs(run, number), round_settings(run, number, radius), None
        # With schedule `step` the follower answers to a running window instead of all pairs.
        if number and settings["schedule"] != "step":
            answers = read_worst_cases(run.root / folder / WORST_CASE, pairs["source"])
        _fit(run, path, number - 1 if number else None, pairs, settings, _live_reference(run, number), answers)

    run.stages.together(f"{folder}/policy", work)


def train_human_pairs(run: Run, start: int) -> None:
    """The last DPO, on all human pairs, validation pairs included, from the policy of a round (PAPER.md D9).

    The settings are those of round 0 except for the epochs, and the reference is the SFT model.
    """

    def gather(path: Path) -> None:
        parts = [run.load(name) for name in (SEEDS, VALIDATION) if run.stages.run.has(name)]
        concatenate_datasets(parts).save_to_disk(path)

    def work(path: Path) -> None:
        settings = round_settings(run, 0, 0.0)
        settings |= {"num_train_epochs": run.config.final_epochs, "seed": run.stages.seed(f"{FINAL}/policy")}
        _fit(run, path, start, run.load(f"{FINAL}/pairs"), settings, _live_reference(run, 0))

    run.stages.alone(f"{FINAL}/pairs", gather)
    run.stages.together(f"{FINAL}/policy", work)


def plan_seed_training(config: RunConfig, scale: Scale) -> list[StagePlan]:
    """The stage of `train_seeds`."""
    epochs = config.leader.seed_epochs
    return [plan_training(config, scale, "round-0/policy", "DPO on the seeds:", pairs=scale.seeds, epochs=epochs)]


def plan_round_training(config: RunConfig, scale: Scale, number: int) -> list[StagePlan]:
    """The stage of `train_round`, or its trials."""
    pairs, name = most_pairs(config, scale, number), f"round-{number}/policy"
    times = len(config.follower.radius_grid) if config.follower.radius == "validated" else 1
    what = "at most" if times == 1 else f"{times} radii, each with at most"
    return [plan_training(config, scale, name, what, pairs=pairs, epochs=config.leader.epochs, times=times)]


def plan_last_training(config: RunConfig, scale: Scale) -> list[StagePlan]:
    """The stage of `train_human_pairs`, if the recipe has one."""
    pairs, epochs = scale.seeds + scale.validation, config.final_epochs
    what = f"a last DPO on all {pairs} human pairs, from the round that is shipped:"
    return [plan_training(config, scale, f"{FINAL}/policy", what, pairs=pairs, epochs=epochs)] if epochs else []


def _fit(
    run: Run,
    path: Path,
    start: int | None,
    pairs: Dataset,
    settings: dict[str, Any],
    reference: Policy | None,
    worst_cases: dict[str, WorstCase] | None = None,
) -> None:
    """Trains the policy of a round, or the SFT model if `start` is None, and saves it with its training log."""
    leader = run.config.leader
    policy = run.policies.reference() if start is None else run.policies.of_round(start)
    steps = training_steps(run.config, len(pairs), settings["num_train_epochs"])
    if steps == 1:
        # A warm-up starts at 0: the only step would change nothing.
        settings = {**settings, "warmup_steps": 0}
    with run.reporter.bar("leader steps", steps) as advance, run.reporter.showing(LeaderAlert):
        log = train_leader(
            policy,
            pairs,
            path,
            settings=settings,
            extra=leader.trainer,
            peft_config=leader.lora,
            advance=advance,
            reference=reference,
            worst_cases=worst_cases or None,
        )
    if run.stages.processes.is_main:
        (path / TRAINING_LOG).write_text(json.dumps(log, indent=1), encoding="utf-8")


def _live_reference(run: Run, number: int) -> Policy | None:
    """The reference model, for the one loss that needs its logits in addition to its stored scores."""
    if run.config.leader.trainer.get("decoupling", 1) == 1:
        return None
    is_sft = number == 0 or run.config.reference == "sft"
    return run.policies.reference() if is_sft else run.policies.of_round(number - 1)
