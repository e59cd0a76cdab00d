"""Rewards from linear heads on the hidden states of a frozen model, fitted on the seed pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from sgpo.choices import Pooling
from sgpo.config.options import HeadsOptions
from sgpo.errors import check_failed, naming_rows
from sgpo.policy.embed import embed_responses
from sgpo.policy.load import Policy
from sgpo.policy.tokens import Messages, response_texts
from sgpo.preferences.annotators.ranking import Ranking
from sgpo.preferences.distinct import prompt_key
from sgpo.stats.heads import Heads, fit_heads
from sgpo.stats.ranking import RankingAccuracy
from sgpo.store.files import reading_back
from sgpo.store.progress import Advance, in_shares
from sgpo.store.records import HEADS_RECORD, HeadsRecord

_POOLINGS, _WEIGHTS, _TENSORS = Pooling.__args__, "heads.safetensors", ("weights", "centre", "scale")


@dataclass(frozen=True)
class HeadsReader:
    """What reads states for heads: a frozen policy, and the share of the responses of a call that may have none."""

    policy: Policy
    options: HeadsOptions
    max_failed: float = 0.2

    def read(
        self, prompts: Sequence[Messages], texts: Sequence[str], progress: Advance | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """(N, 2, d) states of N responses, (N,) whether they are finite, and counts of those that are not."""
        size = self.options.batch_tokens
        states, too_long = embed_responses(self.policy, prompts, texts, batch_tokens=size, progress=progress)
        is_read = np.isfinite(states).all(axis=(1, 2))
        counts = {"too_long": int(too_long.sum()), "not_finite": int((~is_read & ~too_long).sum())}
        check_failed(counts, len(texts), self.max_failed, "responses that reward heads read")
        return states, is_read, counts

    def fit(self, pairs: Dataset, *, seed: int = 0, progress: Advance | None = None) -> tuple[Heads, dict[str, int]]:
        """Heads fitted on N pairs, as `load_pairs` returns them, and counts of responses whose pairs were left out.

        `progress` counts 2N responses. Raises what `fit_heads` raises, and InputError for too many that are left out.
        """
        texts, options = response_texts(pairs, "chosen") + response_texts(pairs, "rejected"), self.options
        with naming_rows(lambda row: f"row {row % len(pairs)}"):
            states, is_read, counts = self.read(pairs["prompt"][:] * 2, texts, progress)
        kept = is_read.reshape(2, -1).all(axis=0)
        names = _POOLINGS if options.pooling is None else (options.pooling,)
        sides = [{name: side[kept, _POOLINGS.index(name)] for name in names} for side in np.split(states, 2)]
        prompts = [prompt_key(messages) for messages in pairs.select(np.flatnonzero(kept))["prompt"]]
        settings = {"count": options.heads, "regularisation": options.regularisation, "seed": seed}
        return fit_heads(*sides, prompts, **settings), counts


@dataclass(frozen=True)
class RewardHeads:
    """Linear heads on the states of a frozen model; the reward is their mean less `penalty` of their spread."""

    reader: HeadsReader
    heads: Heads

    def __call__(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]], *, progress: Advance | None = None
    ) -> Ranking:
        """Ranks every response but empty ones, see `Annotator`.

        Counts: responses without a reward, `too_long` for the model's context and `not_finite`. Parts: `head_std`, the
        standard deviation over the heads.
        """
        rows = [(row, text) for row, texts in enumerate(responses) for text in texts]
        filled = np.array([place for place, (_, text) in enumerate(rows) if text.strip()], dtype=np.int64)
        asked, texts = [rows[place][0] for place in filled], [rows[place][1] for place in filled]
        with naming_rows(lambda row: f"row {asked[row]}"):
            advance = in_shares(progress, len(prompts), len(filled))
            states, is_read, counts = self.reader.read([prompts[row] for row in asked], texts, advance)
        states = states[is_read, _POOLINGS.index(self.heads.pooling)]
        found = np.full((2, len(rows)), np.nan)
        found[:, filled[is_read]] = self.heads.rewards(states, self.reader.options.penalty)
        return Ranking(found[0], counts, {"head_std": found[1]})


def write_heads(folder: Path, heads: Heads, left_out: dict[str, int]) -> None:
    """Writes heads as safetensors, with a record of how they were fitted."""
    folder.mkdir()
    save_file({name: np.ascontiguousarray(getattr(heads, name)) for name in _TENSORS}, folder / _WEIGHTS)
    about = {"pooling": heads.pooling, "regularisation": heads.regularisation, "left_out": left_out}
    HeadsRecord(**heads.accuracy._asdict(), **about).write(folder / HEADS_RECORD)


def read_heads(folder: Path) -> Heads:
    """The heads that `write_heads` wrote."""
    about = HeadsRecord.read(folder / HEADS_RECORD)
    accuracy = RankingAccuracy(about.accuracy, about.low, about.high, about.pairs)
    with reading_back(folder / _WEIGHTS):
        tensors = load_file(folder / _WEIGHTS)
        return Heads(*(tensors[name] for name in _TENSORS), about.pooling, about.regularisation, accuracy)
