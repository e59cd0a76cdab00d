"""Rewards from linear heads on the hidden states of a frozen model, fitted on the seed pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from sgpo.choices import Pooling
from sgpo.config.options import HeadsOptions
from sgpo.errors import check_failed
from sgpo.policy.embed import embed_responses
from sgpo.policy.load import Policy
from sgpo.policy.tokens import Messages, response_texts
from sgpo.preferences.annotators.ranking import Ranking
from sgpo.preferences.distinct import prompt_key
from sgpo.stats.heads import Heads, fit_heads
from sgpo.stats.ranking import RankingAccuracy
from sgpo.store.progress import Advance

POOLINGS = Pooling.__args__


@dataclass(frozen=True)
class RewardHeads:
    """Linear heads on the states of a frozen model; the reward is their mean less `penalty` of their deviations.

    No larger share of the responses of a call than `max_failed` may have no reward.
    """

    policy: Policy
    options: HeadsOptions
    heads: Heads | None = None
    max_failed: float = 0.2

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Scores every response, see `Annotator`.

        Counts: responses without a reward, `too_long` for the context and `not_finite`. Parts: `head_std`.
        """
        states, counts = self.embed(prompts, responses, progress)
        rewards = self.heads.rewards(states)
        spread = rewards.std(axis=1)
        return Ranking(rewards.mean(axis=1) - self.options.penalty * spread, counts, {"head_std": spread})

    def fit(
        self, pairs: Dataset, *, seed: int, progress: Advance | None = None
    ) -> tuple[Heads, dict[str, Any], RankingAccuracy]:
        """Heads fitted on N pairs, as `load_pairs` returns them, what was chosen, and their cross-validated accuracy.

        Raises what `sgpo.stats.heads.fit_heads` raises.
        """
        options, sides = self.options, [response_texts(pairs, side) for side in ("chosen", "rejected")]
        states, left_out = self.embed(pairs["prompt"][:], list(zip(*sides, strict=True)), progress)
        both = states.reshape(len(pairs), 2, *states.shape[1:])
        kept = np.isfinite(both).all(axis=(1, 2, 3))
        prompts = [prompt_key(messages) for messages in pairs.select(np.flatnonzero(kept))["prompt"]]
        views = range(len(POOLINGS)) if options.pooling is None else [POOLINGS.index(options.pooling)]
        how = {"count": options.heads, "views": views, "regularisation": options.regularisation, "seed": seed}
        heads, view, strength, accuracy = fit_heads(*both[kept].swapaxes(0, 1), prompts, **how)
        return heads, {"pooling": POOLINGS[view], "regularisation": strength, "left_out": left_out}, accuracy

    def embed(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], progress: Advance | None = None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """`embed_responses` of all responses, and counts of those that have no states."""
        states, too_long = embed_responses(
            self.policy, prompts, responses, batch_tokens=self.options.batch_tokens, progress=progress
        )
        bad = ~np.isfinite(states).all(axis=(1, 2))
        states[bad] = np.nan
        counts = {"too_long": int(too_long.sum()), "not_finite": int((bad & ~too_long).sum())}
        check_failed(counts, len(states), self.max_failed, "responses below reward heads")
        return states, counts
