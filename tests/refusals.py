"""Many refusals in one test: every bad input must raise an InputError with its own message."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from sgpo.errors import InputError


def unrefused(call: Callable[[Any], object], cases: Iterable[tuple[Any, str]]) -> dict[str, str]:
    """The inputs that `call` accepts or refuses with another message; a test asserts that there are none.

    Args:
        call: called with each input.
        cases: inputs, each with a pattern that is found in its message; messages are one line.

    Returns: {input: its message, or "accepted"}. Other exceptions than InputError pass through.
    """
    offenders = {}
    for bad, pattern in cases:
        try:
            call(bad)
        except InputError as error:
            message = str(error)
            if not re.search(pattern, message) or "\n" in message:
                offenders[repr(bad)] = message
        else:
            offenders[repr(bad)] = "accepted"
    return offenders
