"""MT-Bench's judgments, and their averages by category and turn."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.evaluate.mt_bench import Question, question_id_of
from sgpo.evaluate.row_files import Row, list_missing, read_rows, refuse_duplicates, refuse_mixed, shorten
from sgpo.stats.intervals import mean_interval

SCALE = (0.0, 10.0)
FAILED = -1


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
    if model is None:
        model = refuse_mixed([(row.text("model"), row.where) for row in rows], "model")
    rows = [row for row in rows if row.text("model") == model]
    if not rows:
        raise InputError(f"{path} holds no judgment of the model {model!r}; allowed: one of its models.")
    keys = [(question_id_of(row), _turn(row)) for row in rows]
    refuse_duplicates(zip(keys, [row.where for row in rows], strict=True), "question and turn")
    judge = refuse_mixed([(_judge(row), row.where) for row in rows], "judge")
    category_of = _check_against(questions, keys, rows, str(path))
    return Judgments(
        question_ids=np.array([question_id for question_id, _ in keys]),
        categories=np.array([category_of[question_id] for question_id, _ in keys]),
        turns=np.array([turn for _, turn in keys]),
        scores=np.array([_score(row) for row in rows]),
        model=model,
        judge=judge,
    )


def average_judgments(judgments: Judgments) -> MTBench:
    """Averages of the scores that could be read, as FastChat computes them, with the number of failures.

    Intervals are over questions, because the turns of a question are not independent; they are clipped to the scale.
    """
    every = np.ones(len(judgments.scores), dtype=bool)
    turns = sorted(set(judgments.turns.tolist()))
    categories = list(dict.fromkeys(judgments.categories.tolist()))
    in_turn = {turn: judgments.turns == turn for turn in turns}
    in_category = {category: judgments.categories == category for category in categories}
    return MTBench(
        overall=_average(judgments, every),
        by_turn={turn: _average(judgments, rows) for turn, rows in in_turn.items()},
        by_category={category: _average(judgments, rows) for category, rows in in_category.items()},
        by_category_and_turn={
            (category, turn): _average(judgments, in_category[category] & in_turn[turn])
            for category in categories
            for turn in turns
            if (in_category[category] & in_turn[turn]).any()
        },
    )


def _average(judgments: Judgments, rows: np.ndarray) -> Average:
    scores, questions = judgments.scores[rows], judgments.question_ids[rows]
    read = ~np.isnan(scores)
    failed = int((~read).sum())
    if not read.any():
        return Average(math.nan, math.nan, math.nan, scores.size, failed)
    mean = mean_interval(scores[read], questions[read])
    low, high = (float(np.clip(end, *SCALE)) for end in (mean.low, mean.high))
    return Average(mean.mean, low, high, scores.size, failed)


def _check_against(
    questions: Sequence[Question], keys: list[tuple[int, int]], rows: list[Row], path: str
) -> dict[int, str]:
    turns_of = {question.question_id: len(question.turns) for question in questions}
    for (question_id, turn), row in zip(keys, rows, strict=True):
        if turn > turns_of.get(question_id, 0):
            raise InputError(
                f"{row.where}: there is no turn {turn} of a question {question_id}; allowed: a question's."
            )
    wanted = {(question_id, turn) for question_id, turns in turns_of.items() for turn in range(1, turns + 1)}
    absent = sorted(wanted - set(keys))
    if absent:
        shown = list_missing([f"turn {turn} of question {question_id}" for question_id, turn in absent])
        raise InputError(f"{path} lacks {shown}; allowed: every turn of every question.")
    return {question.question_id: question.category for question in questions}


def _turn(row: Row) -> int:
    value = row.values.get("turn")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{row.where}: 'turn' is {shorten(value)}; allowed: an integer from 1.")
    return value


def _judge(row: Row) -> str:
    """The judge's model, without its template, which changes with category and turn."""
    value = row.values.get("judge")
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise InputError(f"{row.where}: 'judge' is {shorten(value)}; allowed: a list of model and template.")
    return value[0]


def _score(row: Row) -> float:
    value = row.values.get("score")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and value == FAILED:
        return math.nan
    if not number or not SCALE[0] <= value <= SCALE[1]:
        raise InputError(f"{row.where}: 'score' is {shorten(value)}; allowed: 0 to 10, or -1 for none.")
    return float(value)
