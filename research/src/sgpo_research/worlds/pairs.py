"""Labelled pairs of responses in an array world."""

import numpy as np

from sgpo_research.worlds.arrays import Candidates, HumanPairs
from sgpo_research.worlds.noise import LabelNoise, label_pairs


def draw_pairs(
    candidates: Candidates, noise: LabelNoise, rng: np.random.Generator, *, per_prompt: int = 1
) -> HumanPairs:
    """Labelled pairs of responses of the SFT policy; no response is in two pairs.

    Args:
        candidates: P prompts.
        noise: of the labels.
        rng: source of the draws.
        per_prompt: pairs of each prompt, fewer where it has too few responses; prompt by prompt.
    """
    # The top entries of log-probability plus Gumbel noise are an ordered draw without replacement.
    noisy = candidates.log_ref + rng.gumbel(size=candidates.log_ref.shape)
    order = np.argsort(-noisy, axis=1)[:, : 2 * per_prompt]
    enough = np.isfinite(np.take_along_axis(noisy, order, axis=1))
    rows = np.repeat(np.arange(len(order)), per_prompt)
    first, second = order[:, 0::2].ravel(), order[:, 1::2].ravel()
    there = enough[:, 1::2].ravel()
    rows, first, second = rows[there], first[there], second[there]
    preferred = label_pairs(
        candidates.gold[rows, first], candidates.gold[rows, second], candidates.length[rows, first],
        candidates.length[rows, second], noise, rng,
    )  # fmt: skip
    chosen, rejected = np.where(preferred, first, second), np.where(preferred, second, first)
    return HumanPairs(
        candidates.features[rows, chosen] - candidates.features[rows, rejected],
        candidates.length[rows, chosen] - candidates.length[rows, rejected],
        candidates.gold[rows, chosen] >= candidates.gold[rows, rejected],
        rows,
    )
