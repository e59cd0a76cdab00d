"""The follower's answer to the pairs of a round, as a file: what each pair does, and what the optimum tells."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import Follower, radii
from sgpo.leader.pair_loss import Pairs
from sgpo.leader.scores import stored_gaps
from sgpo.robust.link import sigmoid
from sgpo.robust.solution import WorstCase

_NUMBERS = ("value", "empirical_value", "price", "moved_share", "marginal")


def write_worst_case(pairs: Dataset, arguments: SGPOConfig, path: Path) -> None:
    """Solves the follower as the leader will before its first step, and writes Parquet.

    Args:
        pairs: stored scores of policy and reference, and `source`.
        arguments: the leader's.
        path: file to write: one row per pair with its gap (nats), point (of the gap space) and moved share; the
            summary of `read_summary` in its metadata.

    Raises:
        InputError: gaps that the arguments cannot be answered for, such as one outside the window.
    """
    gaps = stored_gaps(pairs, arguments.beta)
    sources = _source_indices(pairs, arguments)
    follower = Follower(arguments, Pairs(np.arange(len(pairs)), None, sources), gaps)
    follower.answer()
    moved = np.zeros(len(pairs))
    for index, name in enumerate(radii(arguments)):
        if name in follower.worst_cases:
            members = slice(None) if sources is None else sources == index
            moved[members] = follower.worst_cases[name].moved
    summary = _summarise(follower.worst_cases, arguments, sources, gaps)
    table = pa.table(
        {"gap": gaps, "point": sigmoid(gaps) if arguments.space == "probability" else gaps, "moved": moved}
    )
    pq.write_table(table.replace_schema_metadata({"sgpo": json.dumps(summary)}), path)


def read_summary(path: Path) -> dict[str, Any]:
    """What a worst-case file says of its optimum: the settings, value (nats), price, moved share and the rest.

    With a radius per source the value and the moved share are of all pairs together, and `by_source` holds the rest.
    """
    return json.loads(pq.read_schema(path).metadata[b"sgpo"])


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
    settings = {
        name: getattr(arguments, name)
        for name in ("space", "tangents", "window_rule", "schedule", "step", "solver", "group_size")
    }
    answers = {name: {**_numbers(worst), "pairs": len(worst.moved)} for name, worst in worst_cases.items()}
    if sources is None and answers:
        ((_, answer),) = answers.items()
        return {**settings, **answer}
    # Without a radius a source is DPO: the worst case is its mean loss.
    losses = np.logaddexp(0.0, -gaps)
    totals = dict.fromkeys(("value", "empirical_value", "moved_share"), 0.0)
    for index, name in enumerate(radii(arguments)):
        members = np.ones(len(gaps), bool) if sources is None else sources == index
        answer = answers.get(name) or dict.fromkeys(totals, float(losses[members].mean() if members.any() else 0.0))
        for key in totals:
            share = answer[key] if name in answers or key != "moved_share" else 0.0
            totals[key] += share * members.sum() / len(gaps)
    return {**settings, **{key: float(value) for key, value in totals.items()}, "by_source": answers}


def _numbers(worst: WorstCase) -> dict[str, Any]:
    numbers = {name: float(getattr(worst, name)) for name in _NUMBERS}
    return {"radius": worst.radius, "window": list(worst.window), **numbers}
