"""The follower's worst case of a round, and the leader's trainings."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import ALL, Follower, radii
from sgpo.leader.guards import LeaderAlert
from sgpo.leader.pairs import Pairs, number_rows, tag_pairs
from sgpo.leader.scores import stored_gaps
from sgpo.leader.train import build_arguments, train_leader
from sgpo.robust import WorstCase, make_link
from sgpo.rounds.context import Run
from sgpo.rounds.costs import Scale, StagePlan
from sgpo.rounds.pairs import SEEDS, VALIDATION, most_pairs, reference_fingerprint, round_pairs
from sgpo.store.files import reading_back
from sgpo.store.records import WORST_CASE, GapTable

TRAINING_LOG = "training_log.json"
_SETTINGS = ("space", "tangents", "window_rule", "schedule", "step", "solver", "group_size")
_NUMBERS = ("value", "empirical_value", "price", "moved_share", "marginal")
_TOTALS = ("value", "empirical_value", "moved_share")


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


def write_worst_case(pairs: Dataset, arguments: SGPOConfig, path: Path) -> None:
    """Solves the follower for the gaps of scored pairs before the leader's first step, and writes Parquet: per pair its
    gap (nats), point (of the gap space) and moved share; `read_summary` reads the metadata."""
    gaps = stored_gaps(pairs, arguments.beta)
    tags = Pairs.of(tag_pairs(number_rows(pairs), arguments, "the round's"))
    follower = Follower(arguments, tags, gaps)
    follower.answer()
    summary = _summarise(follower.worst_cases, arguments, tags.sources, gaps)
    answer = GapTable(make_link(arguments.space).to_space(gaps), follower.moved_shares())
    table = pa.table({"gap": gaps, **answer._asdict()})
    pq.write_table(table.replace_schema_metadata({"sgpo": json.dumps(summary)}), path)


def _summarise(
    worst_cases: dict[str, WorstCase], arguments: SGPOConfig, sources: np.ndarray | None, gaps: np.ndarray
) -> dict[str, Any]:
    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    answers = {
        name: {
            "radius": worst.radius,
            "window": list(worst.window),
            **{number: float(getattr(worst, number)) for number in _NUMBERS},
            "pairs": len(worst.moved),
        }
        for name, worst in worst_cases.items()
    }
    if sources is None and answers:
        return {**settings, **answers[ALL]}
    # A source without a radius is plain DPO: its worst case is its mean loss.
    losses, totals = np.logaddexp(0.0, -gaps), dict.fromkeys(_TOTALS, 0.0)
    for index, name in enumerate(radii(arguments)):
        members = np.ones(len(gaps), bool) if sources is None else sources == index
        loss = float(losses[members].mean()) if members.any() else 0.0
        answer = answers.get(name, {"value": loss, "empirical_value": loss, "moved_share": 0.0})
        for key in totals:
            totals[key] += float(answer[key] * members.sum() / len(gaps))
    return {**settings, **totals, "by_source": answers}


def read_summary(path: Path) -> dict[str, Any]:
    """The optimum in a worst-case file: settings, value (nats), price, moved share and so on. With a radius per source,
    value and moved share are those of all pairs, and `by_source` holds each source's answer."""
    with reading_back(path):
        return json.loads(pq.read_schema(path).metadata[b"sgpo"])


def read_worst_cases(path: Path, sources: Sequence[str]) -> dict[str, WorstCase]:
    """The answers in a file that were solved for all N pairs, by their (N,) source, or under "all"; none for plain DPO.
    `full_radius` is that of all pairs at once, also for groups."""
    summary, found = read_summary(path), {}
    with reading_back(path):
        table = pq.read_table(path)
        points, moved = GapTable(*(table[name].to_numpy() for name in GapTable._fields))
        for name, answer in summary.get("by_source", {ALL: summary}).items():
            members = np.full(len(points), True) if name == ALL else np.array(sources) == name
            window = tuple(answer["window"])
            own = points[members].clip(*window)
            found[name] = WorstCase(
                **{key: answer[key] for key in (*_NUMBERS, "radius")},
                moved=moved[members],
                full_radius=float(own.mean() - window[0]),
                space=summary["space"],
                window=window,
                link=make_link(summary["space"], summary["tangents"] or None, window=window),
                points=own,
            )
    return found


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
