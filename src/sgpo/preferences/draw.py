"""Draws seeds, pools and held-out pairs from preference datasets, and writes them to a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgpo.config import SplitConfig
from sgpo.policy.embed import embed_prompts
from sgpo.policy.load import Policy
from sgpo.preferences.mix import MixedSource, Mixture, mix_pairs
from sgpo.preferences.split import split_pairs
from sgpo.preferences.split_files import write_split
from sgpo.store.progress import Reporter


def mix_sources(settings: SplitConfig, *, seed: int) -> Mixture:
    """Reads and mixes the sources of a split.

    Raises:
        InputError: a source that cannot be read, or that has too few pairs; see `mix_pairs`.
    """
    sources = [MixedSource(source.path, source.weight, source.split) for source in settings.sources]
    wanted = settings.seeds + sum(settings.pools) + settings.heldout
    return mix_pairs(sources, least=wanted, seed=seed, max_prompt_chars=settings.max_prompt_chars)


def draw_split(
    settings: SplitConfig,
    folder: Path,
    *,
    seed: int,
    load: Callable[[], Policy],
    reporter: Reporter,
    notes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Mixes the sources, splits the mixture and writes the parts.

    Args:
        settings: sources and sizes.
        folder: see `write_split`.
        seed: of everything random.
        load: loads the policy in whose hidden states the farthest seeds are found; not called for random seeds.
        reporter: where progress is shown.
        notes: further values for split.json.

    Returns: the content of split.json.

    Raises:
        InputError: see `mix_sources`, `split_pairs` and `write_split`.
    """
    mixture = mix_sources(settings, seed=seed)
    embeddings = device = None
    states = folder.absolute().with_name(f".{folder.name}-states.partial")
    states.parent.mkdir(parents=True, exist_ok=True)
    try:
        if settings.selection == "farthest":
            policy, prompts = load(), mixture.pairs["prompt"][:]
            device = str(policy.device)
            with reporter.bar("hidden states of the prompts", len(prompts)) as advance:
                embeddings = embed_prompts(policy, prompts, progress=advance, out=states)
        with reporter.bar("seeds", settings.seeds) as advance:
            split = split_pairs(
                mixture.pairs,
                seeds=settings.seeds,
                pools=settings.pools,
                heldout=settings.heldout,
                seed=seed,
                selection=settings.selection,
                embeddings=embeddings,
                device=device,
                progress=advance,
            )
    finally:
        states.unlink(missing_ok=True)
    return write_split(split, folder, notes={**mixture.describe(), **(notes or {})})
