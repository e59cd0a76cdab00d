"""Scoring responses: their summed log-probabilities under a policy."""

import inspect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from sgpo.errors import InputError, check_whole, naming_rows
from sgpo.policy.batches import fill_in_batches, pad_right
from sgpo.policy.load import Policy, check_rows
from sgpo.policy.tokens import Messages, TokenizedResponse, response_texts, tokenize_responses
from sgpo.store.progress import Advance

# Logits become float32 log-probabilities in slices of at most this many numbers (128 MiB).
_SLICE = 2**25


class Scores(NamedTuple):
    """(N,) summed log-probabilities of responses in nats, float64, and their numbers of tokens, int64."""

    logps: np.ndarray
    n_tokens: np.ndarray


class PairScores(NamedTuple):
    """(N,) summed log-probabilities of chosen and rejected responses, in nats, and their numbers of tokens."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_tokens: np.ndarray
    rejected_tokens: np.ndarray


def score_pairs(
    policy: Policy, pairs: Dataset, *, max_length: int | None = None, progress: Advance | None = None
) -> PairScores:
    """Scores both responses of N pairs, as `load_pairs` returns them; `progress` counts 2N responses."""
    texts = response_texts(pairs, "chosen") + response_texts(pairs, "rejected")
    with naming_rows(lambda row: f"row {row % len(pairs)}"):
        scores = score_responses(policy, pairs["prompt"][:] * 2, texts, max_length=max_length, progress=progress)
    return PairScores(*np.split(scores.logps, 2), *np.split(scores.n_tokens, 2))


def score_responses(
    policy: Policy,
    prompts: Sequence[Messages],
    responses: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int = 8192,
    progress: Advance | None = None,
) -> Scores:
    r"""Summed log-probabilities `log pi(y|x) = sum_t log pi(y_t | x, y_<t)` of N responses, in nats.

    The tokens are those that TRL's DPOTrainer trains on, the closing tokens of the template included, so the sums are
    its log-probabilities. The batching changes them by rounding only.

    Args:
        policy: the scoring policy; it is not changed.
        prompts: N conversations that end in a user turn.
        responses: N response texts.
        max_length: prompt and response together are truncated to this many tokens, as with TRL's `max_length`; None
            truncates nothing.
        batch_tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
        progress: called with the number of responses newly scored.

    Raises:
        InputError: an argument is out of range, a prompt fills `max_length`, or a row exceeds the model's context or
            has a token without a row in its embedding; the row is named.

    Source: arXiv:2502.18099, Section 3.1 (the log-probabilities of the implicit reward); trl.DPOTrainer 1.16.
    """
    check_whole("batch_tokens", batch_tokens, 1)
    check_whole("max_length", max_length, 2, optional=True)
    if len(prompts) != len(responses):
        raise InputError(f"responses has {len(responses)} rows; allowed: one per prompt, {len(prompts)}.")
    rows = fit_responses(policy, prompts, responses, max_length)
    logps = np.zeros(len(rows), dtype=np.float64)
    with policy.inference():
        fill_in_batches(
            logps,
            rows,
            lambda batch: _score_batch(policy, batch),
            [len(row.prompt_ids) + len(row.response_ids) for row in rows],
            # Rows with prompts of similar length need logits for fewer positions.
            ties=[len(row.prompt_ids) for row in rows],
            batch_tokens=batch_tokens,
            progress=progress,
        )
    return Scores(logps, np.array([len(row.response_ids) for row in rows], dtype=np.int64))


def fit_responses(
    policy: Policy, prompts: Sequence[Messages], responses: Sequence[str], max_length: int | None
) -> list[TokenizedResponse]:
    """The tokens that `score_responses` scores; InputError for a row that it cannot. Needs no weights."""
    rows = tokenize_responses(policy.tokenizer, prompts, responses)
    check_rows(policy, (row.prompt_ids + row.response_ids for row in rows))
    return [_truncate(row, index, max_length, policy) for index, row in enumerate(rows)]


def _truncate(row: TokenizedResponse, index: int, max_length: int | None, policy: Policy) -> TokenizedResponse:
    prompt_length = len(row.prompt_ids)
    if max_length is not None:
        if prompt_length >= max_length:
            raise InputError(
                f"row {index}: the prompt has {prompt_length} tokens and max_length is {max_length}; allowed: prompts "
                "shorter than max_length."
            )
        row = row._replace(response_ids=row.response_ids[: max_length - prompt_length])
    length = prompt_length + len(row.response_ids)
    if policy.context is not None and length > policy.context:
        raise InputError(
            f"row {index}: prompt and response have {length} tokens ({prompt_length} of the prompt) and the context of "
            f"{policy.path!r} is {policy.context}; allowed: shorter rows, or max_length <= {policy.context}."
        )
    if prompt_length == 0 or not row.response_ids:
        raise InputError(
            f"row {index}: the chat template leaves {prompt_length} tokens to the prompt and {len(row.response_ids)} "
            "to the response; allowed: at least one each."
        )
    return row


def _score_batch(policy: Policy, rows: list[TokenizedResponse]) -> np.ndarray:
    """Summed log-probabilities of one batch, (B,) float64."""
    input_ids = pad_right([row.prompt_ids + row.response_ids for row in rows], policy.device)
    # The logits at position t predict token t + 1, so the first response token needs the last of the prompt.
    start = min(len(row.prompt_ids) for row in rows)
    keep = input_ids.shape[1] - start + 1
    takes_keep = "logits_to_keep" in inspect.signature(policy.model.forward).parameters
    options = {"logits_to_keep": keep} if takes_keep else {}
    logits = policy.model(input_ids=input_ids, use_cache=False, **options).logits[:, -keep:-1]
    position = torch.arange(start, input_ids.shape[1], device=policy.device)
    first = torch.tensor([[len(row.prompt_ids)] for row in rows], device=policy.device)
    count = torch.tensor([[len(row.response_ids)] for row in rows], device=policy.device)
    is_response = (position >= first) & (position < first + count)
    token_logps = torch.where(is_response, _token_logps(logits, input_ids[:, start:]), 0.0)
    return token_logps.sum(dim=1, dtype=torch.float64).cpu().numpy()


def _token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities of the targets, (B, K) float32, without a float32 copy of all logits at once."""
    size = max(1, _SLICE // logits[0].numel())
    slices = []
    for part, wanted in zip(logits.split(size), targets.split(size), strict=True):
        part = part.float()
        chosen = part.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        slices.append(chosen - part.logsumexp(dim=-1))
    return torch.cat(slices)
