"""MT-Bench's files in FastChat's layout: questions and two-turn answers."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sgpo.errors import InputError
from sgpo.evaluate.row_files import Row, read_rows, refuse_duplicates, shorten, write_jsonl

# FastChat's fastchat/llm_judge/common.py; other categories are sampled at the default.
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
    "arena-hard-200": 0.0,
}
DEFAULT_TEMPERATURE = 0.7


class Question(NamedTuple):
    """One question: the user's turns, and reference answers if there are any."""

    question_id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] | None

    @property
    def temperature(self) -> float:
        """The sampling temperature of its category."""
        return TEMPERATURES.get(self.category, DEFAULT_TEMPERATURE)


def read_questions(path: str | Path) -> list[Question]:
    """Reads FastChat's question.jsonl.

    Raises:
        InputError: naming the line: an id that is not an integer or is repeated, a category or turn that is not a text,
            or a number of references that differs from that of turns.
    """
    rows = read_rows(path)
    refuse_duplicates(((question_id_of(row), row.where) for row in rows), "question_id")
    return [_question(row) for row in rows]


def by_temperature(questions: Sequence[Question]) -> dict[float, list[int]]:
    """Indices of the questions that are sampled at each temperature, both in ascending order."""
    groups: dict[float, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(question.temperature, []).append(place)
    return dict(sorted(groups.items()))


def next_conversation(question: Question, answered: Sequence[str] = ()) -> list[dict[str, str]]:
    """The conversation up to the first turn that has no answer yet.

    Args:
        question: the question.
        answered: the model's own answers to the turns before.

    Raises:
        InputError: every turn has an answer.
    """
    if len(answered) >= len(question.turns):
        raise InputError(
            f"answered holds {len(answered)} answers to question {question.question_id}; allowed: fewer than its "
            f"{len(question.turns)} turns."
        )
    messages = []
    for asked, answer in zip(question.turns, answered, strict=False):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": question.turns[len(answered)]}]


def write_answers(
    path: str | Path,
    questions: Sequence[Question],
    turns: Sequence[Sequence[str]],
    model_id: str,
    *,
    created: float | None = None,
) -> Path:
    """Writes FastChat's model_answer/NAME.jsonl, and returns its path.

    Args:
        path: NAME.jsonl, because FastChat reads the model's name from the name of the file.
        questions: Q questions.
        turns: (Q,) the model's answers, one per turn.
        model_id: name of the model.
        created: seconds since 1970; None uses the present. Ids of answers depend on the texts alone.

    Raises:
        InputError: the file is not named after the model, or a turn has no answer.
    """
    path = Path(path)
    if path.name != f"{model_id}.jsonl":
        raise InputError(f"path ends in {path.name!r}; allowed: {model_id}.jsonl, as FastChat reads the name there.")
    if len(turns) != len(questions):
        raise InputError(f"turns has {len(turns)} rows; allowed: one for each of {len(questions)} questions.")
    created = time.time() if created is None else created
    return write_jsonl(path, [_answer(*pair, model_id, created) for pair in zip(questions, turns, strict=True)])


def question_id_of(row: Row) -> int:
    """The id of the question that a row is about; raises InputError if it is not an integer."""
    value = row.values.get("question_id")
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{row.where}: 'question_id' is {shorten(value)}; allowed: an integer.")
    return value


def _question(row: Row) -> Question:
    turns = _texts(row, "turns", row.values.get("turns"))
    reference = row.values.get("reference")
    if reference is not None:
        reference = _texts(row, "reference", reference)
        if len(reference) != len(turns):
            raise InputError(f"{row.where}: 'reference' holds {len(reference)} texts; allowed: {len(turns)}, as turns.")
    return Question(question_id_of(row), row.text("category"), turns, reference)


def _texts(row: Row, name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise InputError(f"{row.where}: {name!r} is {shorten(value)}; allowed: a list of strings, one for each turn.")
    return tuple(value)


def _answer(question: Question, turns: Sequence[str], model_id: str, created: float) -> dict:
    if len(turns) != len(question.turns) or not all(isinstance(text, str) for text in turns):
        raise InputError(
            f"turns of question {question.question_id} is {shorten(list(turns))}; allowed: {len(question.turns)} "
            "strings, one for each turn."
        )
    content = "\x00".join([model_id, str(question.question_id), *turns])
    return {
        "question_id": question.question_id,
        "answer_id": uuid.uuid5(uuid.NAMESPACE_OID, content).hex,
        "model_id": model_id,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": created,
    }
