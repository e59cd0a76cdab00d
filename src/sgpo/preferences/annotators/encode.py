"""Prompts and responses as input of a classifier, and its scores."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from sgpo.errors import check_failed
from sgpo.policy.batches import fill_in_batches
from sgpo.policy.tokens import Messages, TokenizedResponse, split_ids, tokenize_responses
from sgpo.preferences.annotators.ranking import as_text
from sgpo.store.progress import Advance


class Encoded(NamedTuple):
    """One input: its token ids, their segments if the tokenizer has any, and whether its prompt is truncated."""

    ids: list[int]
    segments: list[int] | None
    is_cut: bool


def encode_responses(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], responses: Sequence[str], max_length: int
) -> list[Encoded | None]:
    """Token ids of N prompts with their responses, None where the response leaves no room for the prompt, whose
    beginning is cut at `max_length`. Without a chat template: two segments if the tokenizer has a separator token, else
    two lines."""
    if tokenizer.chat_template is not None:
        rows = tokenize_responses(tokenizer, prompts, responses)
    elif tokenizer.sep_token_id is not None:
        return [_two_segments(tokenizer, *row, max_length) for row in zip(prompts, responses, strict=True)]
    else:
        rows = [_two_lines(tokenizer, *row) for row in zip(prompts, responses, strict=True)]
    return [_fit(*row, max_length, tokenizer.bos_token_id) for row in rows]


def _two_lines(tokenizer: PreTrainedTokenizerBase, messages: Messages, response: str) -> TokenizedResponse:
    head = as_text(messages) + "\n"
    return split_ids(*(tokenizer(text, verbose=False)["input_ids"] for text in (head, head + response)))


def _fit(prompt: list[int], response: list[int], max_length: int, bos: int | None) -> Encoded | None:
    if len(prompt) + len(response) <= max_length:
        return Encoded(prompt + response, None, False)
    opening = prompt[:1] if bos is not None and prompt[:1] == [bos] else []
    room = max_length - len(opening) - len(response)
    return Encoded(opening + prompt[-room:] + response, None, True) if room > 0 else None


def _two_segments(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, response: str, max_length: int
) -> Encoded | None:
    prompt = as_text(messages)
    # Not verbose: inputs that are too long are truncated below, so the tokenizer need not warn.
    encoding = tokenizer(prompt, response, verbose=False)
    is_cut = len(encoding["input_ids"]) > max_length
    if is_cut:
        around = tokenizer.num_special_tokens_to_add(pair=True)
        if len(tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]) + around >= max_length:
            return None
        tokenizer.truncation_side = "left"
        encoding = tokenizer(prompt, response, truncation="only_first", max_length=max_length)
    return Encoded(encoding["input_ids"], encoding.get("token_type_ids"), is_cut)


def score_in_batches(
    who: str,
    compute: Callable[[list[Any]], np.ndarray],
    inputs: Sequence[Any],
    lengths: Sequence[int],
    rows: Sequence[int],
    *,
    batch_tokens: int,
    max_failed: float,
    progress: Advance | None,
    too_long: int = 0,
) -> tuple[np.ndarray, int]:
    """(N,) outputs of the model `who` for N inputs of these lengths, of the prompts `rows`, and how many are not
    finite, and then nan. InputError if a larger share than `max_failed` has none, `too_long` more included."""
    asked = len(inputs) + too_long
    check_failed({"too_long": too_long}, asked, max_failed, f"inputs of the {who}")
    scores = np.zeros(len(inputs))
    fill_in_batches(scores, inputs, compute, lengths, batch_tokens=batch_tokens, progress=progress)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        example = f"{scores[bad[0]]} for row {rows[bad[0]]}; a dtype with more range, float32 or bfloat16, may help"
        failed = {"too_long": too_long, "not_finite": len(bad)}
        check_failed(failed, asked, max_failed, f"outputs of the {who}", example)
    scores[bad] = np.nan
    return scores, len(bad)
