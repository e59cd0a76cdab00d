"""Rows of the JSON and JSON Lines files that evaluation exchanges with other programs."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sgpo.errors import InputError


class Row(NamedTuple):
    """A JSON object and where it stands: "FILE row 3" (from 0) in a list, "FILE line 4" (from 1) in JSON Lines."""

    where: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """The string under `key`; raises InputError where there is none."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise InputError(f"{self.where}: {key!r} is {shorten(value)}; allowed: a string.")
        return value


def read_rows(path: str | Path) -> list[Row]:
    """Reads a .json list or a .jsonl file of objects.

    NaN and Infinity are read as numbers, for other programs write them; who needs finite ones must say so.

    Raises:
        InputError: there is no such file, it is not valid (the line is named), or it has no row.
    """
    path = Path(path)
    if path.suffix not in (".json", ".jsonl"):
        raise InputError(f"{path} has an unknown file type; allowed: .json, .jsonl.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 (byte {error.start}).") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    rows = _parse_lines(text, path) if path.suffix == ".jsonl" else _parse_list(text, path)
    if not rows:
        raise InputError(f"{path} has no rows; allowed: at least one.")
    return rows


def write_json(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes a list of objects, indented by two, beside its place and renames it there; returns the path."""
    return _write(Path(path), json.dumps(list(rows), indent=2, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes an object a line, beside its place and renames it there; returns the path."""
    return _write(Path(path), "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def refuse_duplicates(keyed: Iterable[tuple[Any, str]], what: str) -> None:
    """Raises InputError where a key comes a second time.

    Args:
        keyed: keys, each with where it stands.
        what: what the key is, such as "instruction".
    """
    first: dict[Any, str] = {}
    for key, where in keyed:
        if key in first:
            raise InputError(f"{where}: the {what} {shorten(key)} is that of {first[key]}; allowed: each once.")
        first[key] = where


def refuse_mixed(rows: Iterable[tuple[str, str]], what: str) -> str:
    """The one value that all rows share; raises InputError where another comes.

    Args:
        rows: values, each with where it stands; at least one.
        what: what the value is, such as "generator".
    """
    (value, first), *rest = rows
    for other, where in rest:
        if other != value:
            raise InputError(f"{where}: the {what} is {other!r} and that of {first} {value!r}; allowed: one.")
    return value


def shorten(value: Any, length: int = 60) -> str:
    """A value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= length else f"{shown[:length]}..."


def _parse_list(text: str, path: Path) -> list[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not valid JSON: {error.msg} (column {error.colno}).") from error
    if not isinstance(values, list):
        raise InputError(f"{path} holds a {type(values).__name__}; allowed: a list of JSON objects.")
    return [_row(f"{path} row {index}", value) for index, value in enumerate(values)]


def _parse_lines(text: str, path: Path) -> list[Row]:
    rows = []
    # Not splitlines: it would also split at separators that JSON strings may hold as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(_row(f"{path} line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                message = f"{path} line {number}: not valid JSON: {error.msg} (column {error.colno})."
                raise InputError(message) from error
    return rows


def _row(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}; allowed: a JSON object.")
    return Row(where, value)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path
