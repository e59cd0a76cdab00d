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
from sgpo.preferences.layout import prompt_key
from sgpo.stats.heads import Heads, fit_heads
from sgpo.store.progress import Advance

_POOLINGS = Pooling.__args__


@dataclass(frozen=True)
class RewardHeads:
    """Linear heads on states of a frozen model: the reward is their mean less `penalty` of their standard deviations.
    `options` name the pooling of fitted heads. A share `max_failed` of the responses of a call may have no reward."""

    policy: Policy
    options: HeadsOptions
    heads: Heads | None = None
    max_failed: float = 0.2

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """See `Annotator`. Counts: responses `too_long` for the context, or states `not_finite`; parts: `head_std`."""
        states, counts = self._embed(prompts, responses, progress)
        rewards = self.heads.rewards(states[:, _POOLINGS.index(self.options.pooling)])
        spread = rewards.std(axis=1)
        return Ranking(rewards.mean(axis=1) - self.options.penalty * spread, counts, {"head_std": spread})

    def fit(self, pairs: Dataset, *, seed: int, progress: Advance | None = None) -> tuple[Heads, dict[str, Any]]:
        """Heads fitted on pairs, as `load_pairs` returns them, by the pooling with the best cross-validated accuracy;
        that accuracy, and what was chosen and left out."""
        sides = zip(*(response_texts(pairs, side) for side in ("chosen", "rejected")), strict=True)
        states, left_out = self._embed(pairs["prompt"][:], list(sides), progress)
        kept = np.flatnonzero(np.isfinite(states).all(axis=(1, 2)).reshape(-1, 2).all(axis=1))
        prompts = [prompt_key(messages) for messages in pairs.select(kept)["prompt"]]
        how = {"count": self.options.heads, "regularisation": self.options.regularisation, "seed": seed}
        tried = _POOLINGS if self.options.pooling is None else (self.options.pooling,)
        found = {}
        for name in tried:
            chosen, rejected = (states[2 * kept + side, _POOLINGS.index(name)] for side in (0, 1))
            found[name] = fit_heads(chosen, rejected, prompts, **how)
        pooling = max(tried, key=lambda name: found[name][2].accuracy)
        heads, strength, accuracy = found[pooling]
        about = {"pooling": pooling, "tried": {name: one[2].accuracy for name, one in found.items()}}
        return heads, {**accuracy._asdict(), **about, "regularisation": strength, "left_out": left_out}

    def _embed(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], progress: Advance | None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """(R, 2, d) states of all responses, nan where there are none, and counts of these."""
        size = self.options.batch_tokens
        states, too_long = embed_responses(self.policy, prompts, responses, batch_tokens=size, progress=progress)
        states[~np.isfinite(states).all(axis=(1, 2))] = np.nan
        counts = {"too_long": int(too_long.sum()), "not_finite": int(np.isnan(states[~too_long, 0, 0]).sum())}
        check_failed(counts, len(states), self.max_failed, "responses below reward heads")
        return states, counts
