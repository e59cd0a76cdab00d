"""Embedding prompts: one vector of a policy's hidden states for each."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from sgpo.errors import InputError, check_whole
from sgpo.policy.batches import fill_in_batches, pad_right
from sgpo.policy.load import Policy, check_rows
from sgpo.policy.tokens import Messages, tokenize_prompts
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

    def embed(batch: list[list[int]]) -> np.ndarray:
        last = torch.tensor([len(tokens) - 1 for tokens in batch], device=policy.device)
        # The base model stops before the output layer, which would cost more than the rest for a large vocabulary.
        states = policy.model.base_model(input_ids=pad_right(batch, policy.device), use_cache=False).last_hidden_state
        return states[torch.arange(len(batch), device=policy.device), last].float().cpu().numpy()

    shape = (len(ids), policy.model.config.get_text_config().hidden_size)
    with nullcontext() if out is None else replacing(out) as partial, policy.inference():
        states = np.empty(shape, np.float32) if out is None else open_memmap(partial, "w+", np.float32, shape)
        fill_in_batches(states, ids, embed, lengths, batch_tokens=batch_tokens, progress=progress)
    return states if out is None else np.load(out, mmap_mode="r")
