"""A judge's verdict from the law of its first token."""

import math
from collections.abc import Mapping

LETTERS = ("A", "B")


def read_letter(logprobs: Mapping[str, float]) -> float | None:
    """The probability of "A" as a share of that of "A" and "B", from the first token's most likely values.

    Tokens that are a letter but for white space around it are added up; a letter that is not among the tokens given
    has the probability 0.

    Args:
        logprobs: {token: log-probability} of the most likely tokens.

    Returns: a share in [0, 1]; None where the most likely token is neither letter: what the judge would say is no
        verdict then, and letters far down its list would be a guess.

    Source: the weighted win rate of AlpacaEval 2, arXiv:2404.04475, Section 2.
    """
    if not logprobs or max(logprobs, key=lambda token: logprobs[token]).strip() not in LETTERS:
        return None
    first, second = (
        math.fsum(math.exp(value) for token, value in logprobs.items() if token.strip() == letter) for letter in LETTERS
    )
    return first / (first + second)
