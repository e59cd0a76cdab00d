"""Rows of the JSON and JSON Lines files that evaluation exchanges with other programs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sgpo.choices import Keep, check_choice
from sgpo.errors import InputError, shorten
from sgpo.store.files import is_unicode, read_objects


class Row(NamedTuple):
    """A JSON object and its place: "FILE row 3" (from 0) of a list, or "FILE line 4" (from 1) of JSON Lines."""

    where: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """The string at a key."""
        return self._typed(key, str, "a string")

    def name(self, key: str) -> str:
        """The string at a key, as a terminal shows it."""
        if not is_unicode(value := self.text(key)):
            raise self.wrong(key, "a string in Unicode")
        return value

    def whole(self, key: str) -> int:
        """The integer at a key; JSON's true and false are none."""
        return self._typed(key, int, "an integer of 64 bits")

    def number(self, key: str, allowed: str) -> float:
        """The number at a key, which may be NaN."""
        return float(self._typed(key, (int, float), allowed))

    def wrong(self, key: str, allowed: str) -> InputError:
        """The error for a value that is not allowed."""
        return InputError(f"{self.where}: {key!r} is {shorten(self.values.get(key))}; allowed: {allowed}.")

    def _typed(self, key: str, kind: Any, allowed: str) -> Any:
        value = self.values.get(key)
        too_long = isinstance(value, int) and not -(2**63) <= value < 2**63
        if isinstance(value, bool) or not isinstance(value, kind) or too_long:
            raise self.wrong(key, allowed)
        return value


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a .json list or a .jsonl file of objects, at least one; NaN and Infinity are accepted."""
    if Path(path).suffix not in (".json", ".jsonl"):
        raise InputError(f"{path} has an unknown file type; allowed: .json, .jsonl.")
    return [Row(where, values) for where, values in read_objects(path)]


def rows_by_key(
    rows: Sequence[Row], key_of: Callable[[Row], Any], what: str, *, keep: Keep | None = None, hint: str = ""
) -> dict[Any, Row]:
    """The rows by their keys; raises InputError if a key, such as an "instruction", is repeated without `keep`."""
    if keep is not None:
        check_choice("keep", keep, Keep)
    found: dict[Any, Row] = {}
    keys = list(map(key_of, rows))
    for key, row in zip(keys, rows, strict=True):
        if key in found and keep is None:
            once = f"allowed: each once{hint} (repeated rows: {len(keys) - len(set(keys))})"
            raise InputError(f"{row.where}: the {what} {shorten(key)} is that of {found[key].where}; {once}.")
        if keep == "last" or key not in found:
            found[key] = row
    return found


def the_only(values: Sequence[str], rows: Sequence[Row], what: str) -> str:
    """The one value, such as a "generator", that all rows share; raises InputError if there is another."""
    for value, row in zip(values, rows, strict=True):
        if value != values[0] or not is_unicode(value):
            first = f"{rows[0].where} {shorten(values[0])}"
            raise InputError(
                f"{row.where}: the {what} is {shorten(value)} and that of {first}; allowed: one, in Unicode."
            )
    return values[0]


def list_missing(shown: Sequence[object]) -> str:
    """The first three of what is missing, and how many more there are."""
    return ", ".join(map(str, shown[:3])) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
