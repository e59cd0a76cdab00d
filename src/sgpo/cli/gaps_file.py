"""Gaps from a file: text, .npy or Parquet."""

import warnings
from pathlib import Path

import numpy as np

from sgpo.errors import InputError, first_line
from sgpo.robust.ball import check_gaps
from sgpo.store.files import read_numbers, read_text


def read_gaps(path: Path, column: str) -> np.ndarray:
    """(N,) finite gaps from text (one per line), a .npy array, or a column of a .parquet file."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {found}; allowed: text with one gap per line, .npy, or .parquet.")
    readers = {".parquet": lambda path: read_numbers(path, [column])[0], ".npy": _read_npy}
    gaps = readers.get(path.suffix, _read_text)(path)
    if not gaps.size:
        raise InputError(f"{path} holds no gaps; allowed: at least one.")
    return check_gaps(gaps, f"{path}: gaps")


def _read_text(path: Path) -> np.ndarray:
    gaps = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            gaps += [float(line)] if line.strip() else []
        except ValueError as error:
            raise InputError(f"{path} line {number}: {line.strip()[:40]!r} is not a number.") from error
    return np.array(gaps)


def _read_npy(path: Path) -> np.ndarray:
    try:
        # Opened here, because NumPy leaves a file open that holds several arrays.
        with open(path, "rb") as file, warnings.catch_warnings():
            # Of a header that Python 2 wrote.
            warnings.simplefilter("ignore", UserWarning)
            gaps = np.load(file, allow_pickle=False)
    except Exception as error:
        # A damaged header raises TokenError, TypeError or MemoryError too.
        raise InputError(f"{path}: not a .npy array of numbers ({first_line(error)}).") from error
    if not isinstance(gaps, np.ndarray):
        raise InputError(f"{path}: holds several arrays; allowed: one, as numpy.save writes it.")
    if not np.issubdtype(gaps.dtype, np.number) or np.iscomplexobj(gaps):
        raise InputError(f"{path}: holds {gaps.dtype}; allowed: real numbers.")
    return gaps
