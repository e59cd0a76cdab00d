"""A recipe's own split: seeds, pools and held-out pairs drawn once, as the first stage of a run."""

from pathlib import Path

from sgpo.config import RunConfig
from sgpo.policy.embed import embed_prompts
from sgpo.preferences.mix import MixedSource, Mixture, mix_pairs
from sgpo.preferences.split import split_pairs
from sgpo.preferences.split_files import write_split
from sgpo.rounds.policies import Policies
from sgpo.store.progress import Reporter
from sgpo.store.stages import Stages

STAGE = "data"


def mix_sources(config: RunConfig) -> Mixture:
    """Reads and mixes the sources of `data.split`.

    Raises:
        InputError: a source that cannot be read, or that runs out; see `mix_pairs`.
    """
    split = config.data.split
    sources = [MixedSource(source.path, source.weight, source.split) for source in split.sources]
    wanted = split.seeds + sum(split.pools) + split.heldout
    return mix_pairs(sources, least=wanted, seed=config.seed, max_prompt_chars=split.max_prompt_chars)


def split_data(config: RunConfig, stages: Stages) -> RunConfig:
    """Draws the split of a recipe that has one, unless it is on disk.

    Returns: the recipe with the files of the split in place of `data.split`; a recipe without a split as it is.

    Raises:
        InputError: see `mix_sources` and `split_pairs`.
    """
    if config.data.split is None:
        return config
    policies = Policies(config, stages.run)
    stages.alone(STAGE, lambda path: _write(config, path, policies, stages.reporter))
    folder, split = stages.run.path(STAGE), config.data.split
    data = config.data.model_dump() | {
        "split": None,
        "seeds": str(folder / "seeds.parquet"),
        "prompts": [str(folder / f"pool-{number}.parquet") for number in range(1, config.rounds + 1)],
        "heldout": str(folder / "heldout.parquet") if split.heldout else None,
    }
    return RunConfig.model_validate(config.model_dump() | {"data": data})


def _write(config: RunConfig, path: Path, policies: Policies, reporter: Reporter) -> None:
    settings, mixture = config.data.split, mix_sources(config)
    embeddings = device = None
    states = path.with_name(f".{path.name}-states.partial")
    try:
        if settings.selection == "farthest":
            policy, prompts = policies.reference(), mixture.pairs["prompt"][:]
            device = str(policy.device)
            with reporter.bar("hidden states of the prompts", len(prompts)) as advance:
                embeddings = embed_prompts(policy, prompts, progress=advance, out=states)
        with reporter.bar("seeds", settings.seeds) as advance:
            split = split_pairs(
                mixture.pairs,
                seeds=settings.seeds,
                pools=settings.pools,
                heldout=settings.heldout,
                seed=config.seed,
                selection=settings.selection,
                embeddings=embeddings,
                device=device,
                progress=advance,
            )
    finally:
        states.unlink(missing_ok=True)
    write_split(split, path, notes=mixture.describe())
