"""Gaps from a file, and the worst case of them as text or JSON."""

import json
from pathlib import Path

import numpy as np

from sgpo.errors import InputError
from sgpo.robust.exact import WorstCase


def read_gaps(path: Path, column: str) -> np.ndarray:
    """Reads (N,) gaps from text (one per line), a .npy array, or a column of a .parquet file.

    Raises:
        InputError: no such file, nothing in it, or an entry that is no number, with its line.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; allowed: text with one gap per line, .npy, or .parquet.")
    readers = {".npy": _read_npy, ".parquet": lambda file: _read_parquet(file, column)}
    gaps = readers.get(path.suffix, _read_text)(path)
    if gaps.ndim != 1 or gaps.size == 0:
        raise InputError(f"{path}: holds an array of shape {gaps.shape}; allowed: one dimension, at least one gap.")
    return gaps


def _read_text(path: Path) -> np.ndarray:
    gaps = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    gaps.append(_parse(line, path, number))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; allowed: one gap per line.") from error
    return np.array(gaps, dtype=np.float64)


def _parse(line: str, path: Path, number: int) -> float:
    try:
        return float(line)
    except ValueError as error:
        raise InputError(f"{path} line {number}: {line.strip()[:40]!r} is no number.") from error


def _read_npy(path: Path) -> np.ndarray:
    try:
        gaps = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a .npy array of numbers ({error}).") from error
    if not np.issubdtype(gaps.dtype, np.number) or np.iscomplexobj(gaps):
        raise InputError(f"{path}: holds {gaps.dtype}; allowed: real numbers.")
    return gaps


def _read_parquet(path: Path, column: str) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        if column not in names:
            raise InputError(f"{path}: no column {column!r}; it has {', '.join(names)}.")
        values = pq.read_table(path, columns=[column])[column]
        return values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{path}: cannot be read as numbers from Parquet ({error}).") from error


def describe_worst_case(worst: WorstCase, *, as_json: bool) -> str:
    """The follower's answer: every number and all atoms as JSON, or what a person reads first."""
    numbers = {
        "value": worst.value,
        "empirical_value": worst.empirical_value,
        "price": worst.price,
        "moved_share": worst.moved_share,
        "marginal": worst.marginal,
        "radius": worst.radius,
        "space": worst.space,
        "window": list(worst.window),
    }
    atoms, weights = np.asarray(worst.atoms), np.asarray(worst.atom_weights)
    if as_json:
        return json.dumps({**numbers, "atoms": atoms.tolist(), "atom_weights": weights.tolist()})
    width = max(map(len, numbers))
    lines = [f"{name:<{width}}  {value}" for name, value in numbers.items()]
    shown = np.argsort(-weights, kind="stable")[:5]
    lines.append(f"{'atoms':<{width}}  {atoms.size}; heaviest:")
    lines += [f"{'':<{width}}  {weights[index]:.6g} at {atoms[index]:.6g}" for index in shown]
    return "\n".join(lines)
