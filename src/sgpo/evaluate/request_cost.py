"""The cost of requests to a language model, estimated before they are sent."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sgpo.errors import InputError

# Of English text in the tokenizers of common judges; other languages have fewer.
CHARACTERS_PER_TOKEN = 4.0


class RequestCost(NamedTuple):
    """The number of requests and their cost.

    Attributes:
        requests: all of them; cached: those with an answer already.
        prompt_tokens: estimate for the rest, at four characters per token.
        completion_tokens: upper bound for the rest; None if a request has no limit.
        price: of both, in the unit of the prices; None without prices or without a limit.
    """

    requests: int
    cached: int
    prompt_tokens: int
    completion_tokens: int | None
    price: float | None

    @property
    def to_ask(self) -> int:
        """Requests that would be sent."""
        return self.requests - self.cached

    def __str__(self) -> str:
        text = f"{self.requests:,} requests, {self.cached:,} of them answered already"
        if not self.to_ask:
            return f"{text}; nothing to ask."
        most = "without a limit" if self.completion_tokens is None else f"at most {self.completion_tokens:,}"
        text += f"; about {self.prompt_tokens:,} tokens to read and {most} to write"
        return text + (f", at most about {self.price:,.2f}." if self.price is not None else ".")


def estimate_cost(
    bodies: Sequence[dict[str, Any]],
    missing: Sequence[dict[str, Any]],
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> RequestCost:
    """Estimates the cost of chat completions.

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
    characters = sum(len(message["content"]) for body in missing for message in body["messages"])
    limits = [body.get("max_completion_tokens", body.get("max_tokens")) for body in missing]
    reading, writing = round(characters / CHARACTERS_PER_TOKEN), None if None in limits else sum(limits)
    price = None
    if price_in is not None and writing is not None:
        price = (reading * price_in + writing * price_out) / 1e6
    return RequestCost(len(bodies), len(bodies) - len(missing), reading, writing, price)
