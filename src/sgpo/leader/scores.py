"""Log-probabilities that a dataset stores: whether they are complete, and which reference they come from."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.policy.fingerprints import fingerprint_tokens

POLICY_COLUMNS = ("chosen_logps", "rejected_logps")
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
FINGERPRINT_COLUMN = "ref_fingerprint"


def has_columns(dataset: Dataset, columns: tuple[str, str], name: str) -> bool:
    """Whether a dataset holds a pair of score columns.

    Raises:
        InputError: it holds one without the other, or a score that is not finite.
    """
    present = [column for column in columns if column in (dataset.column_names or ())]
    if len(present) == 1:
        missing = next(column for column in columns if column not in present)
        raise InputError(f"{name} has the column {present[0]!r} without {missing!r}; allowed: both or neither.")
    for column in present:
        values = np.asarray(dataset[column][:], dtype=np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(f"{name} row {row}: {column} is {values[row]}; allowed: a finite number (nats).")
    return bool(present)


def stored_gaps(dataset: Dataset, beta: float) -> np.ndarray:
    """Gaps from the stored scores of a dataset, (N,) float64 in nats."""
    chosen, rejected = (np.asarray(dataset[column][:], dtype=np.float64) for column in POLICY_COLUMNS)
    ref_chosen, ref_rejected = (np.asarray(dataset[column][:], dtype=np.float64) for column in REFERENCE_COLUMNS)
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def doubt_reference(dataset: Dataset, args: Any) -> str | None:
    """Why the stored reference log-probabilities of a prepared dataset cannot be used; None if they can.

    The column `ref_fingerprint` names the reference and the tokens that the scores belong to. Without it the scores are
    used as they are, unless `reference_fingerprint` asks for proof or `ld_alpha` changes the sums.

    Args:
        dataset: as TRL has prepared it, with token ids.
        args: the trainer's SGPOConfig.
    """
    if FINGERPRINT_COLUMN not in dataset.column_names:
        if args.reference_fingerprint is not None:
            return f"there is no column {FINGERPRINT_COLUMN!r} to compare with {args.reference_fingerprint!r}"
        if args.ld_alpha is not None and args.ld_alpha != 1:
            return f"no column says that they were summed with ld_alpha={args.ld_alpha}"
        return None
    stored = dataset[FINGERPRINT_COLUMN][:]
    wanted = args.reference_fingerprint or str(stored[0]).partition(":")[0]
    for row, (fingerprint, tokens) in enumerate(zip(stored, _row_tokens(dataset, args), strict=True)):
        scorer, _, scored = str(fingerprint).partition(":")
        if scorer != wanted:
            return f"row {row} was scored by the reference {scorer!r}, not {wanted!r}"
        if scored != tokens:
            return f"row {row} was scored on other tokens (tokenizer, chat template, max_length or ld_alpha differ)"
    return None


def _row_tokens(dataset: Dataset, args: Any) -> Iterator[str]:
    for row in dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]):
        yield fingerprint_tokens(
            row["prompt_ids"], row["chosen_ids"], row["rejected_ids"], args.max_length, args.ld_alpha
        )


class StoredScores:
    """Which of the scores that a trainer's datasets store are used.

    Attributes:
        stored: whether the training set stores reference log-probabilities.
        has_model: whether the trainer was given a reference model.
        doubted: whether those of the training set turned out to be of another reference or of other tokens.
    """

    def __init__(self, train_dataset: Any, eval_dataset: Any, args: Any, *, has_model: bool) -> None:
        """Looks for scores; where there are any, TRL is told to read the reference's from the batch.

        Raises:
            InputError: scores that are incomplete or not finite, or missing from an evaluation set.
        """
        self.has_model, self.doubted = has_model, False
        self.stored = isinstance(train_dataset, Dataset) and has_columns(
            train_dataset, REFERENCE_COLUMNS, "train_dataset"
        )
        if not self.stored:
            return
        args.precompute_ref_log_probs = True
        if eval_dataset is None or has_model:
            return
        for dataset in eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]:
            if not has_columns(dataset, REFERENCE_COLUMNS, "eval_dataset"):
                raise InputError(
                    "train_dataset stores reference log-probabilities and eval_dataset does not; allowed: the columns "
                    f"{' and '.join(REFERENCE_COLUMNS)} in both, or a ref_model to compute the missing ones."
                )

    def usable(self, dataset: Dataset, args: Any, name: str) -> bool:
        """Whether a prepared dataset stores reference log-probabilities that can be used; warns if they must not be.

        Raises:
            InputError: they cannot be used, or are missing, and there is no reference model to compute them.
        """
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
