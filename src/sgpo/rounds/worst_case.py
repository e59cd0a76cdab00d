"""The follower's answer to the pairs of a round, solved once and kept as a file for the leader and the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import ALL, Follower, Pairs, radii
from sgpo.leader.scores import stored_gaps
from sgpo.leader.train import build_arguments
from sgpo.robust import WorstCase, make_link
from sgpo.rounds.context import Run
from sgpo.rounds.costs import StagePlan
from sgpo.rounds.game import round_pairs, round_settings

WORST_CASE = "worst_case.parquet"
_SETTINGS = ("space", "tangents", "window_rule", "schedule", "step", "solver", "group_size")
_NUMBERS = ("value", "empirical_value", "price", "moved_share", "marginal")


def solve_follower(run: Run, number: int, radius: float, folder: str) -> None:
    """Solves the worst case of a round's gaps, as a file in `folder`."""

    def work(path: Path) -> None:
        settings = round_settings(run, number, radius)
        arguments = build_arguments(settings, run.config.leader.trainer, output_dir="unused")
        write_worst_case(round_pairs(run, number), arguments, path)

    run.stages.alone(f"{folder}/{WORST_CASE}", work)


def plan_follower(config: RunConfig, number: int) -> list[StagePlan]:
    """The stage of `solve_follower`."""
    follower = config.follower
    return [StagePlan(f"round-{number}/{WORST_CASE}", f"worst case at radius {follower.radius} ({follower.space})")]


def write_worst_case(pairs: Dataset, arguments: SGPOConfig, path: Path) -> None:
    """Solves the follower for the gaps before the leader's first step, and writes Parquet.

    Args:
        pairs: N pairs with stored scores of policy and reference, and `source`.
        arguments: the leader's.
        path: file to write: one row per pair with its gap (nats), point (of the gap space) and moved share; the
            summary of `read_summary` is its metadata.

    Raises:
        InputError: gaps that the arguments do not allow, such as one outside the window.
    """
    gaps = stored_gaps(pairs, arguments.beta)
    sources = _source_indices(pairs, arguments)
    follower = Follower(arguments, Pairs(np.arange(len(pairs)), None, sources), gaps)
    follower.answer()
    summary = _summarise(follower.worst_cases, arguments, sources, gaps)
    points = make_link(arguments.space).to_space(gaps)
    table = pa.table({"gap": gaps, "point": points, "moved": follower.moved_shares()})
    pq.write_table(table.replace_schema_metadata({"sgpo": json.dumps(summary)}), path)


def read_summary(path: Path) -> dict[str, Any]:
    """The optimum in a worst-case file: the settings, value (nats), price, moved share and so on.

    With a radius per source, value and moved share are those of all pairs, and `by_source` holds each source's answer.
    """
    return json.loads(pq.read_schema(path).metadata[b"sgpo"])


def read_worst_cases(path: Path, sources: Sequence[str]) -> dict[str, WorstCase]:
    """The answers in a worst-case file, by source, or under "all"; none for plain DPO.

    Args:
        path: of `write_worst_case`, solved for all pairs (any schedule but `step`).
        sources: (N,) `source` of the pairs.

    Returns: the answers as they were solved; `full_radius` is that of all pairs at once, also for groups.
    """
    summary, table = read_summary(path), pq.read_table(path)
    points, moved = (table[name].to_numpy() for name in ("point", "moved"))
    found = {}
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


def _source_indices(pairs: Dataset, arguments: SGPOConfig) -> np.ndarray | None:
    if arguments.source_radius is None:
        return None
    names = list(radii(arguments))
    present = pairs["source"][:]
    unknown = sorted(set(present) - set(names))
    if unknown:
        raise InputError(f"follower.source_radius has no radius for {', '.join(unknown)}; it names {', '.join(names)}.")
    return np.array([names.index(source) for source in present])


def _summarise(
    worst_cases: dict[str, WorstCase], arguments: SGPOConfig, sources: np.ndarray | None, gaps: np.ndarray
) -> dict[str, Any]:
    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    answers = {name: {**_numbers(worst), "pairs": len(worst.moved)} for name, worst in worst_cases.items()}
    if sources is None and answers:
        ((_, answer),) = answers.items()
        return {**settings, **answer}
    # A source without a radius is plain DPO: its worst case is its mean loss.
    losses = np.logaddexp(0.0, -gaps)
    totals = dict.fromkeys(("value", "empirical_value", "moved_share"), 0.0)
    for index, name in enumerate(radii(arguments)):
        members = np.ones(len(gaps), bool) if sources is None else sources == index
        loss = float(losses[members].mean()) if members.any() else 0.0
        answer = answers.get(name, {"value": loss, "empirical_value": loss, "moved_share": 0.0})
        for key in totals:
            totals[key] += float(answer[key] * members.sum() / len(gaps))
    return {**settings, **totals, "by_source": answers}


def _numbers(worst: WorstCase) -> dict[str, Any]:
    numbers = {name: float(getattr(worst, name)) for name in _NUMBERS}
    return {"radius": worst.radius, "window": list(worst.window), **numbers}
