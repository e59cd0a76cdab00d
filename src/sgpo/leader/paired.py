"""DPOTrainer whose sigmoid loss gives way, pair by pair, to another: weighted, smoothed by confidence, or Dr. DPO's."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from torch.nn.functional import logsigmoid
from trl.models.utils import disable_gradient_checkpointing

from sgpo.errors import InputError
from sgpo.leader.confidence import Confidence, RecentMargins
from sgpo.leader.decoupling import Hidden, check_scores, kept_hidden, mixed_logps
from sgpo.leader.dr_dpo import StepLosses, dr_dpo_loss, sum_up
from sgpo.leader.margins import PairLogps, pair_margins, sum_pair_logps
from sgpo.leader.pairs import ROW, WEIGHT, PairTags
from sgpo.leader.scored import ScoredDPOTrainer
from sgpo.leader.scores import REFERENCE_COLUMNS


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


class PairLossTrainer(ScoredDPOTrainer):
    """The losses of `SGPOTrainer` that need no follower.

    Beside TRL's metrics it logs, with `confidence_smoothing`, `confidence/smoothed_share` (of the pairs) and
    `confidence/threshold` (nats).

    Raises:
        InputError: `decoupling` where no reference model is at hand, or where the models are sharded.
    """

    def __init__(self, model=None, ref_model=None, args=None, train_dataset=None, eval_dataset=None, **kwargs):
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self._confidence: Confidence | None = None
        self._step_losses: StepLosses | None = None
        self._trusts_decoupling = False
        if args.confidence_smoothing > 0:
            self._confidence = self._make_confidence()
            self.add_callback(self._confidence)
        if args.decoupling > 1:
            self._check_decoupling()

    def _make_confidence(self) -> Confidence:
        args, columns = self.args, self.train_dataset.column_names
        recent = RecentMargins(args.confidence_quantile, args.confidence_pairs)
        confidence = Confidence(
            self.accelerator, smoothing=args.confidence_smoothing, warmup=args.confidence_warmup, recent=recent
        )
        if WEIGHT in columns:
            confidence.weigh(*(np.asarray(self.train_dataset[column][:]) for column in (ROW, WEIGHT)))
        return confidence

    def _check_decoupling(self) -> None:
        what = f"decoupling is {self.args.decoupling}"
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError(f"{what} under FSDP or DeepSpeed; allowed: 1, or models that are not sharded.")
        if self.precompute_ref_logps and not self._has_reference_model:
            raise InputError(
                f"{what} with stored or precomputed reference log-probabilities; allowed: 1, or a ref_model, because "
                "the reference's logits are needed at every step."
            )
        head = self._core(self.model).get_output_embeddings()
        if self.ref_model is None and any(weight.requires_grad for weight in head.parameters()):
            raise InputError(
                f"{what} with an adapter that trains the head, which the reference shares; allowed: 1, or a ref_model."
            )

    # -- margins -----------------------------------------------------------------------------------------------

    def _with_reference(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if REFERENCE_COLUMNS[0] in inputs:
            return inputs
        chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    def _margins(self, log_probs: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        reference = PairLogps(inputs["ref_chosen_logps"], inputs["ref_rejected_logps"])
        return pair_margins(self._sum_logps(log_probs, inputs), reference, self.beta)

    def _sum_logps(self, log_probs: torch.Tensor, inputs: dict[str, Any]) -> PairLogps:
        mask = inputs["completion_mask"][..., 1:]
        return sum_pair_logps(log_probs[:, -mask.size(1) :], mask, self.ld_alpha)

    def _look_at(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """(B,) margins of a batch that holds the reference's scores, without a graph."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        with torch.no_grad(), self.accelerator.autocast():
            log_probs = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_cache=False,
                labels=labels,
                fused_lm_head=True,
            ).log_probs
        return self._margins(log_probs, inputs)

    # -- the loss ----------------------------------------------------------------------------------------------

    def _compute_pair_loss(self, model, inputs, tags: PairTags, return_outputs):
        """TRL's loss with its sigmoid part replaced, pair by pair."""
        decoupled = self.args.decoupling > 1
        with self._keeping(self.ref_model or self.model, decoupled) as reference:
            # Its hidden states are needed at every step, also where its scores are stored.
            afresh = self._with_reference(_without_reference(inputs) if decoupled else inputs)
        inputs = {**afresh, **inputs}
        recorder = _Recorder(model)
        place = self.loss_types.index("sigmoid")
        weights, precomputed = self.loss_weights, self.precompute_ref_logps
        self.loss_weights = [0.0 if index == place else weight for index, weight in enumerate(weights)]
        # TRL reads the reference's scores from the batch under this flag; they are in it now, whoever computed them.
        self.precompute_ref_logps = True
        try:
            with self._keeping(self.model, decoupled) as policy:
                result = super()._compute_loss(recorder, inputs, return_outputs)
        finally:
            self.loss_weights, self.precompute_ref_logps = weights, precomputed
        margins = self._margins(recorder.log_probs, inputs)
        if self._confidence is None:
            loss = self._pair_loss(margins, tags)
        else:
            judged = self._decoupled_margins(policy, reference, recorder.log_probs, inputs) if decoupled else margins
            loss = self._smoothed_pair_loss(margins, judged, tags)
        loss = weights[place] * loss
        return (result[0] + loss, result[1]) if return_outputs else result + loss

    def _pair_loss(self, margins: torch.Tensor, tags: PairTags) -> torch.Tensor:
        losses = -logsigmoid(margins)
        if self.args.dr_dpo_beta is not None and self.model.training:
            return self._dr_dpo_loss(losses)
        return (losses if tags.weight is None else tags.weight * losses).mean()

    # -- confidence --------------------------------------------------------------------------------------------

    def _smoothed_pair_loss(self, margins: torch.Tensor, judged: torch.Tensor, tags: PairTags) -> torch.Tensor:
        weight = torch.ones_like(margins) if tags.weight is None else tags.weight
        pairs = self._confidence.loss(margins, judged, self.state.global_step, self.state.max_steps)
        if self.model.training:
            self._confidence.see(tags.row, judged)
        metrics = self._metrics["train" if self.model.training else "eval"]
        share = self.accelerator.gather_for_metrics(pairs.smoothed.mean().reshape(1)).mean().item()
        metrics["confidence/smoothed_share"].append(share)
        if np.isfinite(self._confidence.threshold):
            metrics["confidence/threshold"].append(self._confidence.threshold)
        return (weight * pairs.loss).mean()

    def _core(self, model: torch.nn.Module) -> torch.nn.Module:
        """The causal language model itself, with the backbone and the head that TRL scores with."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if is_peft_model(model) else model

    def _keeping(self, model: torch.nn.Module, wanted: bool):
        return kept_hidden(self._core(model)) if wanted else nullcontext()

    def _decoupled_margins(
        self, policy: Hidden, reference: Hidden, log_probs: torch.Tensor, inputs: dict[str, Any]
    ) -> torch.Tensor:
        """(B,) margins of the policy that lies `decoupling` times as far from the reference, in logits."""
        mask = inputs["completion_mask"][..., 1:] == 1
        heads = [self._core(model).get_output_embeddings() for model in (self.model, self.ref_model or self.model)]
        sides = (policy.at_targets(mask), heads[0], reference.at_targets(mask), heads[1])

        def tokens(strength: float) -> torch.Tensor:
            with self.accelerator.autocast():
                logps = mixed_logps(*sides, inputs["input_ids"][:, 1:][mask], strength)
            return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, logps)

        if not self._trusts_decoupling:
            scores = PairLogps(inputs["ref_chosen_logps"], inputs["ref_rejected_logps"])
            check_scores(self._sum_logps(tokens(1.0), inputs), self._sum_logps(log_probs, inputs), mask, "policy")
            check_scores(self._sum_logps(tokens(0.0), inputs), scores, mask, "reference")
            self._trusts_decoupling = True
        return self._margins(tokens(self.args.decoupling), inputs)

    # -- Dr. DPO -----------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """A step's microbatches, as Trainer gathers them; for Dr. DPO after a pass that sums up their losses."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.args.dr_dpo_beta is not None and samples:
            samples = [self._with_reference(self._prepare_inputs(inputs)) for inputs in samples]
            self.model_wrapped.eval()
            with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                losses = [-logsigmoid(self._look_at(self.model_wrapped, inputs)) for inputs in samples]
            self.model_wrapped.train()
            self._step_losses = sum_up(self.accelerator, torch.cat(losses), self.args.dr_dpo_beta)
        return samples, items

    def _dr_dpo_loss(self, losses: torch.Tensor) -> torch.Tensor:
        beta, step = self.args.dr_dpo_beta, self._step_losses
        if step is None:
            raise RuntimeError("Dr. DPO's loss is one of a whole optimiser step; train() has not begun one.")
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        return dr_dpo_loss(losses, step, beta, parts)


def _without_reference(inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key not in REFERENCE_COLUMNS}
