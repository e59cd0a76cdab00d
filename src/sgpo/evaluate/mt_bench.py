"""MT-Bench in FastChat's layout: questions and a policy's two-turn answers."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sgpo.errors import InputError, shorten
from sgpo.evaluate.row_files import Row, read_rows, rows_by_key
from sgpo.policy.sampling import Generator, Response, Sampling, prompt_seeds
from sgpo.store.files import is_unicode, write_jsonl
from sgpo.store.progress import Advance

# FastChat's fastchat/llm_judge/common.py; writing, roleplay and unknown categories are sampled at the default.
TEMPERATURES = dict.fromkeys(("extraction", "math", "coding", "reasoning", "arena-hard-200"), 0.0)
TEMPERATURES |= dict.fromkeys(("stem", "humanities"), 0.1)
DEFAULT_TEMPERATURE = 0.7
# What FastChat writes for a turn without an answer (API_ERROR_OUTPUT): it judges only files with all turns.
NO_ANSWER = "$ERROR$"


class Question(NamedTuple):
    """One question: the user's turns, and reference answers if there are any."""

    question_id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] | None


def read_questions(path: str | Path) -> list[Question]:
    """Reads FastChat's question.jsonl.

    Raises:
        InputError: naming the line: an id that is not an integer or is repeated, a category or turn that is not a text,
            or a number of references that differs from that of turns.
    """
    rows = read_rows(path)
    rows_by_key(rows, lambda row: row.whole("question_id"), "question_id")
    return [_question(row) for row in rows]


def by_temperature(questions: Sequence[Question]) -> dict[float, list[int]]:
    """Indices of the questions that are sampled at each temperature, both in ascending order."""
    found = [TEMPERATURES.get(question.category, DEFAULT_TEMPERATURE) for question in questions]
    return {one: [place for place, other in enumerate(found) if other == one] for one in sorted(set(found))}


def next_conversation(question: Question, answered: Sequence[str] = ()) -> list[dict[str, str]]:
    """The conversation up to the first turn that has no answer yet.

    `answered` are the model's own answers to the turns before. Raises InputError if every turn has an answer.
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


def answer_questions(
    generator: Generator, questions: Sequence[Question], *, max_new_tokens: int, seed: int, progress: Advance
) -> list[list[Response]]:
    """A policy's answers to all turns of Q questions, turn by turn, at the temperature of their category, with a seed
    for each turn. After a turn that has no answer the next ones have none either, for the same reason."""
    turns: list[list[Response]] = [[] for _ in questions]
    longest = max(len(question.turns) for question in questions)
    for temperature, places in by_temperature(questions).items():
        sampling = Sampling(n=1, temperature=temperature, max_new_tokens=max_new_tokens)
        for turn in range(longest):
            left = [place for place in places if len(questions[place].turns) > turn]
            asked = [place for place in left if not (turns[place] and turns[place][-1].failed)]
            texts = [[response.text for response in turns[place]] for place in asked]
            prompts = [next_conversation(questions[place], before) for place, before in zip(asked, texts, strict=True)]
            seeds = [prompt_seeds(seed, 1, first=place * longest + turn)[0] for place in asked]
            rows = generator.generate(prompts, seeds, sampling, progress=progress) if asked else []
            found = {place: row[0] for place, row in zip(asked, rows, strict=True)}
            for place in left:
                turns[place].append(found.get(place) or turns[place][-1])
            progress(len(left) - len(asked))
    return turns


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
        model_id: NAME.
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
    rows = []
    for question, answers in zip(questions, turns, strict=True):
        if len(answers) != len(question.turns) or not all(isinstance(text, str) for text in answers):
            raise InputError(
                f"turns of question {question.question_id} is {shorten(list(answers))}; allowed: "
                f"{len(question.turns)} strings, one for each turn."
            )
        content = "\x00".join([model_id, str(question.question_id), *answers])
        rows.append(
            {
                "question_id": question.question_id,
                "answer_id": uuid.uuid5(uuid.NAMESPACE_OID, content).hex,
                "model_id": model_id,
                "choices": [{"index": 0, "turns": list(answers)}],
                "tstamp": created,
            }
        )
    return write_jsonl(path, rows)


def _question(row: Row) -> Question:
    turns = _texts(row, "turns")
    reference = None if row.values.get("reference") is None else _texts(row, "reference")
    if reference is not None and len(reference) != len(turns):
        raise InputError(f"{row.where}: 'reference' holds {len(reference)} texts; allowed: {len(turns)}, as turns.")
    return Question(row.whole("question_id"), row.name("category"), turns, reference)


def _texts(row: Row, key: str) -> tuple[str, ...]:
    texts = value if isinstance(value := row.values.get(key), list) else []
    if not texts or not all(isinstance(text, str) and is_unicode(text) for text in texts):
        raise row.wrong(key, "a list of strings, one for each turn")
    return tuple(texts)
