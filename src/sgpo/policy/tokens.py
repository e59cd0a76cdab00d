"""From conversations to token ids, exactly as TRL's DPOTrainer tokenizes them."""

from collections.abc import Sequence
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError

# Conversations tokenized at once: tokenizers keep offsets and strings, about a hundred bytes per token.
_CHUNK = 1000

Messages = Sequence[dict[str, str]]


class TokenizedResponse(NamedTuple):
    """Token ids of a prompt and of its response, the closing tokens included."""

    prompt_ids: list[int]
    response_ids: list[int]


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages]) -> list[list[int]]:
    """Token ids of each prompt, up to and including the header of the assistant's turn.

    Raises:
        InputError: the chat template refuses a prompt; the row is named.
    """
    return _render(tokenizer, prompts, add_generation_prompt=True)


def tokenize_responses(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], responses: Sequence[str]
) -> list[TokenizedResponse]:
    """Token ids of N prompts and their N responses, split where TRL's DPOTrainer splits them.

    The template renders the whole conversation once. The response starts at the first token that differs from those of
    the prompt alone: after the prompt, unless the template or the tokenizer treats the two differently. TRL splits both
    responses of a pair at the earlier of their two splits, so only for such templates can a pair's tokens differ from
    these. A prompt repeated in the next row is tokenized once.

    Raises:
        InputError: the chat template refuses a prompt; the row is named.

    Source: trl.DPOTrainer._prepare_dataset, 1.16.
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
    return [split_ids(prompt_ids[place], ids) for place, ids in zip(places, full_ids, strict=True)]


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
