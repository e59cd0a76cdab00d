"""Rewards from an LLM judge."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from sgpo.config.options import RankingJudgeOptions
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.ranking import Ranking
from sgpo.preferences.annotators.verdicts import PairwiseJudge, both_verdicts
from sgpo.serving.client import ServerPool
from sgpo.store.progress import Advance, in_shares

_COUNTS = ("comparisons", "ties", "inconsistent", "unparsed", "first_preferred", "too_long")


class Judge:
    """Ranks responses by the comparisons that an LLM judge decides, see `PairwiseJudge`.

    Every two responses of a prompt are compared in both orders. A comparison without two verdicts does not count.
    Empty responses are not compared, and repetitions of a text only once. The reward of a response is the mean of its
    results: 1 won, 1/2 tie, 0 lost; nan if none of its comparisons counts.

    Args:
        pool: the servers.
        model: the judge's name there.
        options: how it is asked. Comparisons with more than `max_chars` are skipped, because a judge whose context they
            exceed would refuse them and end the run.
        template: file with the judge's prompt; None uses the built-in one.
    """

    def __init__(
        self, pool: ServerPool, model: str, options: RankingJudgeOptions, *, template: str | Path | None = None
    ) -> None:
        self._pool, self._max_chars = pool, options.max_chars
        self._judge = PairwiseJudge(model, options, template=template)

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses, see `Annotator`.

        Counts: `comparisons` that were asked for; of these `ties`, `inconsistent` (which are ties) and `unparsed`
        (which do not count); `first_preferred`, verdicts for the response shown first; and `too_long`, not asked for.
        """
        counts = Counter(dict.fromkeys(_COUNTS, 0))
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
        answers = self._pool.map(bodies, progress=in_shares(progress, len(prompts), len(bodies)))
        results: dict[tuple[int, str], list[float]] = defaultdict(list)
        for (row, first, second), verdicts in zip(duels, both_verdicts(answers, self._judge), strict=True):
            result = self._judge.settle(*verdicts, counts)
            if result is not None:
                results[row, first].append(result)
                results[row, second].append(1 - result)
        places = [(row, text.strip()) for row, texts in enumerate(responses) for text in texts]
        return Ranking(np.array([np.mean(results.get(place, np.nan)) for place in places], dtype=float), dict(counts))
