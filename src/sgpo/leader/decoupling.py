"""SPA's de-coupled noise detection: margins of a policy that is extrapolated away from its reference."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sgpo.errors import InputError
from sgpo.leader.pair_loss import PairBatch, PairLogps, Setup, pair_margins, sum_pair_logps

# Logits that exist at a time, per model: 64 MiB in float32.
MAX_LOGITS = 1 << 24
# Nats per token between two ways of computing the same log-probability; bfloat16 is no more precise.
TOLERANCE = 0.05


class Decoupling:
    """Margins under the log-softmax of mixed logits, from hidden states that the models compute anyway. InputError
    where the reference's logits are not available, or the models are sharded."""

    def __init__(self, setup: Setup) -> None:
        self._args, self._accelerator = setup.args, setup.accelerator
        self.policy, self.reference = setup.policy, setup.reference
        self._hidden: dict[str, Tensor] = {}
        self._checked = False
        what = f"decoupling is {self._args.decoupling}"
        if setup.sharded:
            raise InputError(f"{what} under FSDP or DeepSpeed; allowed: 1, or models that are not sharded.")
        if self.reference is None:
            raise InputError(
                f"{what} with stored or precomputed reference log-probabilities; allowed: 1, or a ref_model, because "
                "the reference's logits are needed at every step."
            )
        head = self.policy.get_output_embeddings()
        if self.reference is self.policy and any(weight.requires_grad for weight in head.parameters()):
            raise InputError(
                f"{what} with an adapter that trains the head, which the reference shares; allowed: 1, or a ref_model."
            )

    @contextmanager
    def watch(self, who: str) -> Iterator[None]:
        """Keeps the last hidden states that a model's backbone returns while the context is open."""

        def keep(module: nn.Module, arguments: tuple, output) -> None:
            self._hidden[who] = output.last_hidden_state.detach()

        handle = getattr(self, who).base_model.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def margins(self, batch: PairBatch) -> Tensor:
        """(B,) margins of the policy at `decoupling` times its distance from the reference, without a graph."""
        inputs = batch.inputs
        shift_mask = inputs["completion_mask"][..., 1:]
        mask = shift_mask == 1
        labels = inputs["input_ids"][:, 1:][mask]

        def states_and_head(who: str) -> tuple[Tensor, nn.Module]:
            # Prompt-learning PEFT puts virtual tokens in front of the real ones.
            hidden = self._hidden.pop(who)[:, -mask.size(1) - 1 : -1]
            return hidden[mask], getattr(self, who).get_output_embeddings()

        models = states_and_head("policy"), states_and_head("reference")

        def sums(strength: float) -> PairLogps:
            with self._accelerator.autocast():
                logps = mixed_logps(*models, labels, strength)
            tokens = torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, logps)
            return sum_pair_logps(tokens, shift_mask, self._args.ld_alpha)

        reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        if not self._checked:
            policy = sum_pair_logps(batch.log_probs, shift_mask, self._args.ld_alpha)
            check_scores(sums(1.0), policy, mask, "policy")
            check_scores(sums(0.0), reference, mask, "reference")
            self._checked = True
        return pair_margins(sums(self._args.decoupling), reference, self._args.beta)


def mixed_logps(
    policy: tuple[Tensor, nn.Module],
    reference: tuple[Tensor, nn.Module],
    labels: Tensor,
    strength: float,
) -> Tensor:
    r"""(T,) log-probabilities of (T,) labels under $\log\mathrm{softmax}(\lambda h_\pi + (1 - \lambda)
    h_\mathrm{ref})$, from the (T, D) last hidden states and the head of each model, in slices. Source: arXiv:2406.04412
    (SPA)."""
    (policy_hidden, policy_head), (reference_hidden, reference_head) = policy, reference
    result = torch.empty(len(labels), dtype=torch.float32, device=labels.device)
    size = max(MAX_LOGITS // policy_head.weight.size(0), 1)
    with torch.no_grad():
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            logits = policy_head(policy_hidden[part]).float().mul_(strength)
            logits.add_(reference_head(reference_hidden[part]).float(), alpha=1 - strength)
            chosen = logits.gather(1, labels[part, None]).squeeze(1)
            result[part] = chosen - logits.logsumexp(dim=1)
    return result


def check_scores(ours: PairLogps, theirs: PairLogps, target_mask: Tensor, whose: str) -> None:
    """Raises InputError if log-probabilities from hidden states and head are not those that training uses."""
    difference = torch.cat([(own - other.detach().float()).abs() for own, other in zip(ours, theirs, strict=True)])
    error = float(difference.sum() / target_mask.sum())
    if not error <= TOLERANCE:
        raise InputError(
            f"decoupling: log-probabilities from the {whose}'s hidden states and head differ by {error:.3f} nats a "
            "token from the scores that training uses; allowed: a model whose logits are its head's, without a scale "
            "or soft cap, and the ref_model that stored scores came from."
        )
