"""The exception for bad input: its message says what is wrong and what is allowed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral


class InputError(ValueError):
    """Bad input from a user: a file, a row, a key or a value.

    The command line prints the message alone and exits with code 2. The message names the file, row, key or
    argument, the value found, and what is allowed. It is a `ValueError`, so library users need not import it.
    """


class RowError(InputError):
    """Bad input in one row, numbered from 0; `naming_rows` says where the row comes from."""

    def __init__(self, row: int, said: str) -> None:
        super().__init__(f"row {row}: {said}")
        self.row, self.said = row, said


@contextmanager
def naming_rows(name: Callable[[int], str]) -> Iterator[None]:
    """Calls the row of a RowError by the name that it has for the user, such as a line of a file."""
    try:
        yield
    except RowError as error:
        raise InputError(f"{name(error.row)}: {error.said}") from error


def check_whole(name: str, value: int | None, least: int, *, optional: bool = False) -> None:
    """Raises InputError for anything but a whole number >= `least`; None passes if `optional`."""
    if optional and value is None:
        return
    # NumPy's integers are whole numbers too; True and False are none.
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        allowed = "None or a whole number" if optional else "a whole number"
        raise InputError(f"{name} is {value!r}; allowed: {allowed} >= {least}.")


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, at most 400 characters, without trailing punctuation.

    A line that ends in a colon only announces the next one, which is shown with it.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = " ".join(line.strip() for line in lines[:2]) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".:")[:400]


def shorten(value: object, length: int = 60) -> str:
    """A value, shortened for a message."""
    shown = repr(value)
    return shown if len(shown) <= length else f"{shown[:length]}..."
