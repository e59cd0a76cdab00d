"""Layouts of preference datasets: all of them are converted to one; and when two prompts count as one."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from sgpo.errors import InputError, check_whole, shorten
from sgpo.preferences.columns import is_empty, read_columns, without_empty
from sgpo.store.files import name_row

Message = dict[str, str]

MESSAGES = List({"role": Value("string"), "content": Value("string")})
PAIR_FEATURES = Features({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES})
PROMPT_FEATURES = Features({"prompt": MESSAGES})

ROLES = ("system", "user", "assistant")
_SHAREGPT, _SPEAKERS = {"human": "user", "gpt": "assistant"}, {"Human": "user", "Assistant": "assistant"}
_DIALOGUE = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
# Columns of whole conversations, whose last turn may be an answer.
_TURNS = ("messages", "conversation", "conversations")
# The responses are in the first two columns of these that a dataset has; in the last two, lists with lists of ratings.
_SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
_RATED = (("generations", "ratings"), ("generations", "rating"))
# The prompt is in the column of that name, or else in one of these.
OTHER_PROMPTS = ("instruction", "question", "input", *_TURNS)
_SYSTEMS = ("system", "system_prompt")
PROMPT_LAYOUTS = f"'prompt' (a string or a list of messages), or one of {', '.join(map(repr, OTHER_PROMPTS))}"
PAIR_LAYOUTS = (
    "'chosen' and 'rejected', 'chosen_response' and 'rejected_response', or 'generations' and 'ratings'; as lists of "
    f"messages or dialogues that begin with the prompt, or with a prompt in {PROMPT_LAYOUTS}"
)
# Why a row is not a preference, as counted by `clean_pairs`.
EQUAL, EQUAL_RATINGS, NO_RESPONSE, NO_PROMPT = "equal responses", "equal ratings", "empty response", "empty prompt"
DIFFERENT_PROMPTS, NO_USER_TURN, TOO_LONG = "different prompts", "prompt without a last user turn", "prompt too long"
REASONS = (EQUAL, EQUAL_RATINGS, NO_RESPONSE, NO_PROMPT, DIFFERENT_PROMPTS, NO_USER_TURN, TOO_LONG)
_MISSING = {"system": NO_PROMPT, "user": NO_PROMPT, "assistant": NO_RESPONSE}
_NOUN = re.compile(r"\b(prompt|response)\b")
# TRL renders these into its training text; scoring and generation here would ignore them.
UNSUPPORTED = ("image", "images", "tools", "chat_template_kwargs")


class _Layout(NamedTuple):
    """The columns to read: of the two responses, or of rated ones; of the prompt; of a system turn."""

    sides: tuple[str, ...]
    prompts: tuple[str, ...]
    systems: tuple[str, ...]


def to_pairs(dataset: Dataset, name: str) -> Dataset:
    """Preference pairs of any layout (docs/data.md) in one: `prompt`, messages that end in a user turn; `chosen` and
    `rejected`, one assistant message each; other columns unchanged. A row that is not a preference is refused."""
    return _convert(dataset, name, _pair, PAIR_FEATURES)


def clean_pairs(dataset: Dataset, name: str, *, max_prompt_chars: int | None = None) -> tuple[Dataset, dict[str, int]]:
    """`to_pairs` for large public datasets: rows that are not preferences, or whose prompt has more than
    `max_prompt_chars` characters, are dropped and counted by reason. Content of another type or an unknown role is
    still refused."""
    check_whole("max_prompt_chars", max_prompt_chars, 1, optional=True)
    dropped: Counter[str] = Counter()
    pairs = _convert(dataset, name, partial(_pair, max_prompt_chars=max_prompt_chars), PAIR_FEATURES, dropped)
    return pairs, {reason: dropped[reason] for reason in REASONS if dropped[reason]}


def describe_counts(counts: dict[str, int]) -> str:
    """Counts in one line: `3 equal responses, 2 empty prompts, 1 prompt too long`."""
    named = {reason: reason if count == 1 else _NOUN.sub(r"\1s", reason) for reason, count in counts.items()}
    return ", ".join(f"{count:,} {named[reason]}" for reason, count in counts.items()) or "none"


def to_prompts(dataset: Dataset, name: str) -> Dataset:
    """A pool of prompts or pairs of any layout (docs/data.md) as `prompt`, messages that end in a user turn. Every
    other column but `chosen`, `rejected` and `messages` is unchanged."""
    return _convert(dataset, name, _prompt, PROMPT_FEATURES)


def prompt_key(prompt: list[Message]) -> bytes:
    """16 bytes that prompts share if their roles and words agree, whatever their white space and case."""
    digest = hashlib.blake2b(digest_size=16)
    for message in prompt:
        words = " ".join(message["content"].split()).casefold()
        digest.update(f"{message['role']}\0{words}\0".encode())
    return digest.digest()


def distinct_rows(prompts: Iterable[list[Message]], seen: set[bytes] | None = None) -> np.ndarray:
    """Rows of the first occurrence of each prompt; keys in `seen` occurred earlier, and new ones are added to it."""
    seen = set() if seen is None else seen
    rows = []
    for row, prompt in enumerate(prompts):
        key = prompt_key(prompt)
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return np.array(rows, dtype=np.int64)


def _convert(
    dataset: Dataset, name: str, convert: Callable, features: Features, dropped: Counter[str] | None = None
) -> Dataset:
    """Converts rows; bad ones are counted in `dropped`, or refused if it is None or the error has no reason."""
    replaced = list(PAIR_FEATURES) if features is PAIR_FEATURES else [*PAIR_FEATURES, "messages"]
    layout = _find_layout(dataset, name, features)
    dataset = without_empty(dataset, UNSUPPORTED, name, "text only")
    converted, good = [], []
    for index, row in enumerate(read_columns(dataset, sum(layout, ()), name)):
        try:
            converted.append(convert(row, layout))
        except _BadRow as error:
            if dropped is None or error.reason is None:
                raise InputError(f"{name_row(name, index)}: {error}") from None
            dropped[error.reason] += 1
        else:
            good.append(index)
    if not good:
        raise InputError(f"{name}: none of the {len(dataset)} rows is a preference: {describe_counts(dropped)}.")
    result = Dataset.from_list(converted, features=features)
    # Without the card, which `datasets` would merge.
    dataset = Dataset(dataset.data) if dataset._indices is None else dataset.flatten_indices()
    others = dataset.select_columns([column for column in dataset.column_names if column not in replaced])
    if not others.column_names:
        return result
    return concatenate_datasets([result, others if len(good) == len(dataset) else others.select(good)], axis=1)


def _find_layout(dataset: Dataset, name: str, features: Features) -> _Layout:
    if len(dataset) == 0:
        raise InputError(f"{name} has no rows; allowed: at least one.")
    columns, are_pairs = dataset.column_names, features is PAIR_FEATURES
    sides = next((pair for pair in (_SIDES + _RATED if are_pairs else _SIDES) if {*pair} <= {*columns}), ())
    prompts = ("prompt",) if "prompt" in columns else tuple(column for column in OTHER_PROMPTS if column in columns)
    if not sides and (are_pairs or not prompts):
        what = repr("rejected" if "chosen" in columns else "chosen") if are_pairs else "prompt"
        allowed = PAIR_LAYOUTS if are_pairs else PROMPT_LAYOUTS
        raise InputError(f"{name} has the columns {columns} and no {what}; allowed: {allowed}.")
    return _Layout(sides, prompts, tuple(column for column in _SYSTEMS if column in columns))


class _BadRow(Exception):
    """A bad row; the message does not name it. The reason is None for rows that no dataset should have."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


def _pair(row: dict[str, Any], layout: _Layout, *, max_prompt_chars: int | None = None) -> dict[str, list[Message]]:
    is_rated = layout.sides in _RATED
    sides = _best_and_worst(row, *layout.sides) if is_rated else {column: row[column] for column in layout.sides}
    (prompt, chosen), (rejected_prompt, rejected) = (_split(row, layout, *side) for side in sides.items())
    for column, response in zip(sides, (chosen, rejected), strict=True):
        if not response["content"].strip():
            raise _BadRow(f"the response of {column} is empty; allowed: some text.", NO_RESPONSE)
    if prompt != rejected_prompt:
        both = " and ".join(map(repr, sides))
        raise _BadRow(f"the prompts of {both} differ; allowed: one prompt.", DIFFERENT_PROMPTS)
    if chosen["content"].strip() == rejected["content"].strip():
        equal = f"{' and '.join(sides)} are equal ({shorten(chosen['content'])})"
        raise _BadRow(f"{equal}; allowed: two different responses.", EQUAL)
    if max_prompt_chars is not None and sum(len(message["content"]) for message in prompt) > max_prompt_chars:
        raise _BadRow(f"the prompt has more than {max_prompt_chars} characters.", TOO_LONG)
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected]}


def _best_and_worst(row: dict[str, Any], responses: str, ratings: str) -> dict[str, Any]:
    """The first response of the highest rating, and of the lowest; null means unrated."""
    texts, numbers = row[responses], row[ratings]
    are_lists = isinstance(texts, list) and isinstance(numbers, list) and len(texts) == len(numbers)
    if not are_lists or any(type(number) not in (int, float, type(None)) for number in numbers):
        found = f"{responses} is {shorten(texts)} and {ratings} is {shorten(numbers)}"
        reason = NO_RESPONSE if is_empty(texts) or is_empty(numbers) else None
        raise _BadRow(f"{found}; allowed: two lists of one length, of responses and of numbers.", reason)
    rated = [place for place, number in enumerate(numbers) if number is not None and number == number]
    best, worst = (pick(rated, key=numbers.__getitem__, default=0) for pick in (max, min))
    if not rated or numbers[best] == numbers[worst]:
        raise _BadRow(f"{ratings} is {shorten(numbers)}; allowed: two different numbers.", EQUAL_RATINGS)
    return {f"{responses}[{place}]": texts[place] for place in (best, worst)}


def _prompt(row: dict[str, Any], layout: _Layout) -> dict[str, list[Message]]:
    for column in layout.sides[:1]:
        value = row[column]
        if not layout.prompts or _is_dialogue(value) or (isinstance(value, list) and len(value) > 1):
            return {"prompt": _split(row, layout, column, value)[0]}
    return {"prompt": _checked_prompt(row, layout, _stated_prompt(row, layout, answered=True), layout.prompts[0])}


def _split(row: dict[str, Any], layout: _Layout, column: str, value: Any) -> tuple[list[Message], Message]:
    """Prompt and response of one side of a pair."""
    *prompt, response = _turns(value, column, "assistant")
    if (role := response["role"]) != "assistant":
        raise _BadRow(f"{column} ends in a turn of {role!r}; allowed: an assistant turn.", NO_RESPONSE)
    where, stated = column, row.get("prompt")
    if not prompt:
        if not layout.prompts:
            raise _BadRow(f"{column} holds a response and no prompt; allowed: {PAIR_LAYOUTS}.")
        prompt, where = _stated_prompt(row, layout), layout.prompts[0]
    elif (isinstance(stated, list) or _is_dialogue(stated)) and prompt != _stated_prompt(row, layout):
        raise _BadRow(f"{column} begins with other messages than 'prompt'; allowed: these, or none.", DIFFERENT_PROMPTS)
    return _checked_prompt(row, layout, prompt, where), response


def _stated_prompt(row: dict[str, Any], layout: _Layout, *, answered: bool = False) -> list[Message]:
    """The prompt in a column of its own; if `answered`, a conversation may end in the answer, which is left out."""
    columns = [column for column in layout.prompts if not is_empty(row[column])] or layout.prompts[:1]
    found = []
    for column in columns:
        *turns, last = _turns(row[column], column, "user")
        is_whole = column in _TURNS or _is_dialogue(row[column])
        # A dialogue opens the assistant's turn.
        is_answer = is_whole and last["role"] == "assistant" and (answered or not last["content"])
        found.append(turns if is_answer else [*turns, last])
    if any(turns != found[0] for turns in found):
        named = ", ".join(map(repr, columns))
        raise _BadRow(f"there are prompts in {named}, and they differ; allowed: one of them, or a column 'prompt'.")
    return found[0]


def _checked_prompt(row: dict[str, Any], layout: _Layout, prompt: list[Message], where: str) -> list[Message]:
    """A prompt that begins with the system turn of the row, if it has one."""
    last = prompt[-1]["role"] if prompt else None
    if last != "user":
        raise _BadRow(f"the prompt in {where} ends in a turn of {last!r}; allowed: a user turn.", NO_USER_TURN)
    if not prompt[-1]["content"].strip():
        raise _BadRow(f"the prompt in {where} is empty; allowed: some text.", NO_PROMPT)
    for column in layout.systems:
        turn = {"role": "system", "content": row[column]}
        if is_empty(row[column]) or prompt[0] == turn:
            continue
        if prompt[0]["role"] == "system" or not isinstance(row[column], str):
            allowed = f"a string, and the one of the system turn if {where} has one"
            raise _BadRow(f"{column} is {shorten(row[column])}; allowed: {allowed}.")
        prompt = [turn, *prompt]
    return prompt


def _is_dialogue(value: Any) -> bool:
    r"""Whether this is a text of turns, `\n\nHuman: ...\n\nAssistant: ...`, as in Anthropic's datasets."""
    return isinstance(value, str) and _DIALOGUE.match(value) is not None


def _turns(value: Any, column: str, writer: str) -> list[Message]:
    """The turns of one cell, at least one; a plain text is one turn of `writer`, and an object is one message."""
    if _is_dialogue(value):
        return _split_dialogue(value)
    if isinstance(value, str) and column not in _TURNS:
        return [{"role": writer, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        allowed = "a string or a list of messages with role and content (or from and value)"
        raise _BadRow(f"{column} is {shorten(value)}; allowed: {allowed}.", None if value else _MISSING[writer])
    return [_read_message(message, column) for message in value]


def _read_message(message: Any, column: str) -> Message:
    given = message if isinstance(message, dict) else {}
    role, content = (given.get(key) for key in (("from", "value") if given.get("from") else ("role", "content")))
    role = _SHAREGPT.get(role, role) if isinstance(role, str) else None
    if role not in ROLES:
        allowed = f"the roles {', '.join(ROLES)}, or ShareGPT's {', '.join(_SHAREGPT)}"
        raise _BadRow(f"{column} has a message {shorten(message)}; allowed: {allowed}.")
    if not isinstance(content, str):
        reason = _MISSING[role] if content is None else None
        raise _BadRow(f"{column} has content {shorten(content)} in a turn of {role!r}; allowed: a string.", reason)
    return {"role": role, "content": content}


def _split_dialogue(text: str) -> list[Message]:
    """The turns of a dialogue without the white space around them; turns of one speaker in a row are one."""
    _, *parts = _SPEAKER.split("\n\n" + text.lstrip())
    by_speaker = groupby(zip(parts[::2], parts[1::2], strict=True), key=lambda part: part[0])
    said = ((speaker, "\n\n".join(text.strip() for _, text in turns)) for speaker, turns in by_speaker)
    return [{"role": _SPEAKERS[speaker], "content": text.strip()} for speaker, text in said]
