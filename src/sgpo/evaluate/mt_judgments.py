"""MT-Bench's judgments: averages of scores by category and turn, and wins, ties and losses of pairs."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgpo.choices import Keep
from sgpo.errors import InputError
from sgpo.evaluate.mt_bench import Question
from sgpo.evaluate.row_files import Row, list_missing, read_rows, rows_by_key, the_only
from sgpo.stats.intervals import mean_interval, share_interval

SCALE = (0.0, 10.0)
# -1 is FastChat's sign for a score that it could not read.
_SCORES = "0 to 10, or -1 for none"
# Of a game, what goes to model_1.
_SHARES = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5, "error": math.nan}
_REPEATED = ", or --keep last or first, as after a trial run"


class Judgments(NamedTuple):
    """One model's scores by one judge, (N,) each: turns count from 1, scores are 0 to 10, nan if the judge's could not
    be read. `repeated` counts the judgments of the file that another of the same turn replaces."""

    question_ids: np.ndarray
    categories: np.ndarray
    turns: np.ndarray
    scores: np.ndarray
    model: str
    judge: str
    repeated: int


class Average(NamedTuple):
    """A mean score and its 95% interval over questions, nan where there is none; of judgments, some of them failed."""

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


def read_judgments(
    path: str | Path, questions: Sequence[Question], *, model: str | None = None, keep: Keep | None = None
) -> Judgments:
    """Reads FastChat's model_judgment/JUDGE_single.jsonl.

    Args:
        path: the file; FastChat appends every model to the same one.
        questions: the questions, all turns of which must be judged; they also name the categories.
        model: the model whose judgments are read; None: the file's only model.
        keep: which judgment of a turn that was judged several times, as after a trial run; None refuses them.

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
    found = rows_by_key(rows, _turn, "question and turn", keep=keep, hint=_REPEATED)
    judge = the_only([_judge(row) for row in rows], rows, "judge")
    _check_turns(questions, found, str(path))
    category_of = {question.question_id: question.category for question in questions}
    ids, turns = np.array(list(found)).T
    categories, scores = [category_of[one] for one in ids.tolist()], list(map(_score, found.values()))
    return Judgments(ids, np.array(categories), turns, np.array(scores), model, judge, len(rows) - len(found))


def holds_pairs(path: str | Path) -> bool:
    """Whether a file of FastChat's judgments compares two models in each row."""
    return "g1_winner" in read_rows(path)[0].values


def read_pairs(
    path: str | Path, questions: Sequence[Question], *, model: str | None = None, baseline: str | None = None,
    keep: Keep | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Reads FastChat's model_judgment/JUDGE_pair.jsonl, and counts games as its show_result.py does.

    Args:
        path, questions, keep: as in `read_judgments`; every turn must be judged for each two models.
        model: the only model in the result; None: all but the baseline, the best first.
        baseline: counts games against this model alone, FastChat's pairwise-baseline; None: all, its pairwise-all.

    Returns: {judge, baseline, repeated, models: {name: counts and rates}}. A win has the same winner in both orders of
        answers, and other games are ties, which count half in `win_rate_adjusted`; its interval, `low` to `high`, is
        over questions. Games that `failed`, for want of a verdict, count in nothing else. Rates are nan without a game.

    Raises:
        InputError: as `read_judgments`; a model without a game or against itself, or a winner that FastChat lacks.
    """
    asked = [name for name in (model, baseline) if name is not None]
    rows = [row for row in read_rows(path) if set(asked) <= _models(row)]
    if not rows or len(set(asked)) < len(asked):
        raise InputError(f"{path} holds no comparison of {' with '.join(asked)}; allowed: two of its models.")
    what = "models, question and turn"
    found = rows_by_key(rows, lambda row: (*sorted(_models(row)), *_turn(row)), what, keep=keep, hint=_REPEATED)
    for two, keys in groupby(sorted(found), key=lambda key: key[:2]):
        _check_turns(questions, {key[2:]: found[key] for key in keys}, f"{path}, {' against '.join(two)},")
    judge = the_only([_judge(row) for row in rows], rows, "judge")
    names = {model} if model else set().union(*map(_models, found.values())) - {baseline}
    records = [(name, _record(name, [row for row in found.values() if name in _models(row)])) for name in sorted(names)]
    records.sort(key=lambda record: -np.nan_to_num(record[1]["win_rate_adjusted"]))
    return {"judge": judge, "baseline": baseline, "repeated": len(rows) - len(found), "models": dict(records)}


def average_judgments(judgments: Judgments) -> MTBench:
    """Averages of the scores that could be read, as FastChat computes them, with the number of failures.

    Intervals are over questions, because the turns of a question are not independent; they are clipped to the scale.
    """
    turns = {turn: judgments.turns == turn for turn in np.unique(judgments.turns).tolist()}
    categories = {name: judgments.categories == name for name in dict.fromkeys(judgments.categories.tolist())}
    both = {(category, turn): one & other for category, one in categories.items() for turn, other in turns.items()}
    return MTBench(
        overall=_average(judgments, np.full(len(judgments.scores), True)),
        by_turn={turn: _average(judgments, rows) for turn, rows in turns.items()},
        by_category={category: _average(judgments, rows) for category, rows in categories.items()},
        by_category_and_turn={key: _average(judgments, rows) for key, rows in both.items() if rows.any()},
    )


def _average(judgments: Judgments, rows: np.ndarray) -> Average:
    read = rows & ~np.isnan(judgments.scores)
    count, failed = int(rows.sum()), int((rows & ~read).sum())
    if not read.any():
        return Average(math.nan, math.nan, math.nan, count, failed)
    mean = mean_interval(judgments.scores[read], judgments.question_ids[read])
    low, high = np.clip((mean.low, mean.high), *SCALE).tolist()
    return Average(mean.mean, low, high, count, failed)


def _check_turns(questions: Sequence[Question], found: dict[tuple[int, int], Row], path: str) -> None:
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


def _turn(row: Row) -> tuple[int, int]:
    return row.whole("question_id"), row.whole("turn")


def _models(row: Row) -> set[str]:
    if row.text("model_1") == row.text("model_2"):
        raise row.wrong("model_2", "another model than model_1")
    return {row.text("model_1"), row.text("model_2")}


def _record(name: str, rows: list[Row]) -> dict[str, float]:
    shares = np.array([_share(row) if row.text("model_1") == name else 1 - _share(row) for row in rows])
    read = ~np.isnan(shares)
    ids, shares = np.array([row.whole("question_id") for row in rows])[read], shares[read]
    counts = {"wins": int((shares == 1).sum()), "losses": int((shares == 0).sum()), "failed": int((~read).sum())}
    counts["ties"] = len(rows) - sum(counts.values())
    means, total = np.array([shares[ids == one].mean() for one in np.unique(ids)]), shares.size or math.nan
    low, high = share_interval(means) if means.size else (math.nan, math.nan)
    rates = {"win_rate": counts["wins"] / total, "loss_rate": counts["losses"] / total}
    return {**counts, **rates, "win_rate_adjusted": float(shares.sum()) / total, "low": low, "high": high}


def _share(row: Row) -> float:
    """The share of a game that goes to model_1; nan if a verdict could not be read."""
    for key in ("g1_winner", "g2_winner"):
        if row.text(key) not in _SHARES:
            raise row.wrong(key, ", ".join(_SHARES))
    one, other = _SHARES[row.text("g1_winner")], _SHARES[row.text("g2_winner")]
    return one if one == other or math.isnan(one) else other if math.isnan(other) else 0.5
