"""From conversations to token ids, exactly as TRL's DPOTrainer tokenizes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from sgpo.errors import InputError, first_line

# Conversations tokenized at once: tokenizers keep offsets and strings, about a hundred bytes per token.
_CHUNK = 1000

Messages = Sequence[dict[str, str]]


class TokenizedResponse(NamedTuple):
    """Token ids of a prompt and of its response, the closing tokens included."""

    prompt_ids: list[int]
    response_ids: list[int]


def response_texts(pairs: Dataset, side: str) -> list[str]:
    """The responses of N pairs, as `load_pairs` returns them, on the side `chosen` or `rejected`."""
    return [messages[0]["content"] for messages in pairs[side][:]]


@contextmanager
def dated(moment: datetime) -> Iterator[None]:
    """Chat templates that call `strftime_now` get this moment instead of the clock, also where TRL renders them:
    transformers 5.23 has no argument for it, and asks the clock of the module that compiles templates."""
    clock = chat_template_utils.datetime
    chat_template_utils.datetime = type("Stopped", (datetime,), {"now": staticmethod(lambda *_: moment)})
    try:
        yield
    finally:
        chat_template_utils.datetime = clock


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages]) -> list[list[int]]:
    """Token ids of each prompt, up to and including the header of the assistant's turn."""
    return _render(tokenizer, prompts, add_generation_prompt=True)


def tokenize_responses(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], responses: Sequence[str]
) -> list[TokenizedResponse]:
    """Token ids of N prompts and their N responses, split as by TRL's DPOTrainer (`_prepare_dataset`, 1.16), which
    splits a pair at the earlier of its two splits. A prompt repeated in the next row is read once."""
    conversations = [
        [*messages, {"role": "assistant", "content": response}]
        for messages, response in zip(prompts, responses, strict=True)
    ]
    full_ids = _render(tokenizer, conversations)
    groups = [(messages, len(list(rows))) for messages, rows in groupby(prompts)]
    distinct = tokenize_prompts(tokenizer, [messages for messages, _ in groups])
    prompt_ids = [ids for ids, (_, count) in zip(distinct, groups, strict=True) for _ in range(count)]
    return [split_ids(*row) for row in zip(prompt_ids, full_ids, strict=True)]


def tokenize_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Dataset) -> list[list[TokenizedResponse]]:
    """The tokens of N pairs, as `load_pairs` returns them: (N,) chosen, and (N,) rejected ones."""
    sides = (response_texts(pairs, side) for side in ("chosen", "rejected"))
    return [tokenize_responses(tokenizer, pairs["prompt"][:], texts) for texts in sides]


def split_ids(prompt_ids: list[int], ids: list[int]) -> TokenizedResponse:
    """Splits the ids of a whole conversation at the first token that differs from those of its prompt alone."""
    split = len(prompt_ids)
    if ids[:split] != prompt_ids:
        both = enumerate(zip(prompt_ids, [*ids, None], strict=False))
        split = next(place for place, (alone, within) in both if alone != within)
    return TokenizedResponse(ids[:split], ids[split:])


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of a response, without special tokens."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def end_tokens(tokenizer: PreTrainedTokenizerBase, published: int | list[int] | None) -> list[int]:
    """Every token that ends a response: the tokenizer's, and those that the checkpoint was published with."""
    ends = {tokenizer.eos_token_id, *(published if isinstance(published, list) else [published])}
    return sorted(ends - {None})


def _render(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], **options: bool) -> list[list[int]]:
    render = partial(tokenizer.apply_chat_template, tokenize=True, return_dict=True, **options)
    ids: list[list[int]] = []
    for first in range(0, len(conversations), _CHUNK):
        chunk = [list(messages) for messages in conversations[first : first + _CHUNK]]
        try:
            ids.extend(render(chunk)["input_ids"])
        # A template is a program: what it refuses is a TemplateError, and its own mistakes are any error.
        except Exception:
            for row, messages in enumerate(chunk, start=first):
                try:
                    render([messages])
                except Exception as error:
                    roles = ", ".join(message["role"] for message in messages)
                    said = f"the chat template refuses its turns ({roles}): {first_line(error)}."
                    raise InputError(f"row {row}: {said}") from error
            raise
    return ids
