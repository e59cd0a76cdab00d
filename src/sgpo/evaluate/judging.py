"""Two policies' answers compared by a language model that sees each pair both ways round."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgpo.errors import InputError
from sgpo.evaluate.letters import read_letter
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.judge import fill_template, read_template, read_verdict, settle_duel
from sgpo.serving.answers import Answer
from sgpo.serving.cache import Body, Pool
from sgpo.stats.intervals import share_interval
from sgpo.stats.win_rate import win_rate

TOP_LOGPROBS = 20
_NO_LOGPROBS = "log-probability judging needs a server that gives logprobs of the first token"


class Duel(NamedTuple):
    """One prompt's comparison: what the judge said with the first answer in front, with the second, and the result.

    1 is a win of the first answer, 0 a loss, between them a draw or a weighted win; None could not be read. `asked` is
    False where the answers are equal, which is a tie by itself.
    """

    straight: float | None
    swapped: float | None
    result: float | None
    asked: bool


class JudgedComparison(NamedTuple):
    """What a judge makes of a policy's answers against another's.

    Attributes:
        win_rate, low, high: share of prompts won, ties counted half, and its 95% interval over prompts; nan where no
            comparison could be read.
        prompts: all of them; judged: those with a result.
        wins, ties, losses: results above, at and below one half; they add up to judged.
        identical: ties between equal answers, which the judge is not asked about.
        inconsistent: comparisons whose two verdicts contradict each other; ties, where verdicts are words.
        unparsed: comparisons without two verdicts that could be read; they count in nothing else.
        verdicts: answers of the judge that could be read; first_preferred: those for whichever answer was in front.
        front_share, front_low, front_high: mean share of the win that the answer in front gets, with its 95% interval
            over prompts; 0.5 where the order means nothing.
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


class PairwiseJudge:
    """How a judge is asked, and how its answers are read.

    In words: a verdict is a line "Verdict: A", "Verdict: B" or "Verdict: tie", see
    `sgpo.preferences.annotators.judge.Judge`. By log-probabilities: the share of "A" between the two letters in the
    law of the judge's first token, see `sgpo.evaluate.letters.read_letter`; a result is then the mean share over both
    orders.

    Args:
        model: the judge's name on its servers.
        template: file with {prompt}, {first} and {second}; None takes the one that comes along for the kind of judging.
        logprobs: judge by log-probabilities.
        max_tokens: of an answer in words.
        temperature: of the judge's sampling.
        seed: sent with every request.
        request: further fields of a request, which go before the ones above; a field that is None is left out.

    Raises:
        InputError: the template cannot be read, or is none.
    """

    def __init__(
        self,
        model: str,
        *,
        template: str | Path | None = None,
        logprobs: bool = False,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        request: dict[str, Any] | None = None,
    ) -> None:
        self._logprobs = logprobs
        if logprobs:
            self._template = read_template(template, default="letter_template.txt", asked=())
        else:
            self._template = read_template(template)
        fields = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        if logprobs:
            fields |= {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        self._fields = {name: value for name, value in {**fields, **(request or {})}.items() if value is not None}

    def requests(self, prompts: Sequence[Messages], first: Sequence[str], second: Sequence[str]) -> list[Body]:
        """The request bodies of P comparisons: two for each prompt whose answers differ."""
        return [
            {**self._fields, "messages": [{"role": "user", "content": fill_template(self._template, prompt, *shown)}]}
            for prompt, one, other in zip(prompts, first, second, strict=True)
            if _differ(one, other)
            for shown in ((one, other), (other, one))
        ]

    def compare(
        self,
        pool: Pool,
        prompts: Sequence[Messages],
        first: Sequence[str],
        second: Sequence[str],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> JudgedComparison:
        """Has P pairs of answers judged.

        Args:
            pool: the judge's servers, such as a `CachedPool`.
            prompts: P conversations.
            first: (P,) answers of the policy whose wins are counted.
            second: (P,) answers that it is compared with.
            progress: called with the number of verdicts newly there.

        Raises:
            InputError: what the pool raises, or log-probabilities that the server does not give.
        """
        bodies = self.requests(prompts, first, second)
        try:
            answers = iter(pool.map(bodies, progress=progress))
        except InputError as error:
            raise (InputError(f"{error} ({_NO_LOGPROBS}.)") if self._logprobs else error) from error
        counts: Counter[str] = Counter()
        duels = []
        for one, other in zip(first, second, strict=True):
            if not _differ(one, other):
                duels.append(Duel(None, None, 0.5, False))
                continue
            straight, swapped = self._read(next(answers)), self._read(next(answers))
            settle = _weigh if self._logprobs else settle_duel
            duels.append(Duel(straight, swapped, settle(straight, swapped, counts), True))
        return _summarise(duels, counts)

    def _read(self, answer: Answer) -> float | None:
        if not self._logprobs:
            return read_verdict(answer)
        if not answer.top_logprobs:
            raise InputError(f"the judge's server gave an answer without log-probabilities; {_NO_LOGPROBS}.")
        return read_letter(answer.top_logprobs)


def _differ(one: str, other: str) -> bool:
    return one.strip() != other.strip()


def _weigh(straight: float | None, swapped: float | None, counts: Counter) -> float | None:
    """The mean share of the first answer over both orders; counts as `settle_duel` does, which knows words."""
    counts["comparisons"] += 1
    counts["first_preferred"] += sum(share is not None and share > 0.5 for share in (straight, swapped))
    if straight is None or swapped is None:
        counts["unparsed"] += 1
        return None
    counts["inconsistent"] += (straight - 0.5) * (swapped - 0.5) > 0
    return (straight + 1 - swapped) / 2


def _summarise(duels: list[Duel], counts: Counter) -> JudgedComparison:
    results = np.array([duel.result for duel in duels if duel.result is not None])
    rate = win_rate(results) if results.size else None
    read = [[share for share in (duel.straight, duel.swapped) if share is not None] for duel in duels]
    front = np.array([np.mean(shares) for shares in read if shares])
    nan = float("nan")
    return JudgedComparison(
        win_rate=rate.win_rate if rate else nan,
        low=rate.low if rate else nan,
        high=rate.high if rate else nan,
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
        front_low=share_interval(front)[0] if front.size else nan,
        front_high=share_interval(front)[1] if front.size else nan,
        duels=duels,
    )
