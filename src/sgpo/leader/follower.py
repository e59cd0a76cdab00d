"""The follower's answer to a dataset of pairs, as the leader keeps it through a round."""

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.robust.follower import WorstCase, worst_case

POLICY_COLUMNS = ("chosen_logps", "rejected_logps")
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


def has_columns(dataset: Dataset, columns: tuple[str, str], name: str) -> bool:
    """Whether a dataset holds a pair of score columns; one without the other is an error."""
    present = [column for column in columns if column in (dataset.column_names or ())]
    if len(present) == 1:
        missing = next(column for column in columns if column not in present)
        raise InputError(f"{name} has the column {present[0]!r} without {missing!r}; allowed: both or neither.")
    if present:
        for column in columns:
            values = np.asarray(dataset[column], dtype=np.float64)
            if not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values))[0])
                raise InputError(f"{name} row {row}: {column} is {values[row]}; allowed: a finite number (nats).")
    return bool(present)


def stored_gaps(dataset: Dataset, beta: float) -> np.ndarray:
    """Gaps from the stored scores of a dataset, (N,) float64 in nats."""
    chosen, rejected = (np.asarray(dataset[column], dtype=np.float64) for column in POLICY_COLUMNS)
    ref_chosen, ref_rejected = (np.asarray(dataset[column], dtype=np.float64) for column in REFERENCE_COLUMNS)
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def answer(gaps: np.ndarray, args: SGPOConfig) -> WorstCase:
    """The worst case of `gaps` under the leader's arguments."""
    return worst_case(
        gaps,
        args.radius,
        space=args.space,
        window=tuple(args.window) if args.window else None,
        tangents=args.tangents or None,
    )
