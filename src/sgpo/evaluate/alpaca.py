"""AlpacaEval's files: instructions, model_outputs.json, annotations.json."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgpo.choices import Coding, check_choice
from sgpo.errors import InputError, shorten
from sgpo.evaluate.prompt_files import read_answers_to
from sgpo.evaluate.row_files import Row, list_missing, read_rows, rows_by_key, the_only
from sgpo.preferences.columns import read_columns
from sgpo.preferences.source import load_rows
from sgpo.store.files import name_rows, write_json

DATASET = "alpaca_eval"
# Share of the evaluation set that may lack a row: it moves the raw rate by at most one point.
_MISSING = 0.01


class Instructions(NamedTuple):
    """The evaluation set in its order: (I,) distinct instructions and (I,) names of their data sets."""

    instructions: list[str]
    datasets: list[str]


class Annotations(NamedTuple):
    """A judge's verdicts on N instructions, in the order of the file: answers, their characters, and the share of the
    win that goes to the policy, nan for none. With a set, the (N,) place of each in it, and the places without a
    row."""

    outputs: list[str]
    baseline_outputs: list[str]
    lengths: np.ndarray
    baseline_lengths: np.ndarray
    preferences: np.ndarray
    generator: str
    baseline: str
    annotator: str
    places: np.ndarray | None
    missing: list[int]


def read_instructions(path: str | Path, *, split: str | None = None) -> Instructions:
    """Reads an evaluation set: rows with `instruction` and, optionally, `dataset`. Other columns are ignored.

    Args:
        path: whatever `sgpo.preferences.source.load_rows` reads.
        split: split of the source, if it has splits.

    Raises:
        InputError: see `load_rows`; an instruction is missing, empty or repeated.
    """
    rows = load_rows(path, split=split)
    if "instruction" not in rows.column_names:
        raise InputError(f"{path} has the columns {', '.join(rows.column_names)}; allowed: one named instruction.")
    keep = [name for name in ("instruction", "dataset") if name in rows.column_names]
    listed = list(map(Row, name_rows(path, len(rows)), read_columns(rows, keep, str(path))))
    found = rows_by_key(listed, lambda row: row.text("instruction"), "instruction")
    for instruction, row in found.items():
        if not instruction.strip():
            raise InputError(f"{row.where}: the instruction is empty; allowed: text.")
    datasets = [DATASET if row.values.get("dataset") is None else row.text("dataset") for row in listed]
    return Instructions(list(found), datasets)


def write_model_outputs(path: str | Path, asked: Instructions, outputs: Sequence[str], generator: str) -> Path:
    """Writes the file that `alpaca_eval --model_outputs` takes, and returns its path.

    Instructions are written byte for byte as they were read: alpaca_eval joins two models' answers by them.

    Args:
        path: the file, ending in .json; it is replaced as a whole or not at all.
        asked: the evaluation set.
        outputs: (I,) answers, which may be empty.
        generator: name of the policy.

    Raises:
        InputError: the number of outputs is wrong, one is not a string, or the generator has no name.
    """
    if Path(path).suffix != ".json":
        raise InputError(f"path is {str(path)!r}; allowed: a name that ends in .json.")
    if not generator or not isinstance(generator, str):
        raise InputError(f"generator is {generator!r}; allowed: a name.")
    if len(outputs) != (count := len(asked.instructions)):
        raise InputError(f"outputs has {len(outputs)} rows; allowed: one for each of {count} instructions.")
    for index, output in enumerate(outputs):
        if not isinstance(output, str):
            raise InputError(f"outputs row {index} is {shorten(output)}; allowed: a string.")
    rows = [
        {"instruction": instruction, "output": output, "generator": generator, "dataset": dataset}
        for instruction, output, dataset in zip(asked.instructions, outputs, asked.datasets, strict=True)
    ]
    return write_json(path, rows)


def read_annotations(
    path: str | Path,
    *,
    asked: Instructions | None = None,
    baseline: str | None = None,
    answers: str | Path | None = None,
    coding: Coding | None = None,
) -> Annotations:
    """Reads an annotations.json as alpaca_eval writes it.

    Preferences in the file run from 1 (the baseline, output_1) to 2 (the policy, output_2); 0 is an old way to write a
    draw, and null or NaN a verdict that could not be read.

    Args:
        path: the file.
        asked: the evaluation set, 99% of which must be judged (published files lack up to 3 of 805); None: any.
        baseline: the baseline's name that the file must have; None accepts any.
        answers: model_outputs.json with the answers that must have been judged; None skips this check.
        coding: "1-2" as above, or "0-1" for shares of the win; None: "1-2", and an error if it could be either.

    Raises:
        InputError: naming the row: an instruction that is repeated or not in the set, more than 1% of the set without a
            row, more than one generator, baseline or judge, a different baseline or answers than asked for, a generator
            that is its own baseline, or a preference that the coding does not have.
    """
    if coding is not None:
        check_choice("coding", coding, Coding)
    rows = read_rows(path)
    rows_by_key(rows, lambda row: row.text("instruction"), "instruction")
    columns = ("generator_1", "generator_2", "annotator")
    found, generator, annotator = (the_only([row.text(name) for row in rows], rows, name) for name in columns)
    if baseline is not None and found != baseline:
        raise InputError(f"{path} has the baseline {found!r} (generator_1 of each row); allowed: {baseline!r}.")
    if found == generator:
        raise InputError(f"{path} compares {found!r} with itself; allowed: two generators.")
    if answers is not None:
        _check_answers(rows, generator, answers)
    places, missing = (None, []) if asked is None else _find_places(rows, asked, path)
    outputs, others = ([row.text(name) for row in rows] for name in ("output_2", "output_1"))
    lengths = [np.array(list(map(len, texts))) for texts in (outputs, others)]
    preferences = _read_preferences(rows, coding)
    return Annotations(outputs, others, *lengths, preferences, generator, found, annotator, places, missing)


def _find_places(rows: list[Row], asked: Instructions, path: str | Path) -> tuple[np.ndarray, list[int]]:
    """The place of each row, and the places without a row."""
    place_of = {instruction: place for place, instruction in enumerate(asked.instructions)}
    for row in rows:
        if row.text("instruction") not in place_of:
            raise row.wrong("instruction", "one of the evaluation set, byte for byte")
    places = np.array([place_of[row.text("instruction")] for row in rows])
    absent, count = sorted(set(place_of.values()).difference(places.tolist())), len(place_of)
    if len(absent) > _MISSING * count:
        shown = list_missing([f"{place} ({shorten(asked.instructions[place], 40)})" for place in absent])
        raise InputError(
            f"{path} lacks {len(absent)} of {count} instructions of the evaluation set, rows {shown}; allowed: all of "
            f"them, or all but {int(count * _MISSING)}."
        )
    return places, absent


def _check_answers(rows: list[Row], generator: str, path: str | Path) -> None:
    answers = read_answers_to(path, [[{"role": "user", "content": row.text("instruction")}] for row in rows])
    if generator != answers.name:
        raise rows[0].wrong("generator_2", repr(answers.name))
    for row, text in zip(rows, answers.texts, strict=True):
        if text is not None and row.text("output_2") != text:
            raise row.wrong("output_2", f"the answer to this instruction in {path}, {shorten(text)}")


def _read_preferences(rows: list[Row], coding: Coding | None) -> np.ndarray:
    """(N,) shares of the win; the coding is asked for where both are possible and differ."""
    low, allowed = (0, "0 to 1, or null") if coding == "0-1" else (1, "1 to 2, 0 for a draw, or null (or --coding 0-1)")
    values = np.array([_preference(row, low, allowed) for row in rows])
    draw = (values == 0) & (low == 1)
    if coding is None and draw.any() and not (values > 1).any():
        raise InputError(
            f"{rows[draw.argmax()].where}: 'preference' is 0, and none of the file is above 1: coded 1 to 2, as by "
            "alpaca_eval, 0 is a draw and 1 a loss, and coded 0 to 1 a loss and a win; allowed: --coding 1-2 or 0-1."
        )
    return np.where(draw, 0.5, values - low)


def _preference(row: Row, low: int, allowed: str) -> float:
    if "preference" not in row.values:
        raise InputError(f"{row.where}: there is no 'preference'; allowed: {allowed}.")
    value = math.nan if row.values["preference"] is None else row.number("preference", allowed)
    if (value < low and value != 0) or value > low + 1:
        raise row.wrong("preference", allowed)
    return value
