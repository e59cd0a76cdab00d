"""Layouts of preference datasets: all of them are converted to one."""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from datasets import Dataset, Features, List, Value, concatenate_datasets

from sgpo.errors import InputError, check_whole, shorten
from sgpo.store.files import name_row

Message = dict[str, str]

MESSAGES = List({"role": Value("string"), "content": Value("string")})
PAIR_FEATURES = Features({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES})
PROMPT_FEATURES = Features({"prompt": MESSAGES})

ROLES = ("system", "user", "assistant")
PAIR_LAYOUTS = (
    "'chosen' and 'rejected' with 'prompt' (strings, or lists of messages), or 'chosen' and 'rejected' as lists of "
    "messages that begin with the prompt"
)
PROMPT_LAYOUTS = "'prompt' (a string or a list of messages), or 'messages'"
# Why a row is not a preference, as counted by `clean_pairs`.
EQUAL, NO_RESPONSE, NO_PROMPT = "equal responses", "empty response", "empty prompt"
DIFFERENT_PROMPTS, NO_USER_TURN, TOO_LONG = "different prompts", "prompt without a last user turn", "prompt too long"
_MISSING = {"system": NO_PROMPT, "user": NO_PROMPT, "assistant": NO_RESPONSE}
REASONS = (EQUAL, NO_RESPONSE, NO_PROMPT, DIFFERENT_PROMPTS, NO_USER_TURN, TOO_LONG)
_NOUN = re.compile(r"\b(prompt|response)\b")
# TRL renders these into its training text; scoring and generation here would ignore them.
_UNSUPPORTED = ("tools", "chat_template_kwargs", "image", "images")


def to_pairs(dataset: Dataset, name: str) -> Dataset:
    """Preference pairs of any layout (docs/data.md) in one; a row that is not a preference is refused.

    It has `prompt`, messages that end in a user turn; `chosen` and `rejected`, one assistant message each; and every
    other column unchanged. The prompt inside conversations takes precedence. `name` is the dataset's in messages.
    """
    return _convert(dataset, name, _pair, PAIR_FEATURES)


def clean_pairs(dataset: Dataset, name: str, *, max_prompt_chars: int | None = None) -> tuple[Dataset, dict[str, int]]:
    """`to_pairs` for large public datasets: rows that are not preferences are dropped and counted by reason.

    Prompts of more than `max_prompt_chars` characters, over all messages, are dropped too. Content of another type or
    an unknown role is still refused, and so is a dataset without any preference.
    """
    check_whole("max_prompt_chars", max_prompt_chars, 1, optional=True)
    dropped: Counter[str] = Counter()
    pairs = _convert(dataset, name, partial(_pair, max_prompt_chars=max_prompt_chars), PAIR_FEATURES, dropped)
    return pairs, {reason: dropped[reason] for reason in REASONS if dropped[reason]}


def describe_counts(counts: dict[str, int]) -> str:
    """Counts in one line: `3 equal responses, 2 empty prompts, 1 prompt too long`."""
    named = {reason: reason if count == 1 else _NOUN.sub(r"\1s", reason) for reason, count in counts.items()}
    return ", ".join(f"{count:,} {named[reason]}" for reason, count in counts.items()) or "none"


def to_prompts(dataset: Dataset, name: str) -> Dataset:
    """A pool of prompts or pairs of any layout (docs/data.md) as `prompt`, messages that end in a user turn.

    Every other column but `chosen`, `rejected` and `messages` is unchanged. `name` is the dataset's in messages.
    """
    return _convert(dataset, name, _prompt, PROMPT_FEATURES)


def _convert(
    dataset: Dataset,
    name: str,
    convert: Callable[[dict[str, Any]], dict[str, list[Message]]],
    features: Features,
    dropped: Counter[str] | None = None,
) -> Dataset:
    """Converts rows; bad ones are counted in `dropped`, or refused if it is None or the error has no reason."""
    replaced = list(PAIR_FEATURES) if features is PAIR_FEATURES else [*PAIR_FEATURES, "messages"]
    _check_columns(dataset, name, features)
    converted, good = [], []
    rows = dataset.select_columns([column for column in dataset.column_names if column in replaced])
    for index, row in enumerate(rows.with_format(None)):
        try:
            converted.append(convert(row))
        except _BadRow as error:
            if dropped is None or error.reason is None:
                raise InputError(f"{name_row(name, index)}: {error}") from None
            dropped[error.reason] += 1
        else:
            good.append(index)
    if not good:
        raise InputError(f"{name}: none of the {len(dataset)} rows is a preference: {describe_counts(dropped)}.")
    result = Dataset.from_list(converted, features=features)
    others = dataset.select_columns([column for column in dataset.column_names if column not in replaced])
    if not others.column_names:
        return result
    return concatenate_datasets([result, others if len(good) == len(dataset) else others.select(good)], axis=1)


def _check_columns(dataset: Dataset, name: str, features: Features) -> None:
    if len(dataset) == 0:
        raise InputError(f"{name} has no rows; allowed: at least one.")
    columns = dataset.column_names
    missing = [column for column in ("chosen", "rejected") if column not in columns]
    if features is PAIR_FEATURES and missing:
        raise InputError(f"{name} has the columns {columns} and no {missing[0]!r}; allowed: {PAIR_LAYOUTS}.")
    if missing and not {"prompt", "messages"} & set(columns):
        raise InputError(f"{name} has the columns {columns} and no prompt; allowed: {PROMPT_LAYOUTS}.")
    for column in _UNSUPPORTED:
        if column in columns:
            raise InputError(f"{name} has the column {column!r}, which is not supported; allowed: text only.")


class _BadRow(Exception):
    """A bad row; the message does not name it. The reason is None for rows that no dataset should have."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


def _pair(row: dict[str, Any], *, max_prompt_chars: int | None = None) -> dict[str, list[Message]]:
    prompt, chosen = _split(row, "chosen")
    rejected_prompt, rejected = _split(row, "rejected")
    if prompt != rejected_prompt:
        raise _BadRow("the prompts of 'chosen' and 'rejected' differ; allowed: one prompt.", DIFFERENT_PROMPTS)
    if chosen["content"].strip() == rejected["content"].strip():
        raise _BadRow(
            f"chosen and rejected are equal ({shorten(chosen['content'])}); allowed: two different responses.", EQUAL
        )
    if max_prompt_chars is not None and sum(len(message["content"]) for message in prompt) > max_prompt_chars:
        raise _BadRow(f"the prompt has more than {max_prompt_chars} characters.", TOO_LONG)
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}


def _prompt(row: dict[str, Any]) -> dict[str, list[Message]]:
    if "chosen" in row and "rejected" in row:
        return {"prompt": _split(row, "chosen")[0]}
    if "prompt" in row:
        return {"prompt": _checked_prompt(_messages(row, "prompt"), "prompt")}
    messages = _messages(row, "messages")
    if messages[-1]["role"] == "assistant":
        messages.pop()
    return {"prompt": _checked_prompt(messages, "messages")}


def _split(row: dict[str, Any], column: str) -> tuple[list[Message], Message]:
    """Prompt and response of one side of a pair."""
    explicit = _messages(row, "prompt") if "prompt" in row else None
    *prompt, response = _messages(row, column)
    if response["role"] != "assistant":
        raise _BadRow(f"{column} ends in a turn of {response['role']!r}; allowed: an assistant turn.", NO_RESPONSE)
    if not response["content"].strip():
        raise _BadRow(f"the response of {column} is empty; allowed: some text.", NO_RESPONSE)
    if not prompt:
        if explicit is None:
            raise _BadRow(f"{column} holds a response and no prompt; allowed: {PAIR_LAYOUTS}.")
        return _checked_prompt(explicit, "prompt"), response
    if isinstance(row.get("prompt"), list) and prompt != explicit:
        raise _BadRow(f"{column} begins with other messages than 'prompt'; allowed: these, or none.", DIFFERENT_PROMPTS)
    return _checked_prompt(prompt, column), response


def _checked_prompt(prompt: list[Message], column: str) -> list[Message]:
    last = prompt[-1]["role"] if prompt else None
    if last != "user":
        raise _BadRow(f"the prompt in {column} ends in a turn of {last!r}; allowed: a user turn.", NO_USER_TURN)
    if not prompt[-1]["content"].strip():
        raise _BadRow(f"the prompt in {column} is empty; allowed: some text.", NO_PROMPT)
    return prompt


def _messages(row: dict[str, Any], column: str) -> list[Message]:
    """The messages of a column; a string is one turn, of the user if it is the prompt."""
    value = row[column]
    writer = "assistant" if column in ("chosen", "rejected") else "user"
    if isinstance(value, str) and column != "messages":
        return [{"role": writer, "content": value}]
    if not isinstance(value, list) or not value:
        allowed = "a string or a list of messages with role and content"
        raise _BadRow(f"{column} is {shorten(value)}; allowed: {allowed}.", None if value else _MISSING[writer])
    messages = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise _BadRow(f"{column} has a message {shorten(message)}; allowed: the roles {', '.join(ROLES)}.")
        if not isinstance(content, str):
            reason = _MISSING[role] if content is None else None
            raise _BadRow(f"{column} has content {shorten(content)} in a turn of {role!r}; allowed: a string.", reason)
        messages.append({"role": role, "content": content})
    return messages
