"""Rows of the JSON and JSON Lines files that evaluation exchanges with other programs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sgpo.errors import InputError, shorten
from sgpo.store.files import read_objects, write_atomically


class Row(NamedTuple):
    """A JSON object and its place: "FILE row 3" (from 0) of a list, or "FILE line 4" (from 1) of JSON Lines."""

    where: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """The string at `key`; raises InputError if there is none."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise InputError(f"{self.where}: {key!r} is {shorten(value)}; allowed: a string.")
        return value


def read_rows(path: str | Path) -> list[Row]:
    """Reads a .json list or a .jsonl file of objects.

    NaN and Infinity are accepted, because other programs write them; callers that need finite numbers must check.

    Raises:
        InputError: the file cannot be read, is not valid (the line is named), or has no rows.
    """
    path = Path(path)
    if path.suffix not in (".json", ".jsonl"):
        raise InputError(f"{path} has an unknown file type; allowed: .json, .jsonl.")
    return [Row(*placed) for placed in read_objects(path)]


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes one object per line; the file is whole or absent. Returns its path."""
    return write_atomically(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def refuse_duplicates(keyed: Iterable[tuple[Any, str]], what: str) -> None:
    """Raises InputError if a key occurs twice.

    Args:
        keyed: keys with their places.
        what: what the key is, such as "instruction".
    """
    first: dict[Any, str] = {}
    for key, where in keyed:
        if key in first:
            raise InputError(f"{where}: the {what} {shorten(key)} is that of {first[key]}; allowed: each once.")
        first[key] = where


def refuse_mixed(rows: Iterable[tuple[str, str]], what: str) -> str:
    """The one value that all rows share; raises InputError if there is another.

    Args:
        rows: values with their places; at least one.
        what: what the value is, such as "generator".
    """
    (value, first), *rest = rows
    for other, where in rest:
        if other != value:
            raise InputError(f"{where}: the {what} is {other!r} and that of {first} {value!r}; allowed: one.")
    return value


def list_missing(shown: list[str]) -> str:
    """The first three of what is missing, and how many more there are."""
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more
