"""The exception for bad input: its message says what is wrong and what is allowed."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral


class InputError(ValueError):
    """Bad input from a user: a file, a row, a key or a value.

    The command line prints the message alone and exits with code 2. The message names the file, row, key or
    argument, the value found, and what is allowed. It is a `ValueError`, so library users need not import it.
    """


@contextmanager
def naming_rows(name: Callable[[int], str]) -> Iterator[None]:
    """A message that begins with "row 3", of what a function was given, begins with the name of that row instead."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"^row (\d+)", lambda row: name(int(row[1])), str(error))) from error


def check_whole(name: str, value: int | None, least: int, *, optional: bool = False) -> None:
    """Raises InputError for anything but a whole number >= `least`; None passes if `optional`."""
    if optional and value is None:
        return
    # NumPy's integers are whole numbers too; True and False are none.
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        allowed = "None or a whole number" if optional else "a whole number"
        raise InputError(f"{name} is {value!r}; allowed: {allowed} >= {least}.")


def check_failed(failed: Mapping[str, int], asked: int, limit: float, what: str, example: str = "") -> None:
    """Raises InputError if more than the share `limit` of the `asked` items failed; `failed` counts them by reason. One
    failure passes, however few the items are, unless it is the only one or the limit is 0."""
    total = sum(failed.values())
    if total > (max(limit * asked, 1) if limit else 0) or (limit < 1 and total == asked > 0):
        counted = ", ".join(f"{reason} {count:,}" for reason, count in failed.items() if count)
        raise InputError(
            f"{total:,} of {asked:,} {what} failed ({counted}{f'; such as {example}' if example else ''}); allowed: a "
            f"share of max_failed, {limit:g}. Mend the cause, or raise max_failed to go on without them."
        )


def first_line(error: BaseException) -> str:
    """The first line of a library's error, with the second if a colon announces it; at most 400 characters."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return (f"{first} {more[0].strip()}" if more and first.endswith(":") else first).rstrip(".:")[:400]


def shorten(value: object, length: int = 60) -> str:
    """A value, shortened for a message."""
    shown = repr(value)
    return shown if len(shown) <= length else f"{shown[:length]}..."
