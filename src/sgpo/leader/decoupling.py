"""SPA's de-coupled noise detection: scores of a policy that went further from its reference than it has gone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sgpo.errors import InputError
from sgpo.leader.margins import PairLogps

# Logits that exist at a time, per model: 64 MiB in float32.
MAX_LOGITS = 1 << 24
# Nats per token between two ways to the same number; bfloat16 gives no more.
TOLERANCE = 0.05


class Hidden:
    """The last hidden states that a model's backbone returned, (R, L, D), without their graph."""

    def __init__(self) -> None:
        self.states: Tensor | None = None

    def keep(self, module: nn.Module, arguments: tuple, output) -> None:
        """A forward hook."""
        self.states = output.last_hidden_state.detach()

    def at_targets(self, target_mask: Tensor) -> Tensor:
        """(T, D) states that predict the masked tokens.

        Args:
            target_mask: (R, L - 1) bool, token t + 1 of a row at place t.
        """
        # Prompt-learning PEFT puts virtual tokens in front of the real ones.
        return self.states[:, -target_mask.size(1) - 1 : -1][target_mask]


@contextmanager
def kept_hidden(model: nn.Module) -> Iterator[Hidden]:
    """Keeps what the backbone of a causal language model returns while the context is open."""
    hidden = Hidden()
    handle = model.base_model.register_forward_hook(hidden.keep)
    try:
        yield hidden
    finally:
        handle.remove()


def mixed_logps(
    policy_hidden: Tensor,
    policy_head: nn.Module,
    reference_hidden: Tensor,
    reference_head: nn.Module,
    labels: Tensor,
    strength: float,
    *,
    max_logits: int = MAX_LOGITS,
) -> Tensor:
    r"""Log-probabilities under $\log\mathrm{softmax}(\lambda h_\pi + (1 - \lambda) h_\mathrm{ref})$, in slices.

    Args:
        policy_hidden: (T, D) last hidden states of the policy that predict the labels.
        policy_head: its head, from hidden states to (., V) logits.
        reference_hidden: (T, D') of the reference.
        reference_head: its head, over the same vocabulary.
        labels: (T,) tokens.
        strength: lambda; 1 is the policy, 0 the reference, above 1 goes on from the reference beyond the policy.
        max_logits: how many logits of a model may exist at a time.

    Returns: (T,) float32, in nats, without a graph.

    Source: arXiv:2406.04412 (SPA).
    """
    result = torch.empty(len(labels), dtype=torch.float32, device=labels.device)
    size = max(max_logits // policy_head.weight.size(0), 1)
    with torch.no_grad():
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            logits = policy_head(policy_hidden[part]).float().mul_(strength)
            logits.add_(reference_head(reference_hidden[part]).float(), alpha=1 - strength)
            chosen = logits.gather(1, labels[part, None]).squeeze(1)
            result[part] = chosen - logits.logsumexp(dim=1)
    return result


def check_scores(ours: PairLogps, theirs: PairLogps, target_mask: Tensor, whose: str) -> None:
    """Holds log-probabilities from hidden states to those that training goes by.

    Args:
        ours: of the responses, from hidden states and the head alone.
        theirs: of the same responses.
        target_mask: (2B, L - 1) the responses' tokens.
        whose: whose they are, for the message.

    Raises:
        InputError: they differ: a head with a scale or a soft cap of its own, or another reference model than the one
            that the stored scores came from.
    """
    difference = torch.cat([(own - other.detach().float()).abs() for own, other in zip(ours, theirs, strict=True)])
    error = float(difference.sum() / target_mask.sum())
    if not error <= TOLERANCE:
        raise InputError(
            f"decoupling: log-probabilities from the {whose}'s hidden states and head differ by {error:.3f} nats a "
            "token from the scores that training goes by; allowed: a model whose logits are its head's, without a "
            "scale or soft cap, and a ref_model that stored scores came from."
        )
