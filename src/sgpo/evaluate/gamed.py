"""AlpacaEval's difficulty file: two baselines with instructions about length, and how hard each instruction is."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgpo.errors import InputError, shorten

_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty")


class Gamed(NamedTuple):
    """The file's content: (I,) difficulty of each instruction of the set, in its order; of the gamed baselines' M rows,
    (M, 2) standardised length difference and difficulty, and (M,) preferences in [0, 1]."""

    difficulty: np.ndarray
    features: np.ndarray
    preferences: np.ndarray


def read_gamed(path: str | Path) -> Gamed:
    """Reads AlpacaEval's difficulty file, df_gamed.csv of the Hub's data set tatsu-lab/alpaca_eval.

    Raises:
        InputError: a column is missing, a value is not a number, or an instruction has no difficulty.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path} lacks the column {missing[0]}; allowed: a file with {', '.join(_COLUMNS)}.")
            rows = [
                [_number(row[name], name, f"{path} row {at}") for name in _COLUMNS] for at, row in enumerate(reader)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not rows:
        raise InputError(f"{path} has no rows; allowed: at least one.")
    index, preference, length, difficulty = np.array(rows).T
    places, first = np.unique(index.astype(int), return_index=True)
    absent = np.flatnonzero(places != np.arange(len(places)))
    if absent.size:
        raise InputError(f"{path} has no row with the index {absent[0]}; allowed: every index from 0 to the largest.")
    # A verdict that alpaca_eval could not read carries no information about length.
    judged = ~np.isnan(preference)
    features = np.stack([length, difficulty], axis=1)[judged]
    if not np.isfinite(features).all() or not np.isfinite(difficulty).all():
        raise InputError(f"{path} holds a length or difficulty that is not finite; allowed: finite numbers.")
    return Gamed(difficulty[first], features, preference[judged])


def _number(text: str | None, name: str, where: str) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        raise InputError(f"{where}: {name} is {shorten(text)}; allowed: a number.") from None
    if name == "index" and not (0 <= value < 2**53 and value.is_integer()):
        raise InputError(f"{where}: index is {shorten(text)}; allowed: a place in the evaluation set, from 0.")
    if name == "preference" and not (math.isnan(value) or 0 <= value <= 1):
        raise InputError(f"{where}: preference is {shorten(text)}; allowed: a number in [0, 1].")
    return value
