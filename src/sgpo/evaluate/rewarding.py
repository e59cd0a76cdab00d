"""A policy's answers compared with a baseline's by a reward model or function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError
from sgpo.evaluate.prompt_files import Answers, by_reason, missing
from sgpo.policy.tokens import Messages, response_texts
from sgpo.preferences.annotators.ranking import Annotator, Ranking, as_text
from sgpo.stats.intervals import compare_rewards, mean_interval, win_rate
from sgpo.store.files import write_jsonl
from sgpo.store.progress import Advance
from sgpo.store.records import Sample

SAMPLES = 8


def compare_by_reward(
    annotator: Annotator, prompts: Sequence[Messages], policy: Answers, baseline: Answers, *, progress: Advance
) -> dict[str, Any]:
    """Compares P pairs of answers by a reward on one scale. Prompts that lack an answer (`failed`) or a reward
    (`unrewarded`) are in no other number; `rewards` are (P, 2), nan for none, and `parts` means, (2,) by name, where
    both have them."""
    failures = missing(policy, baseline)
    rows = [row for row, failure in enumerate(failures) if failure is None]
    if not rows:
        raise InputError(f"none of {len(prompts)} prompts has an answer of each side; allowed: at least one.")
    sides = ([side.texts[row] for row in rows] for side in (policy, baseline))
    ranking, found, known = _pair_rewards(annotator, [prompts[row] for row in rows], *sides, progress)
    if not len(known):
        raise InputError(f"the reward has no value for any of {len(prompts)} prompts; allowed: at least one.")
    rewards = np.full((len(prompts), 2), np.nan)
    rewards[rows] = found
    own, other = known.T
    return {
        **win_rate(compare_rewards(own, other))._asdict(),
        "prompts": len(prompts),
        "unrewarded": len(rows) - len(known),
        "failed": by_reason(failures),
        "reward": mean_interval(own),
        "baseline_reward": mean_interval(other),
        "parts": {
            name: both.mean(axis=0)
            for name, values in ranking.parts.items()
            if len(both := _where_both(np.where(np.isfinite(ranking.rewards), values, np.nan)))
        },
        "counts": ranking.counts,
        "rewards": rewards,
    }


def write_samples(
    path: Path, prompts: Sequence[Messages], policy: Answers, baseline: Answers, rewards: np.ndarray
) -> None:
    """Writes the first prompts that have two rewards, (P, 2), for the report."""
    rows = zip(prompts, policy.texts, baseline.texts, rewards.tolist(), strict=True)
    samples = [
        Sample(prompt=as_text(prompt), response=one, baseline=other, reward=reward, baseline_reward=base)
        for prompt, one, other, (reward, base) in rows
        if np.isfinite([reward, base]).all()
    ]
    write_jsonl(path, [sample.model_dump() for sample in samples[:SAMPLES]])


def reward_agreement(annotator: Annotator, pairs: Dataset, *, progress: Advance) -> float | None:
    """Share of N preference pairs whose order the reward shares, ties counted half; None without any rewarded pair."""
    sides = response_texts(pairs, "chosen"), response_texts(pairs, "rejected")
    *_, known = _pair_rewards(annotator, pairs["prompt"][:], *sides, progress)
    return float(compare_rewards(*known.T).mean()) if len(known) else None


def _pair_rewards(
    annotator: Annotator, prompts: Sequence[Messages], first: Sequence[str], second: Sequence[str], progress: Advance
) -> tuple[Ranking, np.ndarray, np.ndarray]:
    """The ranking, its (P, 2) rewards, and the rows in which both are finite."""
    ranking = annotator(prompts, [list(pair) for pair in zip(first, second, strict=True)], progress=progress)
    rewards = np.asarray(ranking.rewards, dtype=np.float64)
    return ranking, rewards.reshape(-1, 2), _where_both(rewards)


def _where_both(values: np.ndarray) -> np.ndarray:
    """Those of P pairs, from (2 P,) values, in which both are finite."""
    pairs = values.reshape(-1, 2)
    return pairs[np.isfinite(pairs).all(axis=1)]
