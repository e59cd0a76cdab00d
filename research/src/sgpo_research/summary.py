"""Means with 95% intervals over seeds, and differences paired by seed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from sgpo.errors import InputError

Row = dict[str, Any]


class Mean(NamedTuple):
    """A mean over seeds with its 95% interval (Student's t), which is nan for one seed."""

    mean: float
    low: float
    high: float
    seeds: int


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of (S,) values, one per seed.

    Raises:
        InputError: there is no value.
    """
    if len(values) == 0:
        raise InputError("no values to take the mean of; allowed: at least one.")
    values = np.asarray(values, dtype=np.float64)
    mean, count = float(values.mean()), len(values)
    if count == 1:
        return Mean(mean, float("nan"), float("nan"), 1)
    half = student.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return Mean(mean, mean - float(half), mean + float(half), count)


def summarise(rows: Iterable[Row], *, by: Sequence[str], measure: str) -> dict[tuple, Mean]:
    """The mean of a measure over seeds for each combination of the keys `by`, in the order they appear."""
    groups: dict[tuple, list[float]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in by)].append(row[measure])
    return {key: mean_of(values) for key, values in groups.items()}


def paired_difference(rows: Iterable[Row], *, key: str, first: Any, second: Any, measure: str) -> Mean:
    """The mean over seeds of the difference of a measure between rows whose `key` is `first` and `second`.

    Raises:
        InputError: a seed has only one of the two, or one of them twice.
    """
    values: dict[Any, dict[Any, float]] = {first: {}, second: {}}
    for row in rows:
        if row[key] in values:
            if row["seed"] in values[row[key]]:
                raise InputError(f"seed {row['seed']} has {key} {row[key]!r} twice; allowed: once.")
            values[row[key]][row["seed"]] = row[measure]
    if values[first].keys() != values[second].keys():
        raise InputError(
            f"{key} {first!r} has the seeds {sorted(values[first])} and {second!r} {sorted(values[second])}; allowed: "
            "the same."
        )
    return mean_of([values[first][seed] - values[second][seed] for seed in values[first]])
