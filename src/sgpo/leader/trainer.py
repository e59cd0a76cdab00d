"""SGPOTrainer: TRL's DPOTrainer against the worst case."""

import os
import textwrap
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.utils import get_config_model_id

from sgpo.errors import InputError
from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import Follower, Pairs, RobustLoss, radii
from sgpo.leader.guards import Guards, refuse_bad_gradient, refuse_bad_loss
from sgpo.leader.paired import PairLossTrainer
from sgpo.leader.pairs import ROW, SOURCE, WEIGHT, PairTags, pop_tags
from sgpo.leader.schedule import Schedule, read_state
from sgpo.leader.scores import POLICY_COLUMNS, REFERENCE_COLUMNS, has_columns, stored_gaps
from sgpo.robust.exact import WorstCase


class SGPOTrainer(PairLossTrainer):
    r"""Trains a policy against the worst distribution of preference gaps in a Wasserstein ball.

    Takes the place of TRL's `DPOTrainer`, with the same arguments, models and datasets. With `radius=0` it is DPO.

    The follower answers on schedule (`schedule`), first to the gaps that the policy has before the first step: from
    the columns `chosen_logps` and `rejected_logps` where the dataset stores them, and as zeros where the reference is
    the initial policy; otherwise one pass over the data measures them. The leader's step `"envelope"` then minimises,
    at the follower's price of radius lambda and lower end a,

        mean_i w_i * (max(f(u_i), f(a) - lambda * (u_i - a)) + lambda * radius),

    the follower's dual. It equals the robust value at the gaps that the price was solved for, its gradient there is
    the envelope gradient, it bounds the robust value from above at every other gap, and it is a sum over pairs, so
    it does not depend on how a batch is cut (PAPER.md D3). `"transport"` and `"mixture"` are described in
    `sgpo.robust.steps`.

    Further columns of the training and evaluation sets:
        ref_chosen_logps, ref_rejected_logps: the reference's log-probabilities, instead of a reference model;
            `ref_fingerprint` says whose they are (`sgpo.leader.scores`).
        weight: w_i >= 0, scaled to mean 1 over the dataset; also with `radius=0`, where this is weighted DPO.
        source: with `source_radius`, which ball a pair belongs to.

    Beside TRL's metrics it logs `robust/value` (nats), `robust/moved_share` and `robust/outside` (share of gaps that
    left the window), and for each source `robust/price`, `robust/window_low` and `robust/window_high`.

    Source: arXiv:2502.18099, Section 3.3 and Theorem 3.3.

    Raises:
        ValueError: what the robust loss does not combine with, see `SGPOConfig`; a stream or images with a radius > 0.
        InputError: scores, weights or sources that are incomplete or out of range; while training, a loss or gradient
            that is not finite (unless `guards=False`).
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

    def __init__(self, model=None, ref_model=None, args=None, train_dataset=None, eval_dataset=None, **kwargs):
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SGPOConfig(f"{name.split('/')[-1]}-SGPO")
        if not isinstance(args, SGPOConfig):
            raise TypeError(f"args is a {type(args).__name__}; allowed: SGPOConfig, or None for the defaults.")
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self._step_rows: list[torch.Tensor] = []
        self._schedule = Schedule(self.accelerator, args.schedule)
        self.add_callback(self._schedule)
        if args.guards:
            self.add_callback(Guards(self._moved_shares))

    # -- the follower ------------------------------------------------------------------------------------------

    @property
    def worst_cases(self) -> dict[str, WorstCase]:
        """The follower's latest answer by source (or under "all"); empty before the first one."""
        return {} if self._schedule.follower is None else self._schedule.follower.worst_cases

    @property
    def worst_case(self) -> WorstCase:
        """The follower's latest answer, where one ball holds all pairs; InputError otherwise."""
        if len(self.worst_cases) != 1:
            raise InputError(f"worst_case of {list(self.worst_cases)}; allowed: one answer, see worst_cases.")
        return next(iter(self.worst_cases.values()))

    def _moved_shares(self) -> dict[str, float]:
        return {source: float(worst.moved_share) for source, worst in self.worst_cases.items()}

    def train(self, resume_from_checkpoint=None, *args: Any, **kwargs: Any) -> Any:
        """Has the follower answer to the initial gaps, or as the checkpoint says; then trains as `DPOTrainer` does."""
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = get_last_checkpoint(self.args.output_dir) if os.path.isdir(self.args.output_dir) else None
        self._meet_follower(read_state(checkpoint) if checkpoint else None)
        if checkpoint and self._confidence is not None:
            self._confidence.load(checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _meet_follower(self, state: dict[str, np.ndarray] | None = None) -> None:
        if not self.args.is_robust or (self._schedule.follower is not None and state is None):
            return
        columns = self.train_dataset.column_names
        rows, weights, sources = (
            np.asarray(self.train_dataset[column][:]) if column in columns else None for column in (ROW, WEIGHT, SOURCE)
        )
        pairs = Pairs(rows, weights, sources)
        # Before TRL loads a checkpoint: a resumed run must answer to the gaps that the first start saw.
        follower = Follower(self.args, pairs, self._initial_gaps(pairs) if state is None else state["gaps"])
        follower.answer() if state is None else follower.load(state)
        self._schedule.follower = follower

    def _initial_gaps(self, pairs: Pairs) -> np.ndarray:
        radius = np.array(list(radii(self.args).values()))
        if not radius[0 if pairs.sources is None else pairs.sources].any():
            return np.zeros(len(pairs.rows))
        if self._has_reference_scores and not self._doubts_scores:
            if has_columns(self.train_dataset, POLICY_COLUMNS, "train_dataset"):
                return stored_gaps(self.train_dataset, self.beta)
        elif not self._has_reference_model:
            return np.zeros(len(pairs.rows))
        return self._measure_gaps()

    def _measure_gaps(self) -> np.ndarray:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError(
                "train_dataset stores no policy log-probabilities, and a model that is about to be sharded cannot be "
                f"asked for them; allowed: the columns {' and '.join(POLICY_COLUMNS + REFERENCE_COLUMNS)}."
            )
        loader = DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            shuffle=False,
        )
        gaps = []
        was_training = self.model.training
        self.model.eval()
        for inputs in self.accelerator.prepare(loader):
            margins = self._look_at(self.model, self._with_reference(inputs))
            gaps.append(self.accelerator.gather_for_metrics(margins).cpu())
        self.model.train(was_training)
        return torch.cat(gaps).double().numpy()

    # -- the loss ----------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs, return_outputs):
        inputs, tags = pop_tags(inputs)
        if self.args.has_pair_loss or tags.weight is not None:
            result = self._compute_pair_loss(model, inputs, tags, return_outputs)
        else:
            result = super()._compute_loss(model, inputs, return_outputs)
        if self.args.guards and self.model.training:
            loss = result[0] if return_outputs else result
            refuse_bad_loss(loss, tags.row, self.accelerator, self.state.global_step, self.args.output_dir)
            if tags.row is not None:
                self._step_rows.append(tags.row)
        return result

    def _compute_pair_loss(self, model, inputs, tags: PairTags, return_outputs):
        self._meet_follower()
        return super()._compute_pair_loss(model, inputs, tags, return_outputs)

    def _pair_loss(self, margins: torch.Tensor, tags: PairTags) -> torch.Tensor:
        follower, training = self._schedule.follower, self.model.training
        if follower is None:
            return super()._pair_loss(margins, tags)
        weight = torch.ones_like(margins) if tags.weight is None else tags.weight
        pairs = follower.loss(margins, tags, training=training)
        if training:
            self._schedule.see(tags.row, margins)
        value = (weight * pairs.loss).mean()
        self._log_robust(value.detach(), pairs)
        return value

    def _log_robust(self, value: torch.Tensor, pairs: RobustLoss) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        local = torch.stack([value, pairs.moved.mean(), pairs.outside.mean()]).unsqueeze(0)
        means = self.accelerator.gather_for_metrics(local).mean(dim=0).tolist()
        for name, mean in zip(("value", "moved_share", "outside"), means, strict=True):
            metrics[f"robust/{name}"].append(mean)
        for source, worst in self.worst_cases.items():
            of = "" if source == "all" else f"/{source}"
            metrics[f"robust/price{of}"].append(float(worst.price))
            metrics[f"robust/window_low{of}"].append(float(worst.window[0]))
            metrics[f"robust/window_high{of}"].append(float(worst.window[1]))

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        rows, self._step_rows = self._step_rows, []
        # In float16 the loss scaler expects gradients that overflow, and skips their step.
        if self.args.guards and not self.args.fp16 and norm is not None:
            named = torch.cat(rows).tolist() if rows else []
            refuse_bad_gradient(float(norm), self.state.global_step, named, self.args.output_dir)
        return norm

    def _save_checkpoint(self, model, trial):
        folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        self._schedule.save(folder)
        if self._confidence is not None:
            self._confidence.save(folder)
        super()._save_checkpoint(model, trial)
