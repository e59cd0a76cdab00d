"""Prompts to compare policies on, and files of answers to them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sgpo.errors import InputError
from sgpo.evaluate.row_files import Row, read_rows, refuse_duplicates, shorten, write_json
from sgpo.policy.tokens import Messages

ANSWER_SUFFIXES = (".json", ".jsonl")


class NamedAnswers(NamedTuple):
    """Answers to P prompts, in their order, and who gave them."""

    texts: list[str]
    name: str


def read_prompts(path: str | Path, *, split: str | None = None) -> list[Messages]:
    """Reads prompts, each once: P conversations that end in a user turn.

    Args:
        path: what `sgpo.preferences.source.load_prompts` reads, or rows with AlpacaEval's `instruction`.
        split: which split, where the source has splits.

    Raises:
        InputError: what `load_prompts` raises, or a prompt that comes twice.
    """
    from sgpo.preferences.layout import to_prompts
    from sgpo.preferences.source import load_rows

    rows = load_rows(path, split=split)
    names = rows.column_names
    if "instruction" in names and not {"prompt", "messages", "chosen"} & set(names):
        rows = rows.select_columns(["instruction"]).rename_column("instruction", "prompt")
    prompts = to_prompts(rows, str(path))["prompt"][:]
    refuse_duplicates(((_key(prompt), f"{path} row {row}") for row, prompt in enumerate(prompts)), "prompt")
    return prompts


def is_answer_file(path: str | Path) -> bool:
    """Whether a path names a file of answers, .json or .jsonl, rather than a policy."""
    return Path(path).suffix in ANSWER_SUFFIXES and not Path(path).is_dir()


def read_answers_to(path: str | Path, prompts: Sequence[Messages]) -> NamedAnswers:
    """Reads the answers to P prompts from a file, in the prompts' order.

    Args:
        path: .json or .jsonl, rows with `output` or `response`, the `instruction` or `prompt` (text, or messages) that
            it answers, to the byte, and perhaps `generator`: AlpacaEval's model_outputs.json is such a file.
        prompts: P conversations. Answers to further prompts are left alone.

    Raises:
        InputError: naming the row: a prompt that comes twice, a text that is none; or naming prompts without an answer.
    """
    rows = read_rows(path)
    keys = [_row_key(row) for row in rows]
    refuse_duplicates(zip(keys, [row.where for row in rows], strict=True), "prompt")
    found = dict(zip(keys, rows, strict=True))
    absent = [place for place, prompt in enumerate(prompts) if _key(prompt) not in found]
    if absent:
        shown = ", ".join(f"{place} ({shorten(prompts[place][-1]['content'], 40)})" for place in absent[:3])
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise InputError(
            f"{path} lacks an answer to {len(absent)} of {len(prompts)} prompts, rows {shown}{more}; allowed: an "
            "answer to each of them, whose prompt is theirs to the byte."
        )
    rows = [found[_key(prompt)] for prompt in prompts]
    names = {row.values.get("generator") for row in rows}
    name = names.pop() if len(names) == 1 else None
    return NamedAnswers([_answer(row) for row in rows], name if isinstance(name, str) else str(path))


def write_answers_to(path: str | Path, prompts: Sequence[Messages], answers: NamedAnswers) -> Path:
    """Writes a file that `read_answers_to` reads, and returns its path."""
    rows = zip(prompts, answers.texts, strict=True)
    return write_json(
        path, ({"prompt": list(prompt), "response": text, "generator": answers.name} for prompt, text in rows)
    )


def _key(prompt: Messages) -> str:
    """A prompt as a text that names it: a lone user turn by its content."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return json.dumps([[message["role"], message["content"]] for message in prompt], ensure_ascii=False)


def _row_key(row: Row) -> str:
    value = row.values.get("instruction", row.values.get("prompt"))
    if isinstance(value, str):
        return value
    messages = value if isinstance(value, list) and value else [None]
    for message in messages:
        is_message = isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not is_message:
            raise InputError(
                f"{row.where}: 'instruction' or 'prompt' is {shorten(value)}; allowed: a string or a list of messages."
            )
    return _key(messages)


def _answer(row: Row) -> str:
    return row.text("output" if "output" in row.values else "response")
