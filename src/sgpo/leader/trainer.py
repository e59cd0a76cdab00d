"""SGPOTrainer: TRL's DPOTrainer against the worst case."""

import os
import textwrap
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import get_config_model_id

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.guards import Guards, last_checkpoint, refuse_bad_gradient, refuse_bad_loss
from sgpo.leader.pair_loss import PairBatch, PairLoss, PairLosses, Setup, pair_margins, sum_pair_logps, weighted_mean
from sgpo.leader.pair_losses import check_dataset, find_loss
from sgpo.leader.pairs import TAGS, Pairs, PairTags, collate_tagged, number_rows, pop_tags, refuse_turns, tag_pairs
from sgpo.leader.robust_loss import RobustLoss
from sgpo.leader.scores import POLICY_COLUMNS, REFERENCE_COLUMNS, StoredScores, has_columns, stored_gaps
from sgpo.robust.solution import WorstCase


class SGPOTrainer(DPOTrainer):
    r"""Trains a policy against the worst distribution of preference gaps in a Wasserstein ball.

    Replaces TRL's `DPOTrainer`, with the same arguments, models and datasets. With `radius=0` it is DPO, or another
    loss of `sgpo.leader.pair_losses` that the arguments ask for.

    The follower answers on schedule (`schedule`), first to the gaps of the policy before the first step: from the
    columns `chosen_logps` and `rejected_logps` where the dataset stores them, 0 where the reference is the initial
    policy, and otherwise measured by one pass over the data. With the price of radius lambda and the lower end a of the
    window, the step `"envelope"` then minimises the follower's dual,

        mean_i w_i * (max(f(u_i), f(a) - lambda * (u_i - a)) + lambda * radius).

    It bounds the robust value from above and equals it, gradient included, at the gaps that the price was solved for.
    It is a sum over pairs, so it does not depend on how a batch is split (PAPER.md D3). For the other steps see
    `sgpo.robust.losses`.

    Further columns of the training and evaluation sets:
        ref_chosen_logps, ref_rejected_logps: the reference's log-probabilities, used instead of a reference model;
            `ref_fingerprint` names the reference they come from (`sgpo.leader.scores`). If they belong to another
            reference or other tokens, a `ref_model` computes them again.
        weight: w_i >= 0, scaled to mean 1 over the dataset; also with `radius=0`, where this is weighted DPO.
        source: with `source_radius`, the ball that a pair belongs to.

    Args:
        model to peft_config: as `trl.DPOTrainer`, with an `SGPOConfig` as args.
        worst_cases: the follower's first answer by source (or under "all"), if it was solved before.

    Attributes:
        pair_loss: the loss that replaces the sigmoid loss, with its state.

    Raises:
        InputError: a dataset or an argument that the loss does not combine with; scores, weights, sources or worst
            cases that are incomplete or out of range; in training, a loss or gradient that is not finite (unless
            `guards=False`).

    Source: arXiv:2502.18099, Section 3.3 and Theorem 3.3.
    """

    _tag_names = ["trl", "dpo", "sgpo"]  # noqa: RUF012 -- TRL's own class attribute
    _name = "SGPO"
    _paper = {  # noqa: RUF012 -- TRL's own class attribute
        "title": "Stackelberg Self-Annotation: A Robust Approach to Data-Efficient LLM Alignment",
        "id": "2502.18099",
        "citation": textwrap.dedent("""\
            @inproceedings{chu2025stackelberg,
                title     = {{Stackelberg Self-Annotation: A Robust Approach to Data-Efficient LLM Alignment}},
                author    = {Xu Chu and Zhixin Zhang and Tianyu Jia and Yujie Jin},
                year      = 2025,
                booktitle = {Advances in Neural Information Processing Systems 38},
                note      = {arXiv:2502.18099},
            }"""),
    }

    def __init__(
        self, model, ref_model=None, args=None, data_collator=None, train_dataset=None, eval_dataset=None,
        processing_class=None, compute_metrics=None, callbacks=None, optimizers=(None, None), quantization_config=None,
        peft_config=None, *, worst_cases=None,
    ):  # fmt: skip
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SGPOConfig(f"{name.split('/')[-1]}-SGPO")
        if not isinstance(args, SGPOConfig):
            raise TypeError(f"args is a {type(args).__name__}; allowed: SGPOConfig, or None for the defaults.")
        if train_dataset is not None:
            check_dataset(train_dataset, args)
        self._scores = StoredScores(train_dataset, args, has_model=ref_model is not None)
        had_adapter = not isinstance(model, str) and is_peft_model(model) and "ref" in model.peft_config
        super().__init__(
            model, ref_model, args, data_collator, train_dataset, eval_dataset, processing_class, compute_metrics,
            callbacks, optimizers, quantization_config, peft_config,
        )  # fmt: skip
        self.data_collator = partial(collate_tagged, self.data_collator)
        if self._scores.stored and is_peft_model(self.model) and "ref" in self.model.peft_config and not had_adapter:
            # TRL keeps a copy of a PeftModel's adapter as the reference and saves it beside the policy. In a second
            # round that would be the first round's policy, whatever the stored scores refer to.
            self.model.delete_adapter("ref")
        self.pair_loss = self._make_loss(worst_cases)
        self.add_callback(self.pair_loss)
        self._step_rows: list[Tensor] = []
        if args.guards:
            self.add_callback(Guards(lambda: self.worst_cases))

    def _make_loss(self, worst_cases: Mapping[str, WorstCase] | None) -> PairLoss:
        loss = find_loss(self.args)
        if worst_cases and loss is not RobustLoss:
            raise InputError("worst_cases is given with radius 0; allowed: None, because no follower answers.")
        if loss is PairLoss:
            return PairLoss()
        policy = self._core(self.model)
        reference = policy if self.ref_model is None else self._core(self.ref_model)
        if self.precompute_ref_logps and not self._scores.has_model:
            reference = None
        pairs, gaps, sharded = Pairs.of(self.train_dataset), self._initial_gaps, self._is_sharded
        return loss(Setup(self.args, self.accelerator, pairs, gaps, policy, reference, sharded, worst_cases))

    @property
    def _is_sharded(self) -> bool:
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _core(self, model: nn.Module) -> nn.Module:
        """The causal language model itself, with the backbone and the head that TRL scores with."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if is_peft_model(model) else model

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        rows = number_rows(dataset)
        try:
            dataset = super()._prepare_dataset(rows, processing_class, args, dataset_name)
        except Exception:
            refuse_turns(rows, getattr(processing_class, "tokenizer", processing_class), f"{dataset_name} dataset")
            raise
        return tag_pairs(dataset, args, dataset_name)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns += [column for column in TAGS if column not in self._signature_columns]

    def compute_ref_log_probs(self, model, inputs):
        """Reference log-probabilities of a padded batch, as TRL computes them; the model does not see the tags."""
        return super().compute_ref_log_probs(model, pop_tags(inputs)[0])

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self._scores.usable(dataset, self.args, name):
            return dataset
        refused = [column for column in REFERENCE_COLUMNS if column in dataset.column_names]
        return super()._precompute_ref_logps(dataset.remove_columns(refused) if refused else dataset, name, batch_size)

    @property
    def worst_cases(self) -> dict[str, WorstCase]:
        """The follower's latest answer by source (or under "all"); empty before the first one."""
        return dict(self.pair_loss.worst_cases)

    def train(self, resume_from_checkpoint=None, *args: Any, **kwargs: Any) -> Any:
        """Starts or resumes the state of the loss, such as the follower's first answer; then trains like DPOTrainer."""
        is_latest = resume_from_checkpoint is True
        checkpoint = last_checkpoint(self.args.output_dir) if is_latest else resume_from_checkpoint
        # Before TRL loads the checkpoint's weights.
        if checkpoint:
            self.pair_loss.resume(checkpoint)
        self.pair_loss.start()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model, trial):
        folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        self.pair_loss.save(folder, self.accelerator)
        super()._save_checkpoint(model, trial)

    def _initial_gaps(self) -> np.ndarray:
        """(N,) gaps of the training set under the policy before training, in nats."""
        if self._scores.stored and not self._scores.doubted:
            if has_columns(self.train_dataset, POLICY_COLUMNS, "train_dataset"):
                return stored_gaps(self.train_dataset, self.beta)
        elif not self._scores.has_model:
            return np.zeros(len(self.train_dataset))
        if self._is_sharded:
            raise InputError(
                "train_dataset stores no policy log-probabilities, and a model that is about to be sharded cannot "
                f"compute them; allowed: the columns {' and '.join(POLICY_COLUMNS + REFERENCE_COLUMNS)}."
            )
        size = self.args.per_device_train_batch_size
        loader = DataLoader(self.train_dataset, size, collate_fn=self.data_collator, shuffle=False)
        gaps, was_training = [], self.model.training
        self.model.eval()
        for inputs in self.accelerator.prepare(loader):
            margins = self._look_at(self.model, self._with_reference(inputs))
            gaps.append(self.accelerator.gather_for_metrics(margins).cpu())
        self.model.train(was_training)
        return torch.cat(gaps).double().numpy()

    def _with_reference(self, inputs: dict[str, Any], *, again: bool = False) -> dict[str, Any]:
        """A batch with the reference's log-probabilities; stored ones stay, even where the reference is run again."""
        if REFERENCE_COLUMNS[0] in inputs and not again:
            return inputs
        scores = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return {**dict(zip(REFERENCE_COLUMNS, scores, strict=True)), **inputs}

    def _margins(self, log_probs: Tensor, inputs: dict[str, Any]) -> Tensor:
        """(B,) gaps in nats, from (2B, L) log-probabilities of tokens."""
        policy = sum_pair_logps(log_probs, inputs["completion_mask"][..., 1:], self.ld_alpha)
        return pair_margins(policy, [inputs[column] for column in REFERENCE_COLUMNS], self.beta)

    def _look_at(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """(B,) margins of a batch that holds the reference's scores, without a graph."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        tokens = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad(), self.accelerator.autocast():
            log_probs = model(**tokens, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        return self._margins(log_probs, inputs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The microbatches of a step, as Trainer collects them; before a loss that looks ahead, with their margins."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.pair_loss.looks_ahead and samples:
            samples = [self._with_reference(self._prepare_inputs(inputs)) for inputs in samples]
            self.model_wrapped.eval()
            with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                margins = torch.cat([self._look_at(self.model_wrapped, inputs) for inputs in samples])
            self.model_wrapped.train()
            self.pair_loss.begin_step(margins, len(samples) * self.accelerator.num_processes)
        return samples, items

    def _compute_loss(self, model, inputs, return_outputs):
        inputs, tags = pop_tags(inputs)
        if type(self.pair_loss) is PairLoss and tags.weight is None:
            result = super()._compute_loss(model, inputs, return_outputs)
        else:
            result = self._compute_pair_loss(model, inputs, tags, return_outputs)
        if self.args.guards and self.model.training:
            loss = result[0] if return_outputs else result
            refuse_bad_loss(loss, tags.row, self.accelerator, self.state.global_step, self.args.output_dir)
            if tags.row is not None:
                self._step_rows.append(tags.row)
        return result

    def _compute_pair_loss(self, model, inputs, tags: PairTags, return_outputs):
        """TRL's loss with its sigmoid part replaced, pair by pair."""
        pair_loss = self.pair_loss
        pair_loss.start()
        with pair_loss.watch("reference"):
            inputs = self._with_reference(inputs, again=pair_loss.rescores_reference)
        # TRL's loss does not return its log-probabilities.
        outputs = []

        def recorder(**kwargs):
            outputs.append(model(**kwargs))
            return outputs[-1]

        place = self.loss_types.index("sigmoid")
        weights, precomputed = self.loss_weights, self.precompute_ref_logps
        self.loss_weights = [0.0 if index == place else weight for index, weight in enumerate(weights)]
        # With this flag TRL reads the reference's scores from the batch, which now holds them.
        self.precompute_ref_logps = True
        try:
            with pair_loss.watch("policy"):
                result = super()._compute_loss(recorder, inputs, return_outputs)
        finally:
            self.loss_weights, self.precompute_ref_logps = weights, precomputed
        log_probs, state = outputs[0].log_probs, self.state
        margins = self._margins(log_probs, inputs)
        batch = PairBatch(margins, tags, self.model.training, inputs, log_probs, state.global_step, state.max_steps)
        pairs = pair_loss.losses(batch)
        self._log_losses(pairs)
        loss = weights[place] * weighted_mean(pairs.loss, tags)
        return (result[0] + loss, result[1]) if return_outputs else result + loss

    def _log_losses(self, pairs: PairLosses) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        means = []
        if pairs.means:
            local = torch.stack(list(pairs.means.values())).unsqueeze(0)
            means = self.accelerator.gather_for_metrics(local).mean(dim=0).tolist()
        for name, number in [*zip(pairs.means, means, strict=True), *pairs.numbers.items()]:
            metrics[name].append(number)

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        rows, self._step_rows = self._step_rows, []
        # In float16 the loss scaler expects gradients that overflow, and skips their step.
        if self.args.guards and not self.args.fp16 and norm is not None:
            named = torch.cat(rows).tolist() if rows else []
            refuse_bad_gradient(float(norm), self.state.global_step, named, self.args.output_dir)
        return norm
