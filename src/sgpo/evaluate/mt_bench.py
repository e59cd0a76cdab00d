"""MT-Bench's files in FastChat's layout: questions, two-turn answers, judgements."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sgpo.errors import InputError
from sgpo.evaluate.row_files import Row, read_rows, refuse_duplicates, refuse_mixed, shorten, write_jsonl

# FastChat's fastchat/llm_judge/common.py; a category that is not here is sampled at the default.
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
    """One question: what the user says at each turn, and answers to compare with where there are any."""

    question_id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] | None

    @property
    def temperature(self) -> float:
        """The sampling temperature of its category."""
        return TEMPERATURES.get(self.category, DEFAULT_TEMPERATURE)


class Answers(NamedTuple):
    """A model's answers: (Q,) question ids, and (Q,) what it said at each turn."""

    question_ids: list[int]
    turns: list[tuple[str, ...]]
    model_id: str


def read_questions(path: str | Path) -> list[Question]:
    """Reads FastChat's question.jsonl.

    Raises:
        InputError: naming the line: an id that is no integer or comes twice, a category that is no text, turns that
            are no texts, or as many references as turns are not there.
    """
    rows = read_rows(path)
    refuse_duplicates(((question_id_of(row), row.where) for row in rows), "question_id")
    return [_question(row) for row in rows]


def by_temperature(questions: Sequence[Question]) -> dict[float, list[int]]:
    """Places of the questions that are sampled at each temperature, both in ascending order."""
    groups: dict[float, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(question.temperature, []).append(place)
    return dict(sorted(groups.items()))


def next_conversation(question: Question, answered: Sequence[str] = ()) -> list[dict[str, str]]:
    """The conversation to answer next: the user's turns, with the model's own answers to those before the last.

    Args:
        question: what is asked.
        answered: the model's answers so far; none for the first turn, one for the second.

    Raises:
        InputError: every turn is answered already.
    """
    if len(answered) >= len(question.turns):
        raise InputError(
            f"answered holds {len(answered)} answers to question {question.question_id}; allowed: fewer than its "
            f"{len(question.turns)} turns."
        )
    messages = []
    for said, answer in zip(question.turns, answered, strict=False):
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
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
        path: where to, NAME.jsonl with the model's name, for FastChat takes the name of a model from its file.
        questions: Q questions.
        turns: (Q,) the model's answers, one for each turn.
        model_id: name of the model.
        created: seconds since 1970; None: now. The ids of answers depend on what is said alone.

    Raises:
        InputError: the file is not named after the model, or a turn has no answer.
    """
    path = Path(path)
    if path.name != f"{model_id}.jsonl":
        raise InputError(f"path ends in {path.name!r}; allowed: {model_id}.jsonl, for FastChat reads the name there.")
    if len(turns) != len(questions):
        raise InputError(f"turns has {len(turns)} rows; allowed: one for each of {len(questions)} questions.")
    created = time.time() if created is None else created
    return write_jsonl(path, [_answer(*pair, model_id, created) for pair in zip(questions, turns, strict=True)])


def read_answers(path: str | Path, questions: Sequence[Question] | None = None) -> Answers:
    """Reads a model_answer file; of several choices the first, as FastChat's judge does.

    Args:
        path: the file.
        questions: the questions, each to be answered at every turn; None checks nothing against them.

    Raises:
        InputError: naming the line: a question that comes twice, mixed models, turns that are no texts; or naming
            questions without an answer, or without one at a turn.
    """
    rows = read_rows(path)
    refuse_duplicates(((question_id_of(row), row.where) for row in rows), "question_id")
    model_id = refuse_mixed([(row.text("model_id"), row.where) for row in rows], "model_id")
    answers = Answers([question_id_of(row) for row in rows], [_first_choice(row) for row in rows], model_id)
    if questions is not None:
        turns_of = dict(zip(answers.question_ids, answers.turns, strict=True))
        for question in questions:
            given = len(turns_of.get(question.question_id, ()))
            if given < len(question.turns):
                raise InputError(
                    f"{path} lacks the answer to turn {given + 1} of question {question.question_id}; allowed: one "
                    f"for each of its {len(question.turns)} turns."
                )
    return answers


def question_id_of(row: Row) -> int:
    """The id of the question a row is about; raises InputError where it is no integer."""
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


def _first_choice(row: Row) -> tuple[str, ...]:
    choices = row.values.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise InputError(f"{row.where}: 'choices' is {shorten(choices)}; allowed: a list of objects with turns.")
    return _texts(row, "choices[0].turns", choices[0].get("turns"))


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
    said = "\x00".join([model_id, str(question.question_id), *turns])
    return {
        "question_id": question.question_id,
        "answer_id": uuid.uuid5(uuid.NAMESPACE_OID, said).hex,
        "model_id": model_id,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": created,
    }
