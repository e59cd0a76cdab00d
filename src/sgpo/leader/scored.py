"""DPOTrainer on pairs that carry their own scores, weights and sources."""

import warnings
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from trl import DPOTrainer

from sgpo.errors import InputError
from sgpo.leader.pairs import TAGS, TaggedCollator, check_combinations, number_rows, pop_tags, tag_pairs
from sgpo.leader.scores import REFERENCE_COLUMNS, doubt_reference, has_columns


class ScoredDPOTrainer(DPOTrainer):
    """Hands rows, weights and sources from the dataset to the batch, and uses stored reference log-probabilities.

    Stored log-probabilities take the place of the reference model, in training and evaluation. Where they do not
    belong to this reference and these tokens (`doubt_reference`) a `ref_model` computes them again, and without one
    they are refused.

    Raises:
        ValueError: see `check_combinations`.
        InputError: stored scores that are incomplete, not finite, or not this reference's; see also `tag_pairs`.
    """

    def __init__(self, model=None, ref_model=None, args=None, train_dataset=None, eval_dataset=None, **kwargs):
        if train_dataset is not None:
            check_combinations(train_dataset, args)
        self._has_reference_model = ref_model is not None
        self._has_reference_scores = isinstance(train_dataset, Dataset) and has_columns(
            train_dataset, REFERENCE_COLUMNS, "train_dataset"
        )
        self._doubts_scores = False
        if self._has_reference_scores:
            args.precompute_ref_log_probs = True
            self._check_evaluation_scores(eval_dataset)
        had_adapter = not isinstance(model, str) and is_peft_model(model) and "ref" in model.peft_config
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.data_collator = TaggedCollator(self.data_collator)
        if self._has_reference_scores and is_peft_model(self.model) and not had_adapter:
            self._drop_reference_adapter()

    def _drop_reference_adapter(self) -> None:
        """Removes the copy of a PeftModel's adapter that TRL keeps as the reference and saves beside the policy.

        In a second round that copy would be the first round's policy, whatever the stored scores refer to.
        """
        if "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")

    def _check_evaluation_scores(self, eval_dataset: Any) -> None:
        if eval_dataset is None or self._has_reference_model:
            return
        datasets = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
        for dataset in datasets:
            if not has_columns(dataset, REFERENCE_COLUMNS, "eval_dataset"):
                raise InputError(
                    "train_dataset stores reference log-probabilities and eval_dataset does not; allowed: the columns "
                    f"{' and '.join(REFERENCE_COLUMNS)} in both, or a ref_model to compute the missing ones."
                )

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        dataset = super()._prepare_dataset(number_rows(dataset), processing_class, args, dataset_name)
        return tag_pairs(dataset, args, dataset_name)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns += [column for column in TAGS if column not in self._signature_columns]

    def compute_ref_log_probs(self, model, inputs):
        """Reference log-probabilities of a padded batch, as TRL computes them; the tags stay out of the model."""
        return super().compute_ref_log_probs(model, pop_tags(inputs)[0])

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if not has_columns(dataset, REFERENCE_COLUMNS, f"{name} dataset"):
            if self._has_reference_scores and not self._has_reference_model:
                raise InputError(
                    f"{name} dataset stores no reference log-probabilities, and there is no ref_model; allowed: the "
                    f"columns {' and '.join(REFERENCE_COLUMNS)}, or a ref_model to compute them."
                )
            return super()._precompute_ref_logps(dataset, name, batch_size)
        doubt = doubt_reference(dataset, self.args)
        if doubt is None:
            return dataset
        message = f"the stored reference log-probabilities of the {name} dataset are not used: {doubt}"
        if not self._has_reference_model:
            raise InputError(f"{message}; allowed: scores of this reference on these tokens, or a ref_model.")
        warnings.warn(f"{message}. They are computed again with ref_model.", stacklevel=2)
        if name == "train":
            self._doubts_scores = True
        return super()._precompute_ref_logps(dataset.remove_columns(list(REFERENCE_COLUMNS)), name, batch_size)
