"""Mixing preference datasets by weight, each row at most once."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from datasets import Dataset, Value, concatenate_datasets

from sgpo.config import SourceConfig, SplitConfig
from sgpo.errors import InputError, check_whole
from sgpo.preferences.layout import PAIR_FEATURES, clean_pairs, describe_counts, distinct_rows
from sgpo.preferences.source import load_rows

DUPLICATE = "duplicate prompt"


@dataclass(frozen=True)
class SourceUse:
    """What was used of one source: `rows` read, `dropped` by reason, and `taken` of the `usable` rest."""

    path: str
    split: str | None
    weight: float
    rows: int
    dropped: dict[str, int]
    usable: int
    taken: int


@dataclass(frozen=True)
class Mixture:
    """A mixture of preference datasets: one pair per prompt, source by source and in the order of each, with the column
    `origin` (the source, unless it has one); the use of each source; and columns left out because their types
    differ."""

    pairs: Dataset
    uses: list[SourceUse]
    left_out: list[str]

    def describe(self) -> dict[str, Any]:
        """The mixture without its pairs, as plain values."""
        return {"sources": [asdict(use) for use in self.uses], "left_out_columns": self.left_out}


def mix_pairs(
    sources: Sequence[SourceConfig], *, least: int = 1, seed: int = 0, max_prompt_chars: int | None = None
) -> Mixture:
    """Mixes preference datasets: the largest mixture that their weights allow if each row is used at most once.

    Invalid rows are dropped and counted (`clean_pairs`), and so are further pairs of a prompt, also if the first is in
    an earlier source (prompts are compared by `prompt_key`). A single source is used whole.

    Args:
        sources: at least one.
        least: fewest pairs required.
        seed: random seed of the selection within each source, >= 0.
        max_prompt_chars: prompts with more characters are dropped and counted.

    Raises:
        InputError: a source cannot be read, or has too few pairs for its share of `least`; it is named, with the
            counts.
    """
    if not sources:
        raise InputError("there are no sources; allowed: at least one.")
    check_whole("seed", seed, 0)
    for (path, _), count in Counter((source.path, source.split) for source in sources).items():
        if count > 1:
            raise InputError(f"source {path!r} is named {count} times; allowed: once.")
    seen: set[bytes] = set()
    parts, found = [], []
    for source in sources:
        dataset = load_rows(source.path, split=source.split)
        pairs, dropped = clean_pairs(dataset, source.path, max_prompt_chars=max_prompt_chars)
        first = distinct_rows(pairs["prompt"], seen)
        if len(first) < len(pairs):
            dropped[DUPLICATE] = len(pairs) - len(first)
            pairs = pairs.select(first)
        parts.append(_with_origin(pairs, source.path))
        found.append((source.path, source.split, source.weight, len(dataset), dropped, len(pairs)))
    taken = _shares([source.weight for source in sources], list(map(len, parts)))
    uses = [SourceUse(*numbers, count) for numbers, count in zip(found, taken, strict=True)]
    if sum(taken) < least:
        raise InputError(_shortage(uses, least))
    parts, left_out = _common_columns(parts)
    for index, (part, count) in enumerate(zip(parts, taken, strict=True)):
        if count < len(part):
            order = np.random.default_rng([seed, index]).permutation(len(part))
            parts[index] = part.select(np.sort(order[:count]))
    return Mixture(concatenate_datasets([part for part in parts if len(part)]), uses, left_out)


def mix_sources(settings: SplitConfig, *, seed: int) -> Mixture:
    """`mix_pairs` of the sources of a split, with enough pairs for it."""
    least = settings.seeds + sum(settings.pools) + settings.heldout
    return mix_pairs(settings.sources, least=least, seed=seed, max_prompt_chars=settings.max_prompt_chars)


def _shares(weights: list[float], usable: list[int]) -> list[int]:
    """Rows of each source: as many as one source allows, apportioned to the weights by largest remainder."""
    exact = [Fraction(weight) for weight in weights]
    size = math.floor(min(count * sum(exact) / weight for count, weight in zip(usable, exact, strict=True)))
    quotas = [size * weight / sum(exact) for weight in exact]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: (counts[index] - quotas[index], index))
    for index in by_remainder[: size - sum(counts)]:
        counts[index] += 1
    return counts


def _shortage(uses: list[SourceUse], least: int) -> str:
    """The message for the source that runs out first."""
    total = sum(Fraction(use.weight) for use in uses)
    use = min(uses, key=lambda use: use.usable / Fraction(use.weight))
    part = f"{least:,} pairs"
    if len(uses) > 1:
        share = math.ceil(least * Fraction(use.weight) / total)
        part = f"{share:,} pairs, its share of {least:,} (weight {use.weight:g} of {float(total):g})"
    return (
        f"source {use.path!r} runs out: {part}, are needed, and it has {use.usable:,} with distinct prompts "
        f"({use.rows:,} rows; dropped: {describe_counts(use.dropped)}); allowed: smaller sets, or other weights."
    )


def _with_origin(pairs: Dataset, path: str) -> Dataset:
    if "origin" not in pairs.column_names:
        return pairs.add_column("origin", [path] * len(pairs))
    kind = getattr(pairs.features["origin"], "dtype", None)
    if kind not in ("string", "large_string"):
        raise InputError(
            f"{path} has a column 'origin' of type {kind}; allowed: strings that name the source of each row."
        )
    return pairs if kind == "string" else pairs.cast_column("origin", Value("string"))


def _common_columns(datasets: list[Dataset]) -> tuple[list[Dataset], list[str]]:
    """The datasets without the columns whose types differ, and the names of those columns."""
    first = {name: feature for dataset in reversed(datasets) for name, feature in dataset.features.items()}
    differ = {name for dataset in datasets for name, feature in dataset.features.items() if feature != first[name]}
    order = [*PAIR_FEATURES, "origin"]
    kept = []
    for dataset in datasets:
        others = [name for name in dataset.column_names if name not in order and name not in differ]
        kept.append(dataset.select_columns([*order, *others]))
    return kept, sorted(differ)
