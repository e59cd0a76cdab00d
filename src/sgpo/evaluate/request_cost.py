"""The cost of requests to a language model, estimated before they are sent."""

from collections.abc import Sequence
from typing import Any

from sgpo.errors import InputError

# Of English text in the tokenizers of common judges; other languages have fewer.
CHARACTERS_PER_TOKEN = 4.0


def describe_cost(
    bodies: Sequence[dict[str, Any]],
    missing: Sequence[dict[str, Any]],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> str:
    """A sentence on the number of chat completions, their tokens and, with prices, an upper bound of their cost.

    Args:
        bodies: all request bodies.
        missing: those without an answer, each once.
        price_in, price_out: of a million tokens read and written; both or neither.

    Raises:
        InputError: one price without the other, or a negative one.
    """
    if (price_in is None) != (price_out is None):
        raise InputError(f"price_in is {price_in} and price_out {price_out}; allowed: both, or neither.")
    for name, price in (("price_in", price_in), ("price_out", price_out)):
        if price is not None and not price >= 0:
            raise InputError(f"{name} is {price}; allowed: a number >= 0.")
    text = f"{len(bodies):,} requests, {len(bodies) - len(missing):,} of them answered already"
    if not missing:
        return f"{text}; nothing to ask."
    characters = sum(len(message["content"]) for body in missing for message in body["messages"])
    limits = [body.get("max_completion_tokens", body.get("max_tokens")) for body in missing]
    reading, writing = round(characters / CHARACTERS_PER_TOKEN), None if None in limits else sum(limits)
    most = "without a limit" if writing is None else f"at most {writing:,}"
    text += f"; about {reading:,} tokens to read and {most} to write"
    if price_in is not None and writing is not None:
        text += f", at most about {(reading * price_in + writing * price_out) / 1e6:,.2f}"
    return f"{text}."
