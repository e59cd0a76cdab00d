"""Embedding prompts: one vector of a policy's hidden states for each."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from sgpo.errors import InputError
from sgpo.policy.load import Policy
from sgpo.policy.tokens import Messages, tokenize_prompts


def embed_prompts(
    policy: Policy,
    prompts: Sequence[Messages],
    *,
    batch_tokens: int = 8192,
    progress: Callable[[int], None] | None = None,
    out: str | Path | None = None,
) -> np.ndarray:
    """The policy's last hidden state at the last token of each prompt.

    The last token is that of the rendered prompt, with the header that opens the assistant's turn: the state from which
    the policy predicts the first token of its answer. Without the header it would be the token that closes the user's
    turn. The state is taken after the final norm, as `hidden_states[-1]` of transformers is. Prompts are batched by
    length; the batches change the states by rounding only.

    Args:
        policy: the policy; it is left as it is.
        prompts: P conversations that end in a user turn.
        batch_tokens: most tokens of a batch, padding included; a longer prompt is a batch of its own.
        progress: called with the number of prompts newly embedded.
        out: a .npy file to write them to as they come, instead of memory; in its place once it is whole.

    Returns: (P, d) float32, d the policy's hidden size; with `out`, a read-only memory map of that file.

    Raises:
        InputError: `batch_tokens` is out of range, there are no prompts, or a prompt exceeds the model's context; the
            row is named.

    Source: arXiv:2502.18099, Section 4 (the last-layer hidden state of the last prompt token under the SFT model).
    """
    if batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}; allowed: a whole number >= 1.")
    if len(prompts) == 0:
        raise InputError("there are no prompts to embed; allowed: at least one.")
    ids = tokenize_prompts(policy.tokenizer, prompts)
    _check_lengths(policy, ids)
    shape = (len(ids), policy.model.config.get_text_config().hidden_size)
    if out is None:
        states = np.empty(shape, dtype=np.float32)
        _embed(policy, ids, states, batch_tokens, progress)
        return states
    final = Path(out)
    partial = final.with_name(f".{final.name}.partial")
    try:
        mapped = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        _embed(policy, ids, mapped, batch_tokens, progress)
        mapped.flush()
        os.replace(partial, final)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return np.load(final, mmap_mode="r")


def _check_lengths(policy: Policy, ids: list[list[int]]) -> None:
    for row, tokens in enumerate(ids):
        if not tokens:
            raise InputError(f"row {row}: the chat template leaves no token to the prompt; allowed: at least one.")
        if policy.context is not None and len(tokens) > policy.context:
            raise InputError(
                f"row {row}: the prompt has {len(tokens)} tokens and the context of {policy.path!r} is "
                f"{policy.context}; allowed: shorter prompts."
            )


def _embed(
    policy: Policy,
    ids: list[list[int]],
    states: np.ndarray,
    batch_tokens: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Fills the (P, d) states."""
    was_training = policy.model.training
    policy.model.eval()
    try:
        with torch.inference_mode():
            for batch in _batches([len(tokens) for tokens in ids], batch_tokens):
                states[batch] = _embed_batch(policy, [ids[row] for row in batch])
                if progress is not None:
                    progress(len(batch))
    finally:
        policy.model.train(was_training)


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows batch by batch, longest first, so that a batch that does not fit in memory fails at once."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _embed_batch(policy: Policy, ids: list[list[int]]) -> np.ndarray:
    """(B, d) last hidden states.

    Rows are padded on the right and carry no attention mask: under causal attention no real token sees the padding. The
    base model stops before the output layer, which would cost more than it for a large vocabulary.
    """
    length = max(map(len, ids))
    input_ids = torch.tensor([tokens + tokens[-1:] * (length - len(tokens)) for tokens in ids], device=policy.device)
    last = torch.tensor([len(tokens) - 1 for tokens in ids], device=policy.device)
    states = policy.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    return states[torch.arange(len(ids), device=policy.device), last].float().cpu().numpy()
