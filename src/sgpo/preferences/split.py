"""Splitting preference data into seed pairs, pools of prompts and held-out pairs that share no prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from sgpo.choices import Selection, check_choice
from sgpo.errors import InputError, check_whole
from sgpo.preferences.farthest import farthest_points
from sgpo.preferences.layout import distinct_rows, prompt_key
from sgpo.store.progress import Advance


@dataclass(frozen=True)
class Split:
    """Parts of a preference dataset; no prompt is in two of them, or twice in one.

    Attributes:
        seeds: pairs to start from. The first s of them are a selection of s seeds.
        pools: prompts to annotate, one dataset per round: `prompt`, and `origin` if the pairs have it.
        heldout: pairs never to train on, drawn at random whatever the selection of the seeds; may be empty.
        notes: plain values: `pairs`, `duplicate_prompts`, `unused`, `seed`, `selection`, and `coverage_radius`: the
            largest cosine distance of a prompt outside the held-out set to the nearest seed, None for random seeds.
    """

    seeds: Dataset
    pools: list[Dataset]
    heldout: Dataset
    notes: dict[str, Any]


def split_pairs(
    pairs: Dataset,
    *,
    seeds: int,
    pools: Sequence[int],
    heldout: int = 0,
    seed: int = 0,
    selection: str = "random",
    embeddings: np.ndarray | None = None,
    device: str | None = None,
    progress: Advance | None = None,
) -> Split:
    """Splits pairs by prompt.

    Of several pairs with one prompt the first is used (prompts are compared by `prompt_key`). The held-out pairs are
    drawn first, so they do not change with the other sizes.

    Args:
        pairs: N pairs in the layout of `to_pairs`.
        seeds: number of seed pairs, >= 1.
        pools: number of prompts of each round.
        heldout: number of held-out pairs.
        seed: random seed, >= 0.
        selection: how seeds are selected: "random", or "farthest" (greedy k-centre; needs `embeddings`).
        embeddings: (N, d) one vector per pair, that of its prompt (`sgpo.policy.embed.embed_prompts`).
        device: where farthest points are computed, such as "cuda"; None uses the CPU.
        progress: called with the number of farthest points newly picked.

    Raises:
        InputError: an argument is out of range, or there are fewer distinct prompts than asked for.

    Source: arXiv:2502.18099, Section 4 (2K seeds; pools of 8K, 20K and 30K prompts).
    """
    sizes = ", ".join(f"{size:,}" for size in pools) or "none"
    check_whole("the number of seeds", seeds, 1)
    check_whole("the number of held-out pairs", heldout, 0)
    check_whole("seed", seed, 0)
    if any(size < 1 for size in pools):
        raise InputError(f"the pools have {sizes} prompts; allowed: whole numbers >= 1.")
    _check_selection(selection, embeddings, len(pairs))
    distinct = distinct_rows(pairs["prompt"])
    wanted = heldout + seeds + sum(pools)
    if wanted > len(distinct):
        raise InputError(
            f"{wanted:,} prompts are asked for ({heldout:,} held out, {seeds:,} seeds, pools of {sizes}), and "
            f"{len(pairs):,} pairs have {len(distinct):,} distinct ones; allowed: no more than those."
        )
    order = np.random.default_rng(seed).permutation(distinct)
    held, rest = order[:heldout], order[heldout:]
    radius, chosen = None, rest[:seeds]
    if selection == "farthest":
        others = np.setdiff1d(np.arange(len(pairs)), rest)
        found = farthest_points(embeddings, seeds, seed=seed, exclude=others, device=device, progress=progress)
        radius, chosen = found.radius, found.rows
    rest = rest[~np.isin(rest, chosen)]
    prompts = pairs.select_columns([name for name in ("prompt", "origin") if name in pairs.column_names])
    return Split(
        seeds=pairs.select(chosen),
        pools=[prompts.select(rows) for rows in np.split(rest, np.cumsum(pools))[: len(pools)]],
        heldout=pairs.select(held),
        notes={
            "pairs": len(pairs),
            "duplicate_prompts": len(pairs) - len(distinct),
            "unused": len(distinct) - wanted,
            "seed": seed,
            "selection": selection,
            "coverage_radius": radius,
        },
    )


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


def _check_selection(selection: str, embeddings: np.ndarray | None, count: int) -> None:
    check_choice("selection", selection, Selection)
    if (selection == "farthest") != (embeddings is not None):
        raise InputError(
            f"selection is {selection!r} {'with' if embeddings is not None else 'without'} embeddings; allowed: "
            "'farthest' with embeddings, or 'random' without."
        )
    if embeddings is not None and len(embeddings) != count:
        raise InputError(f"embeddings has {len(embeddings)} rows; allowed: one per pair, {count}.")
