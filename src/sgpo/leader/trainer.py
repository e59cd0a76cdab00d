"""SGPOTrainer: TRL's DPOTrainer against the worst case."""

import textwrap
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader
from trl import DPOTrainer
from trl.trainer.utils import get_config_model_id

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import POLICY_COLUMNS, REFERENCE_COLUMNS, answer, has_columns, stored_gaps
from sgpo.leader.margins import PairLogps, pair_margins, sum_pair_logps
from sgpo.robust.follower import WorstCase
from sgpo.robust.objective import priced_loss


class _Recorder:
    """Calls a model and keeps what it returned: TRL's loss method does not hand its log-probabilities on."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.log_probs: torch.Tensor | None = None

    def __call__(self, **kwargs: Any) -> Any:
        outputs = self._model(**kwargs)
        if self.log_probs is None:
            self.log_probs = outputs.log_probs
        return outputs


class SGPOTrainer(DPOTrainer):
    r"""Trains a policy against the worst distribution of preference gaps in a Wasserstein ball.

    Takes the place of TRL's `DPOTrainer`, with the same arguments, models and datasets. With `radius=0` it is DPO.

    The follower answers once, on the gaps that the policy has before the first step: from the columns
    `chosen_logps` and `rejected_logps` where the dataset stores them, and as zeros where the reference is the initial
    policy; otherwise one pass over the data measures them. The leader then minimises, at the follower's price of
    radius lambda and lower end a,

        mean_i max(f(u_i), f(a) - lambda * (u_i - a)) + lambda * radius,

    the follower's dual. It equals the robust value at the gaps that the price was solved for, its gradient there is
    the envelope gradient, it bounds the robust value from above at every other gap, and it is a sum over pairs, so
    it does not depend on how a batch is cut (PAPER.md D3).

    Columns `ref_chosen_logps` and `ref_rejected_logps` of the training set are taken as the reference's
    log-probabilities instead of a reference model.

    Beside TRL's metrics it logs `robust/value` (nats), `robust/price` and `robust/moved_share`.

    Source: arXiv:2502.18099, Section 3.3 and Theorem 3.3.

    Raises:
        ValueError: what the robust loss does not combine with, see `SGPOConfig`; a streaming dataset with radius > 0.
        InputError: stored scores that are incomplete or not finite.
    """

    _tag_names = ["trl", "dpo", "sgpo"]  # noqa: RUF012 -- TRL's own class attribute
    _name = "SGPO"
    _paper = {  # noqa: RUF012 -- TRL's own class attribute
        "title": "Stackelberg Self-Annotation: A Robust Approach to Data-Efficient LLM Alignment",
        "id": "2502.18099",
        "citation": textwrap.dedent("""\
            @inproceedings{chu2025stackelberg,
                title     = {{Stackelberg Self-Annotation: A Robust Approach to Data-Efficient LLM Alignment}},
                year      = 2025,
                booktitle = {Advances in Neural Information Processing Systems 38},
                note      = {arXiv:2502.18099},
            }"""),
    }

    def __init__(self, model=None, ref_model=None, args=None, train_dataset=None, eval_dataset=None, **kwargs):
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SGPOConfig(f"{name.split('/')[-1]}-SGPO")
        if not isinstance(args, SGPOConfig):
            raise TypeError(f"args is a {type(args).__name__}; allowed: SGPOConfig, or None for the defaults.")
        if args.radius > 0 and not isinstance(train_dataset, Dataset):
            raise ValueError(
                f"train_dataset is a {type(train_dataset).__name__} with radius {args.radius}; allowed: a "
                "datasets.Dataset, because the follower needs the gaps of every pair, or radius=0."
            )
        self._refers_to_itself = ref_model is None
        if isinstance(train_dataset, Dataset) and has_columns(train_dataset, REFERENCE_COLUMNS, "train_dataset"):
            self._refers_to_itself = False
            args.precompute_ref_log_probs = True
            self._check_evaluation_scores(eval_dataset, ref_model)
        self.worst_case: WorstCase | None = None
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )

    @staticmethod
    def _check_evaluation_scores(eval_dataset: Any, ref_model: Any) -> None:
        if eval_dataset is None or ref_model is not None:
            return
        datasets = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
        for dataset in datasets:
            if not has_columns(dataset, REFERENCE_COLUMNS, "eval_dataset"):
                raise InputError(
                    "train_dataset stores reference log-probabilities and eval_dataset does not; allowed: the columns "
                    f"{' and '.join(REFERENCE_COLUMNS)} in both, or a ref_model to compute the missing ones."
                )

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if has_columns(dataset, REFERENCE_COLUMNS, f"{name} dataset"):
            return dataset
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Solves the follower on the initial gaps, then trains as `DPOTrainer` does."""
        # Before TRL loads a checkpoint: a resumed run must answer to the gaps that the first start saw.
        self._solve_once()
        return super().train(*args, **kwargs)

    def _solve_once(self) -> None:
        if self.args.radius > 0 and self.worst_case is None:
            self.worst_case = answer(self._initial_gaps(), self.args)

    def _initial_gaps(self) -> np.ndarray:
        if has_columns(self.train_dataset, POLICY_COLUMNS, "train_dataset") and has_columns(
            self.train_dataset, REFERENCE_COLUMNS, "train_dataset"
        ):
            return stored_gaps(self.train_dataset, self.beta)
        if self._refers_to_itself:
            return np.zeros(len(self.train_dataset))
        return self._measure_gaps()

    def _measure_gaps(self) -> np.ndarray:
        loader = self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_size=self.args.per_device_train_batch_size,
                collate_fn=self.data_collator,
                shuffle=False,
            )
        )
        gaps = []
        was_training = self.model.training
        self.model.eval()
        for inputs in loader:
            labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
            with torch.no_grad(), self.accelerator.autocast():
                log_probs = self.model(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    use_cache=False,
                    labels=labels,
                    fused_lm_head=True,
                ).log_probs
            margins = self._margins(log_probs, self._with_reference(inputs))
            gaps.append(self.accelerator.gather_for_metrics(margins).cpu())
        self.model.train(was_training)
        return torch.cat(gaps).double().numpy()

    def _with_reference(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if self.precompute_ref_logps:
            return inputs
        chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    def _margins(self, log_probs: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        mask = inputs["completion_mask"][..., 1:]
        policy = sum_pair_logps(log_probs[:, -mask.size(1) :], mask, self.ld_alpha)
        reference = PairLogps(inputs["ref_chosen_logps"], inputs["ref_rejected_logps"])
        return pair_margins(policy, reference, self.beta)

    def _compute_loss(self, model, inputs, return_outputs):
        if self.args.radius == 0:
            return super()._compute_loss(model, inputs, return_outputs)
        self._solve_once()
        inputs = self._with_reference(inputs)
        recorder = _Recorder(model)
        # TRL reads the reference's scores from the batch under this flag; they are in it now, whoever computed them.
        precomputed, self.precompute_ref_logps = self.precompute_ref_logps, True
        try:
            result = super()._compute_loss(recorder, inputs, return_outputs)
        finally:
            self.precompute_ref_logps = precomputed
        correction = self._robust_correction(self._margins(recorder.log_probs, inputs))
        if return_outputs:
            return result[0] + correction, result[1]
        return result + correction

    def _robust_correction(self, margins: torch.Tensor) -> torch.Tensor:
        """What turns TRL's sigmoid loss into the robust one, and leaves its other parts alone."""
        worst = self.worst_case
        priced = priced_loss(margins, price=worst.price, lower=worst.window[0], link=worst.link)
        robust = priced.loss.mean() + worst.price * worst.radius
        self._log_robust(robust.detach(), priced.moved, worst)
        weight = self.loss_weights[self.loss_types.index("sigmoid")]
        return weight * (robust + logsigmoid(margins).mean())

    def _log_robust(self, robust: torch.Tensor, moved: torch.Tensor, worst: WorstCase) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        local = torch.stack([robust, moved.float().mean()]).unsqueeze(0)
        value, moved_share = self.accelerator.gather_for_metrics(local).mean(dim=0).tolist()
        metrics["robust/value"].append(value)
        metrics["robust/price"].append(float(worst.price))
        metrics["robust/moved_share"].append(moved_share)
