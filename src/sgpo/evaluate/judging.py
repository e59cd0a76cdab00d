"""Two policies' answers compared by an LLM judge that sees each pair in both orders."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sgpo.config import EvaluateConfig
from sgpo.errors import InputError
from sgpo.evaluate.prompt_files import Answers, by_reason, missing
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.verdicts import NEEDS_LOGPROBS, PairwiseJudge, Settled
from sgpo.serving.answers import Body
from sgpo.serving.cache import CachedPool
from sgpo.serving.client import ServerPool
from sgpo.stats.intervals import share_interval, win_rate
from sgpo.store.progress import Advance

# Of English text in the tokenizers of common judges; other languages have fewer.
CHARACTERS_PER_TOKEN = 4.0


class Duel(NamedTuple):
    """Two answers to a prompt: the requests of the judge, or the result and the failure that no request changes."""

    prompt: Messages
    bodies: list[Body]
    settled: Settled


def open_judge(settings: EvaluateConfig) -> tuple[PairwiseJudge, ServerPool]:
    """The judge of an evaluation, and its servers."""
    options = settings.read_options
    judge = PairwiseJudge(settings.model, options, template=settings.template, logprobs=settings.logprobs)
    return judge, ServerPool(settings.servers, **options.connection(), max_failed=settings.max_failed)


def open_duels(judge: PairwiseJudge, prompts: Sequence[Messages], first: Answers, second: Answers) -> list[Duel]:
    """The comparisons of P pairs of answers; equal ones are ties, and what is missing or too long is not asked for."""
    duels = []
    for prompt, one, other, failure in zip(prompts, first.texts, second.texts, missing(first, second), strict=True):
        bodies, result = [], None
        if failure is None and one.strip() == other.strip():
            result = 0.5
        elif failure is None:
            bodies = judge.requests(prompt, one, other) or []
            failure = None if bodies else "too_long"
        duels.append(Duel(prompt, bodies, Settled(None, None, result, failure)))
    return duels


def describe_cost(
    bodies: Sequence[Body], missing: Sequence[Body], *, price_in: float | None, price_out: float | None
) -> str:
    """A sentence on the number of chat completions, their tokens and, with prices per million tokens, an upper bound of
    their cost; `missing` are the request bodies without a cached answer."""
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
    judge: PairwiseJudge, pool: CachedPool, duels: Sequence[Duel], *, progress: Advance
) -> dict[str, Any]:
    """Judges P pairs of answers; docs/evaluation.md explains the result. Rates are nan if there is no verdict. A row of
    `duels` holds what is in `Settled`, and whether a request was sent (`asked`)."""
    try:
        bodies = [body for duel in duels for body in duel.bodies]
        answers = iter(pool.map(bodies, progress=progress, review=judge.review))
    except InputError as error:
        raise (InputError(f"{error} ({NEEDS_LOGPROBS}.)") if judge.logprobs else error) from error
    counts: Counter[str] = Counter()
    settled = [judge.settle([next(answers), next(answers)], counts) if duel.bodies else duel.settled for duel in duels]
    rows = [
        {"prompt": list(duel.prompt), **one._asdict(), "asked": bool(duel.bodies)}
        for duel, one in zip(duels, settled, strict=True)
    ]
    return {
        **_summarise(settled, counts),
        "identical": sum(duel.settled.result == 0.5 for duel in duels),
        "duels": rows,
    }


def _summarise(settled: Sequence[Settled], counts: Counter) -> dict[str, Any]:
    results = np.array([one.result for one in settled if one.result is not None])
    read = [[share for share in (one.straight, one.swapped) if share is not None] for one in settled]
    front = np.array([np.mean(shares) for shares in read if shares])
    rate, low, high = win_rate(results)[:3] if results.size else [math.nan] * 3
    front_low, front_high = share_interval(front) if front.size else [math.nan] * 2
    return {
        "win_rate": rate,
        "low": low,
        "high": high,
        "prompts": len(settled),
        "judged": results.size,
        "wins": int((results > 0.5).sum()),
        "ties": int((results == 0.5).sum()),
        "losses": int((results < 0.5).sum()),
        "inconsistent": counts["inconsistent"],
        "failed": by_reason([one.failure for one in settled]),
        "verdicts": sum(map(len, read)),
        "first_preferred": counts["first_preferred"],
        "front_share": float(front.mean()) if front.size else math.nan,
        "front_low": front_low,
        "front_high": front_high,
    }
