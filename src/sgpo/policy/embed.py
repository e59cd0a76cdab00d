"""Embedding prompts and responses: means of a policy's hidden states."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from sgpo.errors import InputError, check_whole, naming_rows
from sgpo.policy.batches import fill_in_batches, pad_right
from sgpo.policy.load import Policy, check_rows
from sgpo.policy.tokens import Messages, tokenize_prompts, tokenize_responses
from sgpo.store.files import replacing
from sgpo.store.progress import Advance, in_shares


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
        _fill(policy, states[:, None], [(row, [1]) for row in ids], batch_tokens=batch_tokens, progress=progress)
    return states if out is None else np.load(out, mmap_mode="r")


def embed_responses(
    policy: Policy,
    prompts: Sequence[Messages],
    responses: Sequence[Sequence[str]],
    *,
    batch_tokens: int = 8192,
    progress: Advance | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the states of `embed_prompts` over the tokens of each response, those that `score_responses` scores,
    and the state at the last one: of P conversations and P lists of R responses in all, (R, 2, d) float32, nan where a
    row exceeds the model's context, and (R,) whether it does. InputError names a row that the template refuses."""
    check_whole("batch_tokens", batch_tokens, 1)
    owners, texts = zip(*((row, text) for row, texts in enumerate(responses) for text in texts), strict=True)
    with naming_rows(lambda place: f"row {owners[place]}"):
        tokens = tokenize_responses(policy.tokenizer, [prompts[row] for row in owners], texts)
        check_rows(policy, (row.prompt_ids + row.response_ids for row in tokens))
    # A row whose template leaves it no response has the state of its last token.
    rows = [(row.prompt_ids + row.response_ids, [max(len(row.response_ids), 1), 1]) for row in tokens]
    too_long = np.array([len(ids) > (policy.context or math.inf) for ids, _ in rows])
    states = np.full((len(rows), 2, policy.model.config.get_text_config().hidden_size), np.nan, np.float32)
    found, fitting = states[~too_long], [rows[place] for place in np.flatnonzero(~too_long)]
    progress = in_shares(progress, len(prompts), len(fitting))
    _fill(policy, found, fitting, batch_tokens=batch_tokens, progress=progress)
    states[~too_long] = found
    return states, too_long


def _fill(policy: Policy, out: np.ndarray, rows: list[tuple[list[int], list[int]]], **options: Any) -> None:
    """Fills `out`, (N, S, d), with the mean states of the last tokens of N rows, as many as each of S counts says."""

    def embed(batch: list[tuple[list[int], list[int]]]) -> np.ndarray:
        ids, counts = zip(*batch, strict=True)
        # The base model stops before the output layer, which would cost more than the rest for a large vocabulary.
        states = policy.model.base_model(input_ids=pad_right(ids, policy.device), use_cache=False).last_hidden_state
        ends = torch.tensor([[[len(row)]] for row in ids], device=policy.device)
        counts = torch.tensor(counts, device=policy.device).unsqueeze(-1)
        position = torch.arange(states.shape[1], device=policy.device)
        share = ((position >= ends - counts) & (position < ends)) / counts
        return torch.einsum("bsl,bld->bsd", share, states.float()).cpu().numpy()

    with policy.inference():
        fill_in_batches(out, rows, embed, [len(ids) for ids, _ in rows], **options)
