"""Prompts to compare policies on, and files of answers to them, which are kept or filled in."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from sgpo.choices import Failure
from sgpo.errors import InputError, shorten
from sgpo.evaluate.row_files import Row, list_missing, read_rows, rows_by_key
from sgpo.policy.sampling import Generator, Sampling
from sgpo.policy.tokens import Messages
from sgpo.preferences.source import load_prompts
from sgpo.store.files import is_unicode, name_rows, write_json
from sgpo.store.progress import Advance

NOT_UNICODE = "not_unicode"  # The reason of an answer with half of a surrogate pair, cut within a character.


class Answers(NamedTuple):
    """(P,) answers to P prompts with the name of their model, tokens and finish reasons; None: the file lacks them.

    A text of None is no answer; its finish reason says why.
    """

    texts: list[str | None]
    name: str
    n_tokens: list[int | None]
    finish_reasons: list[str | None]

    @property
    def cut(self) -> int | None:
        """How many ended at the token limit, if all finish reasons are known."""
        return None if None in self.finish_reasons else self.finish_reasons.count("length")

    @property
    def tokens(self) -> float | None:
        """Their mean number of tokens, if all are known."""
        known = [count for count, text in zip(self.n_tokens, self.texts, strict=True) if text is not None]
        return None if not known or None in known else sum(known) / len(known)


def missing(*sides: Answers) -> list[Failure | None]:
    """Why a prompt has no answer on one of the sides, (P,); None where all have one."""
    rows = zip(*(zip(side.texts, side.finish_reasons, strict=True) for side in sides), strict=True)
    return [next((reason or "no_answer" for text, reason in row if text is None), None) for row in rows]


def by_reason(failures: Sequence[Failure | None], names: Sequence[Any] | None = None) -> dict[Failure, list[Any]]:
    """The rows, or their names, that lack something, by the reason."""
    names = range(len(failures)) if names is None else names
    found: dict[Failure, list[Any]] = {}
    for failure, name in zip(failures, names, strict=True):
        if failure is not None:
            found.setdefault(failure, []).append(name)
    return found


def describe_answers(policy: Answers, baseline: Answers | None = None) -> dict[str, Any]:
    """Both sides' names, the answers of the policy that were cut, and the rows that each side has no answer to."""
    sides = {"policy": policy} if baseline is None else {"policy": policy, "baseline": baseline}
    absent = {who: [row for row, text in enumerate(one.texts) if text is None] for who, one in sides.items()}
    return {"policy": policy.name, "baseline": baseline and baseline.name, "cut": policy.cut, "unanswered": absent}


def read_prompts(path: str | Path, *, split: str | None = None) -> list[Messages]:
    """Reads P distinct prompts: what `sgpo run` takes as prompts, such as AlpacaEval's `instruction`."""
    prompts = load_prompts(path, split=split)["prompt"][:]
    names = name_rows(path, len(prompts))
    placed = [Row(name, {"prompt": prompt}) for name, prompt in zip(names, prompts, strict=True)]
    rows_by_key(placed, lambda row: _key(row.values["prompt"]), "prompt")
    return prompts


def is_answer_file(path: str | Path) -> bool:
    """Whether a path names a file of answers, .json or .jsonl, and not a policy."""
    return Path(path).suffix in (".json", ".jsonl") and not Path(path).is_dir()


def read_answers_to(path: str | Path, prompts: Sequence[Messages], *, others: bool = True) -> Answers:
    """Reads the answers to P prompts, in the order of the prompts; those to `others` are ignored, or else refused.

    A row has `output` or `response`, the `instruction` or `prompt` (text or messages) that it answers, byte for byte,
    and optionally `generator`, `n_tokens` and `finish_reason`: AlpacaEval's model_outputs.json is such a file. An
    answer may be null if its finish reason says why.
    """
    rows = read_rows(path)
    found = rows_by_key(rows, _row_key, "prompt")
    absent = [place for place, prompt in enumerate(prompts) if _key(prompt) not in found]
    if absent:
        shown = list_missing([f"{place} ({shorten(prompts[place][-1]['content'], 40)})" for place in absent])
        raise InputError(
            f"{path} lacks an answer to {len(absent)} of {len(prompts)} prompts, rows {shown}; allowed: an answer to "
            "each of them, whose prompt is the same byte for byte."
        )
    if not others and (more := [key for key in found if key not in set(map(_key, prompts))]):
        count = f"{shorten(more[0])} is none of the {len(prompts)} prompts, as are {len(more)} of {len(rows)} in all"
        raise InputError(f"{found[more[0]].where}: {count}; allowed: answers to these alone.")
    rows = [found[_key(prompt)] for prompt in prompts]
    names = {None if row.values.get("generator") is None else row.name("generator") for row in rows}
    texts, reasons = map(list, zip(*map(_answer, rows), strict=True))
    n_tokens = [None if row.values.get("n_tokens") is None else row.whole("n_tokens") for row in rows]
    name = names.pop() if len(names) == 1 else None
    return Answers(texts, str(path) if name is None else name, n_tokens, reasons)


def write_answers_to(path: str | Path, prompts: Sequence[Messages], answers: Answers) -> Path:
    """Writes a file that `read_answers_to` reads, and returns its path."""
    keys, names = ("prompt", "response", "generator", "n_tokens", "finish_reason"), [answers.name] * len(prompts)
    rows = zip(map(list, prompts), answers.texts, names, answers.n_tokens, answers.finish_reasons, strict=True)
    return write_json(path, [dict(zip(keys, row, strict=True)) for row in rows])


def kept_answers(kept: Path | None, prompts: Sequence[Messages], name: str) -> Answers:
    """The answers in a file, or P answers without text and finish reason if there is no file yet."""
    if kept is not None and kept.is_file():
        return read_answers_to(kept, prompts)
    return Answers([None] * len(prompts), name, [None] * len(prompts), [None] * len(prompts))


def answer_rows(
    generator: Generator,
    answers: Answers,
    rows: Sequence[int],
    prompts: Sequence[Messages],
    seeds: Sequence[int],
    sampling: Sampling,
    progress: Advance,
) -> None:
    """Fills in the answers to some of P prompts; a failed response leaves no text, and its reason."""
    asked = [prompts[row] for row in rows], [seeds[row] for row in rows]
    for row, [response] in zip(rows, generator.generate(*asked, sampling, progress=progress), strict=True):
        answers.texts[row] = None if response.failed else response.text
        answers.n_tokens[row], answers.finish_reasons[row] = response.n_tokens, response.finish_reason


def answers_key(path: str, prompts: Sequence[Messages], conditions: dict[str, Any]) -> str:
    """A name for a policy's answers: it changes with the policy's files, the prompts and how they are sampled."""
    folder = Path(path)
    # Sizes and times tell a policy that was trained again from the one before, without reading gigabytes of weights.
    files = [
        [file.name, file.stat().st_size, file.stat().st_mtime_ns]
        for file in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if file.is_file()
    ]
    name = str(folder.resolve()) if folder.is_dir() else path
    content = json.dumps([name, files, [list(prompt) for prompt in prompts], conditions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _key(prompt: Messages) -> str:
    """A prompt as a text that identifies it: the content of a single user turn."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return json.dumps([[message["role"], message["content"]] for message in prompt], ensure_ascii=False)


def _answer(row: Row) -> tuple[str | None, str | None]:
    """The text of a row and its finish reason; a text that is not Unicode is none."""
    key = "output" if "output" in row.values else "response"
    reason = None if row.values.get("finish_reason") is None else row.name("finish_reason")
    if row.values.get(key) is None and reason is not None:
        return None, reason if reason in get_args(Failure) else "no_answer"
    text = row.text(key)
    return (text, reason) if is_unicode(text) else (None, NOT_UNICODE)


def _row_key(row: Row) -> str:
    value = row.values.get("instruction", row.values.get("prompt"))
    if isinstance(value, str):
        return value
    messages = value if isinstance(value, list) and value else [None]
    texts = [one.get(key) if isinstance(one, dict) else None for one in messages for key in ("role", "content")]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{row.where}: 'instruction' or 'prompt' is {shorten(value)}; allowed: a string or a list of messages."
        )
    return _key(messages)
