"""A policy's implicit reward on preference pairs."""

from typing import get_args

import numpy as np
from datasets import Dataset

from sgpo.choices import PairSource
from sgpo.errors import InputError
from sgpo.policy.score import PairScores
from sgpo.preferences.annotate import implicit_rewards

SIDES = ("chosen", "rejected")


def implicit_gaps(policy: PairScores, reference: PairScores, beta: float) -> np.ndarray:
    """(N,) chosen minus rejected implicit rewards, in nats.

    Raises:
        InputError: beta is not > 0.
    """
    if not beta > 0:
        raise InputError(f"beta is {beta}; allowed: a number > 0.")
    chosen, rejected = (implicit_rewards(getattr(policy, side), getattr(reference, side), beta) for side in SIDES)
    return chosen - rejected


def self_annotated(pairs: Dataset) -> Dataset | None:
    """The pairs with the source "self", or all pairs if they do not come from a round; None if there are none."""
    sources = pairs["source"][:] if "source" in pairs.column_names else [None]
    if set(sources) <= set(get_args(PairSource)):
        pairs = pairs.select([row for row, source in enumerate(sources) if source == "self"])
    return pairs if len(pairs) else None


def pair_sources(pairs: Dataset, column: str | None, name: str) -> list[str] | None:
    """The source of each pair.

    Args:
        pairs: N pairs.
        column: the column that names it; None uses "source" if there is such a column of texts.
        name: of the dataset, in messages.

    Returns: (N,) texts, or None if no sources are known.

    Raises:
        InputError: there is no such column, or it does not hold texts.
    """
    if column is None and "source" not in pairs.column_names:
        return None
    wanted = column or "source"
    if wanted not in pairs.column_names:
        raise InputError(f"{name} has the columns {', '.join(pairs.column_names)}; allowed: one named {wanted!r}.")
    values = pairs[wanted][:]
    if all(isinstance(value, str) for value in values):
        return values
    if column is None:
        return None
    row = next(row for row, value in enumerate(values) if not isinstance(value, str))
    raise InputError(f"{name} row {row}: {column!r} is {values[row]!r}; allowed: a text.")
