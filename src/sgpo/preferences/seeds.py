"""Seed pairs and held-out pairs: the human labels that the loop starts from, and those that it never sees."""

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError, check_whole
from sgpo.preferences.distinct import prompt_key


def select_seeds(pairs: Dataset, size: int, seed: int) -> Dataset:
    """Selects `size` pairs at random, in their order; for one seed, a smaller selection is part of a larger one.
    InputError for a size that is not 1 to the number of pairs. Source: arXiv:2502.18099, Section 4."""
    if not 1 <= size <= len(pairs):
        raise InputError(f"the number of seed pairs is {size}; allowed: 1 to {len(pairs)}, the number of pairs.")
    check_whole("seed", seed, 0)
    return pairs.select(np.sort(np.random.default_rng(seed).permutation(len(pairs))[:size]))


def hold_out(pairs: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits pairs into those to train on and held-out pairs, at least one prompt each and no prompt in both.

    `share` of the prompts (compared by `prompt_key`) are held out; both parts keep the order of `pairs`. Raises
    InputError if `share` is not in (0, 1), `seed` is below 0, or all pairs have one prompt.
    """
    if not 0 < share < 1:
        raise InputError(f"the share to hold out is {share}; allowed: a number in (0, 1).")
    check_whole("seed", seed, 0)
    keys = list(map(prompt_key, pairs["prompt"]))
    distinct = list(dict.fromkeys(keys))
    if len(distinct) < 2:
        raise InputError("all pairs share one prompt; allowed: at least two prompts, so that one can be held out.")
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    held = {distinct[place] for place in np.random.default_rng(seed).permutation(len(distinct))[:count]}
    is_held = np.array([key in held for key in keys])
    return pairs.select(np.flatnonzero(~is_held)), pairs.select(np.flatnonzero(is_held))
