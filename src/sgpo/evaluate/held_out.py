"""Pairs on which a policy's implicit reward is evaluated: where they come from, and which are its own."""

from typing import get_args

from datasets import Dataset

from sgpo.choices import PairSource
from sgpo.errors import InputError
from sgpo.store.files import name_row


def self_annotated(pairs: Dataset) -> Dataset | None:
    """The pairs with the source "self", or all pairs if they do not come from a round; None if there are none."""
    sources = pairs["source"][:] if "source" in pairs.column_names else [None]
    if set(sources) <= set(get_args(PairSource)):
        pairs = pairs.select([row for row, source in enumerate(sources) if source == "self"])
    return pairs if len(pairs) else None


def pair_sources(pairs: Dataset, column: str | None, name: str) -> list[str] | None:
    """The source of each pair, from a column of texts. Without a column, the one named "source" is used if it holds
    texts; otherwise no sources are known."""
    if column is None and "source" not in pairs.column_names:
        return None
    wanted = column or "source"
    if wanted not in pairs.column_names:
        raise InputError(f"{name} has the columns {', '.join(pairs.column_names)}; allowed: one named {wanted!r}.")
    values = pairs[wanted][:]
    others = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if others and column is not None:
        raise InputError(f"{name_row(name, others[0])}: {column!r} is {values[others[0]]!r}; allowed: a text.")
    return None if others else values
