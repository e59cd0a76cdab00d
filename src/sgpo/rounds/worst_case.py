"""The follower's answer to the pairs of a round as a file, which the leader starts from and the report reads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import ALL, Follower, radii
from sgpo.leader.pairs import Pairs, number_rows, tag_pairs
from sgpo.leader.scores import stored_gaps
from sgpo.robust import WorstCase, make_link
from sgpo.store.files import reading_back
from sgpo.store.records import GapTable

_SETTINGS = ("space", "tangents", "window_rule", "schedule", "step", "solver", "group_size")
_NUMBERS = ("value", "empirical_value", "price", "moved_share", "marginal")
_TOTALS = ("value", "empirical_value", "moved_share")


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
