"""Two policies' answers compared by an LLM judge that sees each pair in both orders."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.verdicts import NEEDS_LOGPROBS, PairwiseJudge, both_verdicts
from sgpo.serving.answers import Body
from sgpo.serving.cache import CachedPool
from sgpo.serving.client import ServerPool
from sgpo.stats.intervals import share_interval
from sgpo.stats.win_rate import win_rate
from sgpo.store.progress import Advance


class Duel(NamedTuple):
    """The comparison on one prompt: the verdict with the first answer in front, with the second, and the result.

    1 is a win of the first answer, 0 a loss, values in between are draws or weighted wins; None could not be read.
    `asked` is False if the answers are equal, which is a tie without asking.
    """

    straight: float | None
    swapped: float | None
    result: float | None
    asked: bool


class JudgedComparison(NamedTuple):
    """A judge's comparison of a policy's answers with another's.

    Attributes:
        win_rate, low, high: share of prompts won, ties counted half, and its 95% interval over prompts; nan if no
            comparison could be read.
        prompts: all of them; judged: those with a result.
        wins, ties, losses: results above, at and below one half; they add up to judged.
        identical: ties between equal answers, which the judge is not asked about.
        inconsistent: comparisons whose two verdicts contradict each other; with verdicts in words they are ties.
        unparsed: comparisons without two verdicts that could be read; no other count includes them.
        verdicts: answers of the judge that could be read; first_preferred: those for the answer in front.
        front_share, front_low, front_high: mean share of the win that the answer in front gets, with its 95% interval
            over prompts; 0.5 if the judge ignores the order.
        duels: (P,) one for each prompt.
    """

    win_rate: float
    low: float
    high: float
    prompts: int
    judged: int
    wins: int
    ties: int
    losses: int
    identical: int
    inconsistent: int
    unparsed: int
    verdicts: int
    first_preferred: int
    front_share: float
    front_low: float
    front_high: float
    duels: list[Duel]


def judge_requests(
    judge: PairwiseJudge, prompts: Sequence[Messages], first: Sequence[str], second: Sequence[str]
) -> list[Body]:
    """The request bodies of P comparisons: two for each prompt whose answers differ."""
    rows = zip(prompts, first, second, strict=True)
    return [body for prompt, *answers in rows if _differ(*answers) for body in judge.requests(prompt, *answers)]


def compare_by_judge(
    judge: PairwiseJudge,
    pool: ServerPool | CachedPool,
    bodies: Sequence[Body],
    first: Sequence[str],
    second: Sequence[str],
    *,
    progress: Advance | None = None,
) -> JudgedComparison:
    """Judges P pairs of answers.

    Args:
        judge: how its answers are read.
        pool: the judge's servers, such as a `CachedPool`.
        bodies: see `judge_requests`.
        first: (P,) answers of the policy whose wins are counted.
        second: (P,) answers to compare with.
        progress: called with the number of new verdicts.

    Raises:
        InputError: see `pool` and `PairwiseJudge.read`.
    """
    try:
        answers = pool.map(bodies, progress=progress)
    except InputError as error:
        raise (InputError(f"{error} ({NEEDS_LOGPROBS}.)") if judge.logprobs else error) from error
    verdicts = iter(both_verdicts(answers, judge))
    counts: Counter[str] = Counter()
    duels = []
    for one, other in zip(first, second, strict=True):
        if _differ(one, other):
            straight, swapped = next(verdicts)
            duels.append(Duel(straight, swapped, judge.settle(straight, swapped, counts), True))
        else:
            duels.append(Duel(None, None, 0.5, False))
    return _summarise(duels, counts)


def _differ(one: str, other: str) -> bool:
    return one.strip() != other.strip()


def _summarise(duels: list[Duel], counts: Counter) -> JudgedComparison:
    results = np.array([duel.result for duel in duels if duel.result is not None])
    read = [[share for share in (duel.straight, duel.swapped) if share is not None] for duel in duels]
    front = np.array([np.mean(shares) for shares in read if shares])
    nan = float("nan")
    rate, low, high = win_rate(results)[:3] if results.size else (nan, nan, nan)
    front_low, front_high = share_interval(front) if front.size else (nan, nan)
    return JudgedComparison(
        win_rate=rate,
        low=low,
        high=high,
        prompts=len(duels),
        judged=results.size,
        wins=int((results > 0.5).sum()),
        ties=int((results == 0.5).sum()),
        losses=int((results < 0.5).sum()),
        identical=sum(not duel.asked for duel in duels),
        inconsistent=int(counts["inconsistent"]),
        unparsed=counts["unparsed"],
        verdicts=sum(map(len, read)),
        first_preferred=int(counts["first_preferred"]),
        front_share=float(front.mean()) if front.size else nan,
        front_low=front_low,
        front_high=front_high,
        duels=duels,
    )
