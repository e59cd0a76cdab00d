"""Layouts of preference datasets: all of them are converted to one."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, List, Value, concatenate_datasets

from sgpo.errors import InputError, check_whole

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
REASONS = (EQUAL, NO_RESPONSE, NO_PROMPT, DIFFERENT_PROMPTS, NO_USER_TURN, TOO_LONG)
# TRL renders these into its training text; scoring and generation here would ignore them.
_UNSUPPORTED = ("tools", "chat_template_kwargs", "image", "images")


def to_pairs(dataset: Dataset, name: str) -> Dataset:
    """Converts preference pairs to one layout.

    Accepts UltraFeedback-binarized (`prompt` a string, `chosen` and `rejected` whole conversations), TRL's
    conversational layout with and without `prompt`, and strings with `prompt`. A string prompt becomes a user turn; the
    prompt inside the conversations takes precedence. Messages keep their role and content. No chat template is applied.

    Args:
        dataset: N rows.
        name: the dataset's name in error messages.

    Returns: N rows: `prompt` (messages that end in a user turn), `chosen` and `rejected` (one assistant message each),
        and every other column unchanged.

    Raises:
        InputError: a missing column, an empty dataset, or a row that is not a preference (equal or empty responses,
            different prompts, a prompt that does not end in a user turn, content that is not a string).
    """
    _check_columns(dataset, name, needed=("chosen", "rejected"))
    return _rebuild(dataset, name, _pair, PAIR_FEATURES, replaced=("prompt", "chosen", "rejected"))


@dataclass(frozen=True)
class CleanPairs:
    """The valid rows of a preference dataset, and how many were dropped by reason.

    Attributes:
        pairs: in the layout of `to_pairs`.
        dropped: reason (one of `REASONS`) to number of rows; reasons that did not occur are absent.
    """

    pairs: Dataset
    dropped: dict[str, int]


def clean_pairs(dataset: Dataset, name: str, *, max_prompt_chars: int | None = None) -> CleanPairs:
    """`to_pairs` for large public datasets: rows that are not preferences are dropped and counted instead of refused.

    Args:
        dataset: N rows.
        name: the dataset's name in error messages.
        max_prompt_chars: prompts with more characters, over all messages, are dropped too.

    Raises:
        InputError: a missing column, content of another type, an unknown role, or no row is left.
    """
    check_whole("max_prompt_chars", max_prompt_chars, 1, optional=True)
    _check_columns(dataset, name, needed=("chosen", "rejected"))
    dropped: Counter[str] = Counter()

    def build(row: dict[str, Any]) -> dict[str, list[Message]]:
        pair = _pair(row)
        characters = sum(len(message["content"]) for message in pair["prompt"])
        if max_prompt_chars is not None and characters > max_prompt_chars:
            raise _BadRow(f"the prompt has more than {max_prompt_chars} characters.", TOO_LONG)
        return pair

    pairs = _rebuild(dataset, name, build, PAIR_FEATURES, ("prompt", "chosen", "rejected"), dropped)
    if len(pairs) == 0:
        raise InputError(f"{name}: none of the {len(dataset)} rows is a preference: {describe_counts(dropped)}.")
    return CleanPairs(pairs, {reason: dropped[reason] for reason in REASONS if dropped[reason]})


def describe_counts(counts: dict[str, int]) -> str:
    """Counts in one line: `3 equal responses, 1 empty prompt`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"


def to_prompts(dataset: Dataset, name: str) -> Dataset:
    """Converts a pool of prompts to one layout, without responses.

    Args:
        dataset: N rows with `prompt` (a string or messages), `messages`, or any layout of pairs.
        name: the dataset's name in error messages.

    Returns: N rows: `prompt` (messages that end in a user turn), and every other column but `chosen`, `rejected` and
        `messages` unchanged.

    Raises:
        InputError: a missing column, an empty dataset, or a row without a prompt that ends in a user turn.
    """
    _check_columns(dataset, name, needed=())
    columns = dataset.column_names
    if {"chosen", "rejected"} <= set(columns):
        build = _prompt_of_pair
    elif "prompt" in columns:
        build = _prompt
    elif "messages" in columns:
        build = _prompt_of_messages
    else:
        raise InputError(f"{name} has the columns {columns} and no prompt; allowed: {PROMPT_LAYOUTS}.")
    return _rebuild(dataset, name, build, PROMPT_FEATURES, replaced=("prompt", "chosen", "rejected", "messages"))


def _check_columns(dataset: Dataset, name: str, *, needed: tuple[str, ...]) -> None:
    if len(dataset) == 0:
        raise InputError(f"{name} has no rows; allowed: at least one.")
    for column in needed:
        if column not in dataset.column_names:
            raise InputError(
                f"{name} has the columns {dataset.column_names} and no {column!r}; allowed: {PAIR_LAYOUTS}."
            )
    for column in _UNSUPPORTED:
        if column in dataset.column_names:
            raise InputError(f"{name} has the column {column!r}, which is not supported; allowed: text only.")


def _rebuild(
    dataset: Dataset,
    name: str,
    build: Callable[[dict[str, Any]], dict[str, list[Message]]],
    features: Features,
    replaced: tuple[str, ...],
    dropped: Counter[str] | None = None,
) -> Dataset:
    """Converts rows; bad ones are counted in `dropped`, or refused if it is None or the error has no reason."""
    read = [column for column in dataset.column_names if column in replaced]
    columns: dict[str, list[list[Message]]] = {column: [] for column in features}
    good = []
    for index, row in enumerate(_rows(dataset.select_columns(read))):
        try:
            built = build(row)
        except _BadRow as error:
            if dropped is None or error.reason is None:
                raise InputError(f"{name} row {index}: {error}") from None
            dropped[error.reason] += 1
            continue
        good.append(index)
        for column, value in built.items():
            columns[column].append(value)
    rebuilt = Dataset.from_dict(columns, features=features)
    kept = [column for column in dataset.column_names if column not in replaced]
    if not kept:
        return rebuilt
    others = dataset.select_columns(kept)
    return concatenate_datasets([rebuilt, others if len(good) == len(dataset) else others.select(good)], axis=1)


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for batch in dataset.with_format(None).iter(batch_size=1000):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(names, values, strict=True))


class _BadRow(Exception):
    """A bad row; the message does not name it. The reason is None for rows that no dataset should have."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


def _pair(row: dict[str, Any]) -> dict[str, list[Message]]:
    chosen_prompt, chosen = _split(row, "chosen")
    rejected_prompt, rejected = _split(row, "rejected")
    if chosen_prompt != rejected_prompt:
        raise _BadRow(
            "the prompts of 'chosen' and 'rejected' differ; allowed: two responses to one prompt.", DIFFERENT_PROMPTS
        )
    if chosen["content"].strip() == rejected["content"].strip():
        raise _BadRow(
            f"chosen and rejected are equal ({_short(chosen['content'])}); allowed: two different responses.", EQUAL
        )
    return {"prompt": chosen_prompt, "chosen": [chosen], "rejected": [rejected]}


def _prompt_of_pair(row: dict[str, Any]) -> dict[str, list[Message]]:
    return {"prompt": _split(row, "chosen")[0]}


def _prompt(row: dict[str, Any]) -> dict[str, list[Message]]:
    return {"prompt": _checked_prompt(_explicit_prompt(row), "prompt")}


def _prompt_of_messages(row: dict[str, Any]) -> dict[str, list[Message]]:
    messages = _messages(row["messages"], "messages")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return {"prompt": _checked_prompt(messages, "messages")}


def _explicit_prompt(row: dict[str, Any]) -> list[Message] | None:
    if "prompt" not in row:
        return None
    prompt = row["prompt"]
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _messages(prompt, "prompt")


def _split(row: dict[str, Any], column: str) -> tuple[list[Message], Message]:
    """Prompt and response of one side of a pair."""
    value, explicit = row[column], _explicit_prompt(row)
    messages = [{"role": "assistant", "content": value}] if isinstance(value, str) else _messages(value, column)
    *prompt, response = messages
    if response["role"] != "assistant":
        raise _BadRow(f"{column} ends in a turn of {response['role']!r}; allowed: an assistant turn.", NO_RESPONSE)
    if not response["content"].strip():
        raise _BadRow(f"the response of {column} is empty; allowed: some text.", NO_RESPONSE)
    if not prompt:
        if explicit is None:
            raise _BadRow(f"{column} holds a response and no prompt; allowed: {PAIR_LAYOUTS}.")
        return _checked_prompt(explicit, "prompt"), response
    if isinstance(row.get("prompt"), list) and prompt != explicit:
        raise _BadRow(
            f"{column} begins with other messages than 'prompt'; allowed: the same messages, or none.",
            DIFFERENT_PROMPTS,
        )
    return _checked_prompt(prompt, column), response


def _checked_prompt(prompt: list[Message], column: str) -> list[Message]:
    last = prompt[-1]["role"] if prompt else None
    if last != "user":
        raise _BadRow(f"the prompt in {column} ends in a turn of {last!r}; allowed: a user turn.", NO_USER_TURN)
    if not prompt[-1]["content"].strip():
        raise _BadRow(f"the prompt in {column} is empty; allowed: some text.", NO_PROMPT)
    return prompt


def _messages(value: Any, column: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise _BadRow(
            f"{column} is {_short(value)}; allowed: a string or a list of messages with role and content.",
            None if value else NO_RESPONSE if column in ("chosen", "rejected") else NO_PROMPT,
        )
    messages = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise _BadRow(f"{column} has a message {_short(message)}; allowed: the roles {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise _BadRow(
                f"{column} has content {_short(content)} in a turn of {role!r}; allowed: a string.",
                None if content is not None else NO_RESPONSE if role == "assistant" else NO_PROMPT,
            )
        messages.append({"role": role, "content": content})
    return messages


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
