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
from sgpo.store.progress import Advance


@dataclass(frozen=True)
class RewardHeads:
    """Linear heads on states of a frozen model: the reward is their mean less `penalty` of their standard deviations.
    A share `max_failed` of the responses of a call may have none."""

    policy: Policy
    options: HeadsOptions
    heads: Heads | None = None
    max_failed: float = 0.2

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """See `Annotator`. Counts: responses `too_long` for the context, or states `not_finite`; parts: `head_std`."""
        states, counts = self._embed(prompts, responses, progress)
        rewards = self.heads.rewards(states)
        spread = rewards.std(axis=1)
        return Ranking(rewards.mean(axis=1) - self.options.penalty * spread, counts, {"head_std": spread})

    def fit(self, pairs: Dataset, *, seed: int, progress: Advance | None = None) -> tuple[Heads, dict[str, Any]]:
        """Heads fitted on pairs, as `load_pairs` returns them; their cross-validated accuracy, and what was done."""
        sides = zip(*(response_texts(pairs, side) for side in ("chosen", "rejected")), strict=True)
        states, left_out = self._embed(pairs["prompt"][:], list(sides), progress)
        kept = np.flatnonzero(np.isfinite(states).all(axis=1).reshape(-1, 2).all(axis=1))
        prompts = [prompt_key(messages) for messages in pairs.select(kept)["prompt"]]
        how = {"count": self.options.heads, "regularisation": self.options.regularisation, "seed": seed}
        heads, strength, accuracy = fit_heads(states[2 * kept], states[2 * kept + 1], prompts, **how)
        return heads, {**accuracy._asdict(), "regularisation": strength, "left_out": left_out}

    def _embed(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], progress: Advance | None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """(R, d) states of all responses, nan where there are none, and counts of these."""
        size, place = self.options.batch_tokens, Pooling.__args__.index(self.options.pooling)
        states, too_long = embed_responses(self.policy, prompts, responses, batch_tokens=size, progress=progress)
        states[~np.isfinite(states).all(axis=(1, 2))] = np.nan
        counts = {"too_long": int(too_long.sum()), "not_finite": int(np.isnan(states[~too_long, 0, 0]).sum())}
        check_failed(counts, len(states), self.max_failed, "responses below reward heads")
        return states[:, place], counts
