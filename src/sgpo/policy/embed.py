"""Embedding prompts and responses: means of a policy's hidden states."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from sgpo.errors import InputError, check_whole
from sgpo.policy.batches import fill_in_batches, pad_right
from sgpo.policy.load import Policy, check_rows
from sgpo.policy.tokens import Messages, tokenize_prompts, tokenize_responses
from sgpo.store.files import replacing
from sgpo.store.progress import Advance


def embed_prompts(
    policy: Policy,
    prompts: Sequence[Messages],
    *,
    batch_tokens: int = 8192,
    progress: Advance | None = None,
    out: str | Path | None = None,
) -> np.ndarray:
    """Returns the policy's last hidden state at the last token of each prompt.

    The last token is the end of the header that opens the assistant's turn: its state predicts the first token of the
    response. The state is taken after the final norm, as in `hidden_states[-1]` of transformers. The batching changes
    the states by rounding only.

    Args:
        policy: the policy; it is not changed.
        prompts: P conversations that end in a user turn.
        batch_tokens: most tokens of a batch, padding included; a longer prompt is a batch of its own.
        progress: called with the number of prompts newly embedded.
        out: .npy file that the embeddings are written to instead of memory; it appears once it is complete.

    Returns: (P, d) float32, d the policy's hidden size; with `out`, a read-only memory map of that file.

    Raises:
        InputError: `batch_tokens` is out of range, there are no prompts, or a prompt exceeds the model's context; the
            row is named.

    Source: arXiv:2502.18099, Section 4 (the last-layer hidden state of the last prompt token under the SFT model).
    """
    check_whole("batch_tokens", batch_tokens, 1)
    if len(prompts) == 0:
        raise InputError("there are no prompts to embed; allowed: at least one.")
    ids = tokenize_prompts(policy.tokenizer, prompts)
    check_rows(policy, ids)
    lengths = list(map(len, ids))
    for row, length in enumerate(lengths):
        if length == 0:
            raise InputError(f"row {row}: the chat template leaves no token to the prompt; allowed: at least one.")
        if policy.context is not None and length > policy.context:
            raise InputError(
                f"row {row}: the prompt has {length} tokens and the context of {policy.path!r} is {policy.context}; "
                "allowed: shorter prompts."
            )

    shape = (len(ids), policy.model.config.get_text_config().hidden_size)
    with nullcontext() if out is None else replacing(out) as partial:
        states = np.empty(shape, np.float32) if out is None else open_memmap(partial, "w+", np.float32, shape)
        starts = [[length - 1] for length in lengths]
        _embed(policy, states[:, None], ids, starts, batch_tokens=batch_tokens, progress=progress)
    return states if out is None else np.load(out, mmap_mode="r")


def embed_responses(
    policy: Policy,
    prompts: Sequence[Messages],
    responses: Sequence[str],
    *,
    batch_tokens: int = 8192,
    progress: Advance | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The policy's last hidden states of N responses: at the last token of each, and their mean over its tokens.

    The tokens are those that `score_responses` scores, the closing tokens of the template included; the states are
    those of `embed_prompts`, and `progress` counts responses.

    Returns: (N, 2, d) float32; (N,) whether prompt and response exceed the model's context, and the states are nan.

    Raises:
        InputError: `batch_tokens` is out of range, or the template refuses a conversation; the row is named.
    """
    check_whole("batch_tokens", batch_tokens, 1)
    rows = tokenize_responses(policy.tokenizer, prompts, responses)
    ids = [row.prompt_ids + row.response_ids for row in rows]
    check_rows(policy, ids)
    too_long = np.array([len(tokens) > (policy.context or math.inf) for tokens in ids], dtype=bool)
    fitting = np.flatnonzero(~too_long)
    states = np.full((len(ids), 2, policy.model.config.get_text_config().hidden_size), np.nan, np.float32)
    starts = [[len(ids[place]) - 1, len(rows[place].prompt_ids)] for place in fitting]
    found = np.empty_like(states[fitting])
    _embed(policy, found, [ids[place] for place in fitting], starts, batch_tokens=batch_tokens, progress=progress)
    states[fitting] = found
    return states, too_long


def _embed(policy: Policy, out: np.ndarray, ids: list[list[int]], starts: list[list[int]], **options: Any) -> None:
    """Fills `out`, (N, S, d), with the mean states from each of S starts to the end of N rows of tokens."""

    def embed(batch: list[tuple[list[int], list[int]]]) -> np.ndarray:
        tokens = [row for row, _ in batch]
        # The base model stops before the output layer, which would cost more than the rest for a large vocabulary.
        states = policy.model.base_model(input_ids=pad_right(tokens, policy.device), use_cache=False).last_hidden_state
        first, end = (
            torch.tensor(each, device=policy.device) for each in ([s for _, s in batch], list(map(len, tokens)))
        )
        position = torch.arange(states.shape[1], device=policy.device)
        inside = ((position >= first[..., None]) & (position < end[:, None, None])).float()
        return torch.einsum("bsl,bld->bsd", inside / inside.sum(-1, keepdim=True), states.float()).cpu().numpy()

    with policy.inference():
        fill_in_batches(out, list(zip(ids, starts, strict=True)), embed, list(map(len, ids)), **options)
