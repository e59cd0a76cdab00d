"""The model and data of a run that makes them itself, as its first stage: an embedded world, or a split of pairs."""

import math
from pathlib import Path
from typing import Any

from sgpo.config import RunConfig
from sgpo.config.world import WORLD_EVALUATION
from sgpo.demo.world import WorldFiles, prepare_world
from sgpo.preferences.split_files import draw_split
from sgpo.rounds.costs import StagePlan
from sgpo.rounds.policies import Policies
from sgpo.store.progress import Reporter
from sgpo.store.stages import Stages

SPLIT, WORLD = "data", "world"
# At temperature 1 the KL to the SFT model is estimated without bias; no answer of the corpus is longer.
_WORLD_SAMPLING = {"temperature": 1.0, "max_new_tokens": 64}


def resolve_data(config: RunConfig, stages: Stages) -> RunConfig:
    """Makes the model and data that a recipe describes instead of naming them, unless they are on disk.

    Returns: the recipe with the files in place of `world` or `data.split`, and with the evaluation by the world's
        reward; a recipe with neither as it is.

    Raises:
        InputError: see `prepare_world` and `draw_split`.
    """
    if config.world is not None:
        stages.alone(WORLD, lambda path: _write_world(config, path, stages.reporter))
        return _with_world(config, stages.run.path(WORLD))
    if config.data.split is not None:
        load = Policies(config, stages.run).reference
        draw = {"seed": config.seed, "load": load, "reporter": stages.reporter}
        stages.alone(SPLIT, lambda path: draw_split(config.data.split, path, **draw))
        return _with_split(config, stages.run.path(SPLIT))
    return config


def plan_data(config: RunConfig) -> list[StagePlan]:
    """The stage of `resolve_data`, if the recipe has one."""
    world, split = config.world, config.data.split
    if world is not None:
        work = (
            f"SFT of a small Llama: {_sft_steps(config)} steps; {world.seed_pairs} seeds, {world.heldout_pairs} "
            f"held-out pairs, {world.pool_prompts} pool prompts, {world.test_prompts} test prompts"
        )
        return [StagePlan(WORLD, work)]
    if split is not None:
        chosen = "at random" if split.selection == "random" else "as farthest points"
        pools = f"{len(split.pools)} pool{'' if len(split.pools) == 1 else 's'}"
        work = f"{split.seeds} seeds {chosen}, {pools}, {split.heldout} held out; no prompt twice"
        return [StagePlan(SPLIT, work)]
    return []


def _with_world(config: RunConfig, folder: Path) -> RunConfig:
    files = WorldFiles.of(folder)
    evaluation = {
        "kind": "reward",
        "name": WORLD_EVALUATION,
        "function": f"{files.reward}:reward",
        "prompts": str(files.test),
        **_WORLD_SAMPLING,
    }
    return _changed(
        config,
        world=None,
        model={"path": str(files.sft)},
        data={"seeds": str(files.seeds), "prompts": str(files.prompts), "heldout": str(files.heldout)},
        evaluate=[*(one.model_dump() for one in config.evaluate), evaluation],
    )


def _with_split(config: RunConfig, folder: Path) -> RunConfig:
    data = {
        "split": None,
        "seeds": str(folder / "seeds.parquet"),
        "prompts": [str(folder / f"pool-{number}.parquet") for number in range(1, config.rounds + 1)],
        "heldout": str(folder / "heldout.parquet") if config.data.split.heldout else None,
    }
    return _changed(config, data=data)


def _changed(config: RunConfig, **changes: Any) -> RunConfig:
    """The recipe with other values; those of a section are laid over it."""
    content = config.model_dump()
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    return RunConfig.model_validate(content)


def _sft_steps(config: RunConfig) -> int:
    return math.ceil(config.world.sft_examples / config.world.sft_batch_size)


def _write_world(config: RunConfig, path: Path, reporter: Reporter) -> None:
    with reporter.bar("SFT steps", _sft_steps(config)) as advance:
        prepare_world(config.world, path, seed=config.seed, progress=lambda done, total: advance(1))
