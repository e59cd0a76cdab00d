"""MT-Bench's judgments, and their averages by category and turn."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.evaluate.mt_bench import Question
from sgpo.evaluate.row_files import Row, list_missing, read_rows, rows_by_key, the_only
from sgpo.stats.intervals import mean_interval

SCALE = (0.0, 10.0)
# -1 is FastChat's sign for a score that it could not read.
_SCORES = "0 to 10, or -1 for none"


class Judgments(NamedTuple):
    """One model's scores by one judge.

    Attributes:
        question_ids, categories, turns: (N,) of each judgment; turns count from 1.
        scores: (N,) from 0 to 10; nan if the judge's score could not be read.
        model, judge: names.
    """

    question_ids: np.ndarray
    categories: np.ndarray
    turns: np.ndarray
    scores: np.ndarray
    model: str
    judge: str


class Average(NamedTuple):
    """A mean score with its 95% interval over questions, the number of judgments and how many could not be read.

    The mean is nan if nothing could be read, and so are the ends of an interval over one question.
    """

    mean: float
    low: float
    high: float
    judgments: int
    failed: int


class MTBench(NamedTuple):
    """MT-Bench's averages: of all judgments, by turn, by category, and by both."""

    overall: Average
    by_turn: dict[int, Average]
    by_category: dict[str, Average]
    by_category_and_turn: dict[tuple[str, int], Average]


def read_judgments(path: str | Path, questions: Sequence[Question], *, model: str | None = None) -> Judgments:
    """Reads FastChat's model_judgment/JUDGE_single.jsonl.

    Args:
        path: the file; FastChat appends every model to the same one.
        questions: the questions, all turns of which must be judged; they also name the categories.
        model: the model whose judgments are read; None: the file's only model.

    Raises:
        InputError: naming the line: several models without `model`, more than one judge, a turn that is repeated or
            belongs to none of the questions, a score outside [0, 10] other than -1 (FastChat's sign for one that it
            could not read); or naming the question and turn without a judgment.
    """
    rows = read_rows(path)
    models = [row.text("model") for row in rows]
    model = the_only(models, rows, "model") if model is None else model
    rows = [row for row, name in zip(rows, models, strict=True) if name == model]
    if not rows:
        raise InputError(f"{path} holds no judgment of the model {model!r}; allowed: one of its models.")
    found = rows_by_key(rows, lambda row: (row.whole("question_id"), row.whole("turn")), "question and turn")
    judge = the_only([_judge(row) for row in rows], rows, "judge")
    _check_turns(questions, found, path)
    category_of = {question.question_id: question.category for question in questions}
    return Judgments(
        question_ids=np.array([question_id for question_id, _ in found]),
        categories=np.array([category_of[question_id] for question_id, _ in found]),
        turns=np.array([turn for _, turn in found]),
        scores=np.array([_score(row) for row in rows]),
        model=model,
        judge=judge,
    )


def average_judgments(judgments: Judgments) -> MTBench:
    """Averages of the scores that could be read, as FastChat computes them, with the number of failures.

    Intervals are over questions, because the turns of a question are not independent; they are clipped to the scale.
    """
    turns = {turn: judgments.turns == turn for turn in np.unique(judgments.turns).tolist()}
    categories = {name: judgments.categories == name for name in dict.fromkeys(judgments.categories.tolist())}
    return MTBench(
        overall=_average(judgments, np.full(len(judgments.scores), True)),
        by_turn={turn: _average(judgments, rows) for turn, rows in turns.items()},
        by_category={category: _average(judgments, rows) for category, rows in categories.items()},
        by_category_and_turn={
            (category, turn): _average(judgments, one & other)
            for category, one in categories.items()
            for turn, other in turns.items()
            if (one & other).any()
        },
    )


def _average(judgments: Judgments, rows: np.ndarray) -> Average:
    read = rows & ~np.isnan(judgments.scores)
    count, failed = int(rows.sum()), int((rows & ~read).sum())
    if not read.any():
        return Average(math.nan, math.nan, math.nan, count, failed)
    mean = mean_interval(judgments.scores[read], judgments.question_ids[read])
    low, high = np.clip((mean.low, mean.high), *SCALE).tolist()
    return Average(mean.mean, low, high, count, failed)


def _check_turns(questions: Sequence[Question], found: dict[tuple[int, int], Row], path: str | Path) -> None:
    """Every turn of every question has a judgment, and each judgment is of one of them."""
    wanted = {(one.question_id, turn) for one in questions for turn in range(1, len(one.turns) + 1)}
    for (question_id, turn), row in found.items():
        if (question_id, turn) not in wanted:
            raise InputError(f"{row.where}: there is no turn {turn} of a question {question_id}; allowed: those asked.")
    absent = sorted(wanted - found.keys())
    if absent:
        shown = list_missing([f"turn {turn} of question {question_id}" for question_id, turn in absent])
        raise InputError(f"{path} lacks {shown}; allowed: every turn of every question.")


def _judge(row: Row) -> str:
    """The judge's model, without its template, which changes with category and turn."""
    value = row.values.get("judge")
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise row.wrong("judge", "a list of model and template")
    return value[0]


def _score(row: Row) -> float:
    value = row.number("score", _SCORES)
    if value == -1:
        return math.nan
    if not SCALE[0] <= value <= SCALE[1]:
        raise row.wrong("score", _SCORES)
    return value
