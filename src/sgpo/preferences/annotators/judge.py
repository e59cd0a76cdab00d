"""Rewards from an LLM judge."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.config import validate
from sgpo.config.evaluation import VerdictOptions
from sgpo.errors import InputError
from sgpo.preferences.annotators.ranking import Advance, Messages, Ranking
from sgpo.preferences.annotators.verdicts import PairwiseJudge, both_verdicts
from sgpo.serving.client import ServerPool


class Judge:
    """Ranks responses by the comparisons that an LLM judge decides, see `PairwiseJudge`.

    Every two responses of a prompt are compared in both orders. A comparison without two verdicts does not count.
    Empty responses are not compared, and repetitions of a text only once. The reward of a response is the mean of its
    results: 1 won, 1/2 tie, 0 lost; nan if none of its comparisons counts.

    Args:
        pool: the servers.
        model: the judge's name there.
        template: file with the judge's prompt; None uses the built-in one.
        max_chars: comparisons with more characters are skipped, because a judge whose context they exceed would refuse
            them and end the run; None asks for all.
        options: fields of `VerdictOptions`: max_tokens, temperature, seed, request.

    Raises:
        InputError: the template cannot be used, an option is out of range, or `max_chars` < 1.
    """

    def __init__(
        self,
        pool: ServerPool,
        model: str,
        *,
        template: str | Path | None = None,
        max_chars: int | None = None,
        **options: Any,
    ) -> None:
        if max_chars is not None and max_chars < 1:
            raise InputError(f"max_chars is {max_chars}; allowed: None or a whole number >= 1.")
        self._pool, self._max_chars = pool, max_chars
        self._judge = PairwiseJudge(model, validate(VerdictOptions, options, "options"), template=template)

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses; see `Annotator`.

        Counts: `comparisons` that were asked for; of these `ties`, `inconsistent` (which are ties) and `unparsed`
        (which do not count); `first_preferred`, verdicts for whichever was in front; and `too_long`, not asked for.

        Raises:
            InputError: see `ServerPool.map`.
        """
        counts = Counter(
            dict.fromkeys(("comparisons", "ties", "inconsistent", "unparsed", "first_preferred", "too_long"), 0)
        )
        duels, bodies = [], []
        for row, texts in enumerate(responses):
            distinct = dict.fromkeys(text.strip() for text in texts if text.strip())
            for first, second in combinations(distinct, 2):
                asked = self._judge.requests(prompts[row], first, second)
                if self._max_chars is not None and len(asked[0]["messages"][0]["content"]) > self._max_chars:
                    counts["too_long"] += 1
                    continue
                duels.append((row, first, second))
                bodies += asked
        share = len(prompts) / max(len(bodies), 1)
        answers = self._pool.map(bodies, progress=None if progress is None else lambda count: progress(count * share))
        results: dict[tuple[int, str], list[float]] = {}
        for (row, first, second), verdicts in zip(duels, both_verdicts(answers, self._judge), strict=True):
            result = self._judge.settle(*verdicts, counts)
            if result is not None:
                results.setdefault((row, first), []).append(result)
                results.setdefault((row, second), []).append(1 - result)
        rewards = [
            float(np.mean(results.get((row, text.strip()), np.nan)))
            for row, candidates in enumerate(responses)
            for text in candidates
        ]
        return Ranking(np.array(rewards, dtype=np.float64), dict(counts))
