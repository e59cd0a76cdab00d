"""Tags of a pair on its way from the dataset to the loss: its row, its weight and its source.

They are columns of the dataset and keys of the batch, because TRL drops rows whose prompt fills `max_length`, and an
array outside the dataset would then belong to other pairs.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError, naming_rows, shorten
from sgpo.policy.tokens import tokenize_pairs
from sgpo.preferences.layout import to_pairs

ROW, WEIGHT, SOURCE = "sgpo_row", "sgpo_weight", "sgpo_source"
TAGS = {ROW: torch.int64, WEIGHT: torch.float32, SOURCE: torch.int64}

Examples = list[dict[str, Any]]


class PairTags(NamedTuple):
    """(B,) row of each pair in the dataset before TRL drops any, weight (mean 1), index of its source; or None."""

    row: Tensor | None = None
    weight: Tensor | None = None
    source: Tensor | None = None


class Pairs(NamedTuple):
    """The training set: (N,) ascending rows, weights or None, indices of sources or None."""

    rows: np.ndarray
    weights: np.ndarray | None = None
    sources: np.ndarray | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> "Pairs":
        """The tags of a whole dataset."""
        return cls(*(np.asarray(dataset[tag][:]) if tag in dataset.column_names else None for tag in TAGS))


def number_rows(dataset: Any) -> Any:
    """Adds the row numbers, before TRL drops rows; a stream is returned unchanged."""
    if not isinstance(dataset, Dataset):
        return dataset
    # A dataset that comes from another trainer, perhaps shuffled since, has the numbers of another order.
    dataset = dataset.remove_columns([column for column in TAGS if column in dataset.column_names])
    return dataset.add_column(ROW, np.arange(len(dataset)))


def refuse_turns(dataset: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises InputError for the first row whose turns the chat template refuses, after TRL failed, which names none."""
    try:
        pairs = to_pairs(dataset, name)
    except Exception:
        return  # There is another reason: a stream, or columns that TRL refuses too.
    with naming_rows(lambda row: f"{name} row {row}"):
        tokenize_pairs(tokenizer, pairs)


def tag_pairs(dataset: Any, args: Any, name: str) -> Any:
    """Adds checked weights and source indices to a dataset that TRL has prepared; a stream must have neither."""
    if not isinstance(dataset, Dataset):
        if args.source_radius is not None or "weight" in next(iter(dataset), {}):
            raise InputError(
                f"{name} dataset is a {type(dataset).__name__} with weights or source_radius; allowed: a "
                "datasets.Dataset, whose weights have a mean."
            )
        return dataset
    if len(dataset) == 0:
        return dataset
    if "weight" in dataset.column_names:
        check_weighted(args)
        dataset = dataset.add_column(WEIGHT, _normalised_weights(dataset, name))
    if args.source_radius is not None:
        dataset = dataset.add_column(SOURCE, _source_indices(dataset, list(args.source_radius), name))
    return dataset


def check_weighted(args: Any) -> None:
    """Raises InputError for a loss that weights of pairs cannot be applied to."""
    values = {"loss_type": ["sigmoid"], "f_divergence_type": "reverse_kl", "use_weighting": False}
    require(args, values, "a 'weight' column", "a dataset without the column")


def require(args: Any, values: Mapping[str, Any], reason: str, otherwise: str) -> None:
    """Raises InputError for an argument that has another value than `reason` allows, unless one does `otherwise`."""
    for name, allowed in values.items():
        if getattr(args, name) != allowed:
            raise InputError(f"{name} is {getattr(args, name)!r} with {reason}; allowed: {allowed!r}, or {otherwise}.")


def read_numbers(dataset: Dataset, column: str, name: str, allowed: str, *, least: float = -math.inf) -> np.ndarray:
    """(N,) float64 finite numbers >= `least` of a column; InputError, which names the row, for anything else."""
    values, rows = dataset[column][:], dataset[ROW][:] if ROW in dataset.column_names else range(len(dataset))
    for row, value in zip(rows, values, strict=True):
        if not isinstance(value, int | float) or not math.isfinite(value) or value < least:
            raise InputError(f"{name} row {row}: {column} is {shorten(value)}; allowed: {allowed}.")
    return np.asarray(values, dtype=np.float64)


def _normalised_weights(dataset: Dataset, name: str) -> np.ndarray:
    weights = read_numbers(dataset, "weight", f"{name} dataset", "a finite number >= 0", least=0)
    if not weights.any():
        raise InputError(f"{name} dataset: all weights are 0; allowed: at least one above 0.")
    # Mean 1 over the whole dataset, so that the mean over any microbatch is an unbiased estimate of the loss.
    return weights / weights.mean()


def _source_indices(dataset: Dataset, names: list[str], name: str) -> np.ndarray:
    allowed = f"{', '.join(map(repr, names))} (the keys of source_radius)"
    if "source" not in dataset.column_names:
        raise InputError(f"{name} dataset has no column 'source'; allowed: one that holds {allowed}.")
    for row, source in zip(dataset[ROW][:], dataset["source"][:], strict=True):
        if source not in names:
            raise InputError(f"{name} dataset row {row}: source is {source!r}; allowed: {allowed}.")
    return np.array([names.index(source) for source in dataset["source"][:]])


def collate_tagged(base: Callable[[Examples], dict[str, Any]], examples: Examples) -> dict[str, Any]:
    """The batch that TRL's collator makes of examples, and the tags of each pair."""
    tags = {tag: [example[tag] for example in examples] for tag in TAGS if tag in examples[0]}
    return base(examples) | {tag: torch.tensor(values, dtype=TAGS[tag]) for tag, values in tags.items()}


def pop_tags(inputs: dict[str, Any]) -> tuple[dict[str, Any], PairTags]:
    """A batch without its tags, as the model takes it; and the tags."""
    rest = {key: value for key, value in inputs.items() if key not in TAGS}
    return rest, PairTags(*(inputs.get(key) for key in TAGS))
