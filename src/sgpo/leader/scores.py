"""Log-probabilities that a dataset stores: whether they are complete, and which reference they come from."""

import warnings
from typing import Any

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.leader.pairs import read_numbers
from sgpo.policy.fingerprints import fingerprint_tokens

POLICY_COLUMNS = ("chosen_logps", "rejected_logps")
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
FINGERPRINT_COLUMN = "ref_fingerprint"


def has_columns(dataset: Dataset, columns: tuple[str, str], name: str) -> bool:
    """Whether a dataset holds a pair of score columns; InputError for one alone, or a score that is not finite."""
    present = [column for column in columns if column in (dataset.column_names or ())]
    if len(present) == 1:
        (missing,) = set(columns) - set(present)
        raise InputError(f"{name} has the column {present[0]!r} without {missing!r}; allowed: both or neither.")
    for column in present:
        read_numbers(dataset, column, name, "a finite number (nats)")
    return bool(present)


def stored_gaps(dataset: Dataset, beta: float) -> np.ndarray:
    """Gaps from the stored scores of a dataset, (N,) float64 in nats."""
    columns = (np.asarray(dataset[column][:], dtype=np.float64) for column in POLICY_COLUMNS + REFERENCE_COLUMNS)
    chosen, rejected, ref_chosen, ref_rejected = columns
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def doubt_reference(dataset: Dataset, args: Any) -> str | None:
    """Why the stored reference log-probabilities of a dataset, with TRL's token ids, cannot be used; None if they can.
    Without `ref_fingerprint` they are, unless `reference_fingerprint` asks for proof or `ld_alpha` changes the sums."""
    if FINGERPRINT_COLUMN not in dataset.column_names:
        if args.reference_fingerprint is not None:
            return f"there is no column {FINGERPRINT_COLUMN!r} to compare with {args.reference_fingerprint!r}"
        if args.ld_alpha is not None and args.ld_alpha != 1:
            return f"no column says that they were summed with ld_alpha={args.ld_alpha}"
        return None
    ids = ("prompt_ids", "chosen_ids", "rejected_ids")
    wanted = args.reference_fingerprint
    for row, pair in enumerate(dataset.select_columns([FINGERPRINT_COLUMN, *ids])):
        scorer, _, scored = str(pair[FINGERPRINT_COLUMN]).partition(":")
        wanted = wanted or scorer
        if scorer != wanted:
            return f"row {row} was scored by the reference {scorer!r}, not {wanted!r}"
        if scored != fingerprint_tokens(*(pair[column] for column in ids), args.max_length, args.ld_alpha):
            return f"row {row} was scored on other tokens (tokenizer, template, date, max_length or ld_alpha differ)"
    return None


class StoredScores:
    """Whether the training set stores the reference's log-probabilities, and whether they must be `doubted`."""

    def __init__(self, train_dataset: Any, args: Any, *, has_model: bool) -> None:
        """If the dataset stores scores, TRL reads them from the batch; `has_model`: a reference model was given."""
        self.has_model, self.doubted = has_model, False
        self.stored = isinstance(train_dataset, Dataset) and has_columns(
            train_dataset, REFERENCE_COLUMNS, "train_dataset"
        )
        args.precompute_ref_log_probs = args.precompute_ref_log_probs or self.stored

    def usable(self, dataset: Dataset, args: Any, name: str) -> bool:
        """Whether a prepared dataset stores reference log-probabilities that can be used; warns if they must not be.
        InputError if there are none, or none that can be used, and no reference model to compute them."""
        if not has_columns(dataset, REFERENCE_COLUMNS, f"{name} dataset"):
            if self.stored and not self.has_model:
                raise InputError(
                    f"{name} dataset stores no reference log-probabilities, and there is no ref_model; allowed: the "
                    f"columns {' and '.join(REFERENCE_COLUMNS)}, or a ref_model to compute them."
                )
            return False
        doubt = doubt_reference(dataset, args)
        if doubt is None:
            return True
        message = f"the stored reference log-probabilities of the {name} dataset are not used: {doubt}"
        if not self.has_model:
            raise InputError(f"{message}; allowed: scores of this reference on these tokens, or a ref_model.")
        warnings.warn(f"{message}. They are computed again with ref_model.", stacklevel=3)
        self.doubted = self.doubted or name == "train"
        return False
