"""The data of a run: files that it makes itself, and the prompts of each round, so that no two rounds share any."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from sgpo.config import RunConfig
from sgpo.config.world import PROMPT_TOKENS, WORLD_EVALUATION
from sgpo.demo.world import WorldFiles, prepare_world
from sgpo.errors import InputError, naming_rows
from sgpo.leader.pairs import ROW, number_rows
from sgpo.policy.generators import load_model
from sgpo.policy.gguf import GGUFFile
from sgpo.policy.load import Policy, check_rows
from sgpo.policy.score import fit_responses
from sgpo.policy.tokens import response_texts, tokenize_prompts
from sgpo.preferences.source import load_pairs, load_prompts
from sgpo.preferences.split import select_seeds
from sgpo.preferences.split_files import draw_split
from sgpo.rounds.costs import StagePlan
from sgpo.store.files import name_row
from sgpo.store.progress import Reporter
from sgpo.store.stages import Stages

BASE, SPLIT, WORLD = "base", "data", "world"


def resolve_data(config: RunConfig, stages: Stages) -> RunConfig:
    """The recipe with files in place of `model.gguf_file`, `world` and `data.split`: made unless they are on disk."""
    model, root = config.model, stages.run.root
    if model.gguf_file is not None:
        stages.alone(BASE, lambda path: GGUFFile(model.path, model.gguf_file, model.dtype).save(path))
        config = config.model_copy(update={"model": model.at(root / BASE)})
    if config.world is not None:
        stages.alone(WORLD, lambda path: _write_world(config, path, stages.reporter))
    elif config.data.split is not None:
        draw = {"seed": config.seed, "load": partial(load_model, config.model), "reporter": stages.reporter}
        stages.alone(SPLIT, lambda path: draw_split(config.data.split, path, **draw))
    return with_files(config, root)


def with_files(config: RunConfig, root: Path) -> RunConfig:
    """The recipe that `resolve_data` returns for a run directory, without making the files."""
    if config.world is not None:
        return _with_world(config, root / WORLD)
    return config if config.data.split is None else _with_split(config, root / SPLIT)


def plan_data(config: RunConfig) -> list[StagePlan]:
    """The stages of `resolve_data` that the recipe has."""
    world, split, model = config.world, config.data.split, config.model
    base = [StagePlan(BASE, f"{model.gguf_file} as a model folder in {model.dtype}")] if model.gguf_file else []
    if world is not None:
        work = (
            f"SFT of a small Llama: {_sft_steps(config)} steps; {world.seed_pairs} seeds, {world.heldout_pairs} "
            f"held-out pairs, {world.pool_prompts} pool prompts, {world.test_prompts} test prompts"
        )
        return [StagePlan(WORLD, work)]
    if split is not None:
        chosen = "at random" if split.selection == "random" else "as farthest points"
        count = f"{len(split.pools)} pool{'' if len(split.pools) == 1 else 's'}"
        work = f"{split.seeds} seeds {chosen}, {count}, {split.heldout} held out; no prompt twice"
        base.append(StagePlan(SPLIT, work))
    return base


def _sft_steps(config: RunConfig) -> int:
    return math.ceil(config.world.sft_examples / config.world.sft_batch_size)


def _write_world(config: RunConfig, path: Path, reporter: Reporter) -> None:
    with reporter.bar("SFT steps", _sft_steps(config)) as advance:
        prepare_world(config.world, path, seed=config.seed, progress=lambda done, total: advance(1))


def _with_world(config: RunConfig, folder: Path) -> RunConfig:
    files = WorldFiles.of(folder)
    evaluation = {
        "kind": "reward",
        "name": WORLD_EVALUATION,
        "function": f"{files.reward}:reward",
        "prompts": str(files.test),
        # The estimate of the KL to the SFT model is unbiased then; no answer of the corpus is longer.
        "temperature": 1.0,
        "max_new_tokens": min(64, config.world.max_length - PROMPT_TOKENS),
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
    """The recipe with other values; the values of a section are merged into it."""
    content = config.model_dump()
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    return RunConfig.model_validate(content)


def pools(config: RunConfig) -> list[tuple[str, range]]:
    """The pools of prompts, and the rounds that share each."""
    prompts = config.data.prompts
    if isinstance(prompts, list):
        return [(path, range(number, number + 1)) for number, path in enumerate(prompts, start=1)]
    return [(prompts, range(1, config.rounds + 1))]


def pool_shares(config: RunConfig, available: int, rounds: range, source: str) -> list[int]:
    """How many prompts each round takes of a pool; InputError if the pool, named by `source`, is too small."""
    sizes = config.data.prompts_per_round
    shares = [sizes[number - 1] if isinstance(sizes, list) else sizes or available // len(rounds) for number in rounds]
    if shares and (min(shares) == 0 or sum(shares) > available):
        who = f"{len(rounds)} rounds" if len(rounds) > 1 else f"round {rounds[0]}"
        raise InputError(
            f"{source}: holds {available} prompts; allowed: at least {sum(shares) or len(rounds)} for {who}, or a "
            "smaller data.prompts_per_round."
        )
    return shares


def round_prompts(config: RunConfig, number: int) -> Dataset:
    """The prompts of one round, shuffled by the run's seed: P rows with `prompt`, numbered as in the pool."""
    path, rounds = next(pool for pool in pools(config) if number in pool[1])
    pool = load_prompts(path, split=config.data.prompts_split)
    shares = pool_shares(config, len(pool), rounds, f"data.prompts: {path}")
    place = rounds.index(number)
    start = sum(shares[:place])
    return number_rows(pool).shuffle(seed=config.seed).select(range(start, start + shares[place]))


def drawn_seeds(config: RunConfig, pairs: Dataset) -> Dataset:
    """The seed pairs that a run draws from those of its file, numbered as in the file."""
    wanted = config.data.seed_pairs
    return pairs if wanted is None else select_seeds(number_rows(pairs), wanted, config.seed)


def prompt_lengths(config: RunConfig, policy: Policy, prompts: Dataset, path: str) -> tuple[np.ndarray, float]:
    """Tokens of each of P prompts of a pool, (P,), and the most that a prompt may have: a response must fit in the
    context, and some of it within `leader.max_length`. InputError: every prompt is too long, or the template refuses
    one."""
    room = min((policy.context or math.inf) - config.generation.max_new_tokens, config.leader.max_length - 1)
    with naming_rows(places(prompts, path)):
        tokens = tokenize_prompts(policy.tokenizer, prompts["prompt"][:])
        check_rows(policy, tokens)
    lengths = np.array([len(ids) for ids in tokens])
    if len(lengths) and (lengths > room).all():
        raise InputError(
            f"data.prompts: {path}: every prompt is too long (the first has {lengths[0]} tokens); allowed: at most "
            f"{room}, the model's context less generation.max_new_tokens, and below leader.max_length."
        )
    return lengths, room


def places(dataset: Dataset, path: str) -> Callable[[int], str]:
    """What messages call the rows of a dataset: a file, or rows of it that were numbered before they were drawn."""
    return lambda row: name_row(path, dataset[row].get(ROW, row))


def check_fit(config: RunConfig, policy: Policy, pairs: Dataset, path: str) -> np.ndarray:
    """Tokens of both sides of N pairs of a file, (2N,); InputError for a pair that the policy could not score."""
    rows = []
    for side in ("chosen", "rejected"):
        with naming_rows(places(pairs, path)):
            rows += fit_responses(policy, pairs["prompt"][:], response_texts(pairs, side), config.leader.max_length)
    return np.array([len(row.prompt_ids) + len(row.response_ids) for row in rows])


def check_files(config: RunConfig) -> None:
    """Raises InputError for what is wrong with the prompts of any round, the seeds or the held-out pairs."""
    policy, data = load_model(config.model, "meta"), config.data
    for path, rounds in pools(config):
        for number in rounds:
            prompt_lengths(config, policy, round_prompts(config, number), path)
    check_fit(config, policy, drawn_seeds(config, load_pairs(data.seeds)), data.seeds)
    if data.heldout:
        check_fit(config, policy, load_pairs(data.heldout), data.heldout)
