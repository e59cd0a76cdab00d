"""From conversations to token ids, exactly as TRL's DPOTrainer tokenizes them."""

from collections.abc import Sequence
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError

# Conversations tokenized at once: a tokenizer keeps offsets and strings beside the ids, a hundred bytes a token.
_CHUNK = 1000

Messages = Sequence[dict[str, str]]


class TokenizedResponse(NamedTuple):
    """Token ids of a prompt and of the response that follows it, its closing tokens included."""

    prompt_ids: list[int]
    response_ids: list[int]


def tokenize_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of a prompt, up to and including the header of the assistant's turn."""
    return tokenize_prompts(tokenizer, [messages])[0]


def tokenize_response(tokenizer: PreTrainedTokenizerBase, messages: Messages, response: str) -> TokenizedResponse:
    """Token ids of a prompt and of its response, split where TRL's DPOTrainer splits them.

    The template renders the whole conversation once; the response starts where that leaves the tokens of the prompt
    alone, which is after the prompt unless the template or the tokenizer treats the two differently. TRL
    splits both responses of a pair at the earlier of their two split points, so only for such templates can a pair's
    tokens differ from these.

    Source: trl.DPOTrainer._prepare_dataset, 1.16.
    """
    return tokenize_responses(tokenizer, [messages], [response])[0]


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages]) -> list[list[int]]:
    """`tokenize_prompt` for many prompts at once.

    Raises:
        InputError: the chat template refuses a prompt (its message names the row).
    """
    return _render(tokenizer, prompts, add_generation_prompt=True)


def tokenize_responses(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], responses: Sequence[str]
) -> list[TokenizedResponse]:
    """`tokenize_response` for N prompts and N responses at once; a prompt repeated in a row is tokenized once.

    Raises:
        InputError: the chat template refuses a prompt (its message names the row).
    """
    conversations = [
        [*messages, {"role": "assistant", "content": response}]
        for messages, response in zip(prompts, responses, strict=True)
    ]
    full_ids = _render(tokenizer, conversations)
    distinct, places = [], []
    for row, messages in enumerate(prompts):
        if row == 0 or messages != prompts[row - 1]:
            distinct.append(messages)
        places.append(len(distinct) - 1)
    prompt_ids = tokenize_prompts(tokenizer, distinct)
    splits = [_common_prefix_length(prompt_ids[place], ids) for place, ids in zip(places, full_ids, strict=True)]
    return [TokenizedResponse(ids[:split], ids[split:]) for split, ids in zip(splits, full_ids, strict=True)]


def _render(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], *, add_generation_prompt: bool = False
) -> list[list[int]]:
    def render(batch: list[list[dict[str, str]]]) -> list[list[int]]:
        return tokenizer.apply_chat_template(
            batch, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
        )["input_ids"]

    ids: list[list[int]] = []
    for first in range(0, len(conversations), _CHUNK):
        chunk = [list(messages) for messages in conversations[first : first + _CHUNK]]
        try:
            ids.extend(render(chunk))
        except TemplateError:
            for row, messages in enumerate(chunk, start=first):
                try:
                    render([messages])
                except TemplateError as error:
                    roles = [message["role"] for message in messages]
                    raise InputError(f"the chat template refuses row {row} (roles {roles}): {error}") from error
            raise
    return ids


def _common_prefix_length(ids: list[int], other: list[int]) -> int:
    if other[: len(ids)] == ids:
        return len(ids)
    return next(place for place, (mine, its) in enumerate(zip(ids, [*other, None], strict=False)) if mine != its)
