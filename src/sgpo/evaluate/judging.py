"""Two policies' answers compared by an LLM judge that sees each pair in both orders."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from sgpo.errors import InputError
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.verdicts import NEEDS_LOGPROBS, PairwiseJudge, both_verdicts
from sgpo.serving.answers import Body
from sgpo.serving.cache import CachedPool
from sgpo.stats.intervals import share_interval
from sgpo.stats.win_rate import win_rate
from sgpo.store.progress import Advance

# Of English text in the tokenizers of common judges; other languages have fewer.
CHARACTERS_PER_TOKEN = 4.0


def judge_requests(
    judge: PairwiseJudge, prompts: Sequence[Messages], first: Sequence[str], second: Sequence[str]
) -> list[Body]:
    """The request bodies of P comparisons: two for each prompt whose answers differ."""
    rows = zip(prompts, first, second, strict=True)
    return [body for prompt, *answers in rows if _differ(*answers) for body in judge.requests(prompt, *answers)]


def describe_cost(
    bodies: Sequence[Body], missing: Sequence[Body], *, price_in: float | None, price_out: float | None
) -> str:
    """A sentence on the number of chat completions, their tokens and, with prices, an upper bound of their cost.

    `missing` are the request bodies without a cached answer; prices are of a million tokens read and written.
    """
    if (price_in is None) != (price_out is None):
        raise InputError(f"--price-in is {price_in} and --price-out {price_out}; allowed: both, or neither.")
    for name, price in (("--price-in", price_in), ("--price-out", price_out)):
        if price is not None and not price >= 0:
            raise InputError(f"{name} is {price}; allowed: a number >= 0.")
    text = f"{len(bodies):,} requests, {len(bodies) - len(missing):,} of them answered already"
    if not missing:
        return f"{text}; nothing to ask."
    characters = sum(len(message["content"]) for body in missing for message in body["messages"])
    limits = [body.get("max_completion_tokens", body.get("max_tokens")) for body in missing]
    reading, writing = round(characters / CHARACTERS_PER_TOKEN), None if None in limits else sum(limits)
    most = "without a limit" if writing is None else f"at most {writing:,}"
    text += f"; about {reading:,} tokens to read and {most} to generate"
    if price_in is not None and writing is not None:
        text += f", at most about {(reading * price_in + writing * price_out) / 1e6:,.2f}"
    return f"{text}."


def compare_by_judge(
    judge: PairwiseJudge,
    pool: CachedPool,
    bodies: Sequence[Body],
    prompts: Sequence[Messages],
    first: Sequence[str],
    second: Sequence[str],
    *,
    progress: Advance,
) -> dict[str, Any]:
    """Judges P pairs of answers by the requests of `judge_requests`; docs/evaluation.md explains the result.

    Rates are nan if no verdict could be read. A row of `duels` has the verdict with the first answer in front
    (`straight`), with the second (`swapped`), and the `result`: 1 is a win of the first answer, 0 a loss, values in
    between are draws or weighted wins; None could not be read. `asked` is False if the answers are equal.
    """
    try:
        answers = pool.map(bodies, progress=progress)
    except InputError as error:
        raise (InputError(f"{error} ({NEEDS_LOGPROBS}.)") if judge.logprobs else error) from error
    verdicts = iter(both_verdicts(answers, judge))
    counts: Counter[str] = Counter()
    duels = []
    for prompt, one, other in zip(prompts, first, second, strict=True):
        straight, swapped, result, asked = None, None, 0.5, _differ(one, other)
        if asked:
            straight, swapped = next(verdicts)
            result = judge.settle(straight, swapped, counts)
        verdict = {"straight": straight, "swapped": swapped, "result": result, "asked": asked}
        duels.append({"prompt": list(prompt), **verdict})
    return {**_summarise(duels, counts), "duels": duels}


def _differ(one: str, other: str) -> bool:
    return one.strip() != other.strip()


def _summarise(duels: list[dict[str, Any]], counts: Counter) -> dict[str, Any]:
    results = np.array([duel["result"] for duel in duels if duel["result"] is not None])
    read = [[share for share in (duel["straight"], duel["swapped"]) if share is not None] for duel in duels]
    front = np.array([np.mean(shares) for shares in read if shares])
    rate, low, high = win_rate(results)[:3] if results.size else [math.nan] * 3
    front_low, front_high = share_interval(front) if front.size else [math.nan] * 2
    return {
        "win_rate": rate,
        "low": low,
        "high": high,
        "prompts": len(duels),
        "judged": results.size,
        "wins": int((results > 0.5).sum()),
        "ties": int((results == 0.5).sum()),
        "losses": int((results < 0.5).sum()),
        "identical": sum(not duel["asked"] for duel in duels),
        "inconsistent": counts["inconsistent"],
        "unparsed": counts["unparsed"],
        "verdicts": sum(map(len, read)),
        "first_preferred": counts["first_preferred"],
        "front_share": float(front.mean()) if front.size else math.nan,
        "front_low": front_low,
        "front_high": front_high,
    }
