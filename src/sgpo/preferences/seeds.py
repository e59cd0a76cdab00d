"""Seed pairs and held-out pairs: the human labels that the loop starts from, and those that it never sees."""

import json

import numpy as np
from datasets import Dataset

from sgpo.errors import InputError, check_whole


def select_seeds(pairs: Dataset, size: int, seed: int) -> Dataset:
    """Selects seed pairs at random, without replacement.

    Args:
        pairs: N pairs.
        size: number of seeds, 1 to N.
        seed: random seed, >= 0. For one seed, a smaller selection is part of a larger one.

    Returns: `size` pairs, in the order of `pairs`.

    Raises:
        InputError: `size` or `seed` is out of range.

    Source: arXiv:2502.18099, Section 4 (2K seeds of 60K pairs).
    """
    if not 1 <= size <= len(pairs):
        raise InputError(f"the number of seed pairs is {size}; allowed: 1 to {len(pairs)}, the number of pairs.")
    check_whole("seed", seed, 0)
    order = np.random.default_rng(seed).permutation(len(pairs))
    return pairs.select(np.sort(order[:size]))


def hold_out(pairs: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits pairs by prompt: all pairs of a prompt go to the same side.

    Args:
        pairs: N pairs, in the layout of `to_pairs`, of at least two prompts.
        share: share of the prompts to hold out, in (0, 1); at least one prompt stays on either side.
        seed: random seed, >= 0.

    Returns: the pairs to train on and the held-out pairs, both in the order of `pairs`.

    Raises:
        InputError: `share` or `seed` is out of range, or all pairs share one prompt.
    """
    if not 0 < share < 1:
        raise InputError(f"the share to hold out is {share}; allowed: a number in (0, 1).")
    check_whole("seed", seed, 0)
    keys = [json.dumps(prompt, sort_keys=True) for prompt in pairs["prompt"]]
    distinct = list(dict.fromkeys(keys))
    if len(distinct) < 2:
        raise InputError("all pairs share one prompt; allowed: at least two prompts, so that one can be held out.")
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    order = np.random.default_rng(seed).permutation(len(distinct))
    held = {distinct[place] for place in order[:count]}
    is_held = np.array([key in held for key in keys])
    return pairs.select(np.flatnonzero(~is_held)), pairs.select(np.flatnonzero(is_held))
