"""Rewards from an LLM judge."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from sgpo.config.options import JudgeOptions
from sgpo.policy.tokens import Messages
from sgpo.preferences.annotators.ranking import Ranking
from sgpo.preferences.annotators.verdicts import PairwiseJudge
from sgpo.serving.cache import CachedPool
from sgpo.serving.client import ServerPool
from sgpo.store.progress import Advance, in_shares

_COUNTS = ("comparisons", "ties", "inconsistent", "first_preferred")


class Judge:
    """Ranks responses by the comparisons of an LLM judge, see `PairwiseJudge`: every two distinct, non-empty responses
    of a prompt in both orders. The reward is the mean of a response's results (1 won, 1/2 tie, 0 lost); nan if none
    counts."""

    def __init__(
        self, pool: ServerPool | CachedPool, model: str, options: JudgeOptions, *, template: str | Path | None = None
    ) -> None:
        self._pool = pool
        self._judge = PairwiseJudge(model, options, template=template)

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks P lists of responses, see `Annotator`. Counts: `comparisons`; of these `ties` and `inconsistent` (which
        are ties); `first_preferred` verdicts; and comparisons that do not count, by reason."""
        counts = Counter(dict.fromkeys(_COUNTS, 0))
        duels, bodies = [], []
        for row, texts in enumerate(responses):
            distinct = dict.fromkeys(text.strip() for text in texts if text.strip())
            for first, second in combinations(distinct, 2):
                asked = self._judge.requests(prompts[row], first, second)
                if asked is None:
                    counts["too_long"] += 1
                    continue
                duels.append((row, first, second))
                bodies += asked
        progress = in_shares(progress, len(prompts), len(bodies))
        answers = self._pool.map(bodies, progress=progress, review=self._judge.review)
        results: dict[tuple[int, str], list[float]] = defaultdict(list)
        for (row, first, second), *both in zip(duels, answers[::2], answers[1::2], strict=True):
            result = self._judge.settle(both, counts).result
            if result is not None:
                results[row, first].append(result)
                results[row, second].append(1 - result)
        places = [(row, text.strip()) for row, texts in enumerate(responses) for text in texts]
        return Ranking(np.array([np.mean(results.get(place, np.nan)) for place in places], dtype=float), dict(counts))
