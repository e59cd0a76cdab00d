"""Draws seeds, pools and held-out pairs from preference datasets, and writes them to a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgpo.config import SplitConfig
from sgpo.policy.embed import embed_prompts
from sgpo.policy.load import Policy
from sgpo.preferences.mix import Mixture, mix_pairs
from sgpo.preferences.split import split_pairs
from sgpo.preferences.split_files import write_split
from sgpo.store.progress import Reporter


def mix_sources(settings: SplitConfig, *, seed: int) -> Mixture:
    """`mix_pairs` of the sources of a split, with enough pairs for it."""
    least = settings.seeds + sum(settings.pools) + settings.heldout
    return mix_pairs(settings.sources, least=least, seed=seed, max_prompt_chars=settings.max_prompt_chars)


def draw_split(
    settings: SplitConfig,
    folder: Path,
    *,
    seed: int,
    load: Callable[[], Policy],
    reporter: Reporter,
    notes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Mixes the sources, splits the mixture and writes the parts; returns the content of split.json.

    `load` loads the policy in whose hidden states the farthest seeds are found, and is not called for random seeds. For
    `notes` see `write_split`.
    """
    mixture = mix_sources(settings, seed=seed)
    options = settings.model_dump(include={"seeds", "pools", "heldout", "selection"})
    states = folder.absolute().with_name(f".{folder.name}-states.partial")
    states.parent.mkdir(parents=True, exist_ok=True)
    try:
        if settings.selection == "farthest":
            policy, prompts = load(), mixture.pairs["prompt"][:]
            with reporter.bar("hidden states of the prompts", len(prompts)) as advance:
                embeddings = embed_prompts(policy, prompts, progress=advance, out=states)
            options |= {"embeddings": embeddings, "device": str(policy.device)}
        with reporter.bar("seeds", settings.seeds) as advance:
            split = split_pairs(mixture.pairs, seed=seed, progress=advance, **options)
    finally:
        states.unlink(missing_ok=True)
    return write_split(split, folder, notes={**mixture.describe(), **(notes or {})})
