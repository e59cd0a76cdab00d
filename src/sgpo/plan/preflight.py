"""What can be known of a recipe's data and model before a run starts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from sgpo.config import RunConfig
from sgpo.demo.sft import VOCABULARY, count_parameters
from sgpo.errors import InputError
from sgpo.policy.locate import check_exists
from sgpo.preferences.layout import describe_counts
from sgpo.preferences.mix import mix_sources
from sgpo.preferences.source import load_pairs, load_prompts
from sgpo.rounds.costs import Architecture
from sgpo.rounds.prompts import pool_size, prompt_lengths, round_sizes


@dataclass
class Inputs:
    """What a run starts from, as far as it can be seen.

    Attributes:
        human, heldout: number of human pairs to train on and to report accuracy on.
        pools: prompts of each round.
        prompt_tokens: mean tokens of the prompts that were read; None if there are none.
        parameters: weights of the model.
        architecture: None if its config cannot be read.
        warnings: what a user should know.
        unchecked: what could not be checked, and what was assumed instead.
    """

    human: int = 0
    heldout: int = 0
    pools: list[int] = field(default_factory=list)
    prompt_tokens: float | None = None
    parameters: int = 0
    architecture: Architecture | None = None
    warnings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def inspect_inputs(config: RunConfig, *, offline: bool) -> Inputs:
    """Reads the data and the model's config.

    Args:
        config: the recipe.
        offline: the Hub cannot be reached. What is neither on disk nor in the cache is then taken from the recipe, if
            it says enough, and listed in `unchecked`; otherwise it is an error.

    Raises:
        InputError: whatever would stop the run later.
    """
    return _Preflight(config, offline).inspect()


class _Preflight:
    def __init__(self, config: RunConfig, offline: bool) -> None:
        self._config, self._offline = config, offline
        self._found = Inputs()

    def inspect(self) -> Inputs:
        if self._config.world is not None:
            self._read_world()
            return self._found
        self._read_model()
        if self._config.data.split is not None:
            self._read_split()
        else:
            self._read_pairs()
            self._read_pools()
        return self._found

    def _read_world(self) -> None:
        world, found = self._config.world, self._found
        found.human, found.heldout = world.seed_pairs, world.heldout_pairs
        found.pools = round_sizes(world.pool_prompts, self._config, "world.pool_prompts")
        found.parameters = count_parameters(layers=world.layers, hidden=world.hidden, heads=world.heads)
        found.architecture = Architecture(world.layers, world.hidden, VOCABULARY)

    def _read_model(self) -> None:
        model, found = self._config.model, self._found
        try:
            config = _model_config(self._config)
        except InputError as error:
            if self._must_exist(model.path):
                raise
            if model.parameters is None:
                raise InputError(f"{error} To plan without the Hub, state model.parameters.") from error
            found.unchecked.append(f"{model.path} (the Hub does not answer; the recipe says {model.parameters:,})")
            found.parameters = model.parameters
            return
        text = config.get_text_config()
        found.architecture = Architecture(text.num_hidden_layers, text.hidden_size, text.vocab_size)
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
        found.parameters = sum(parameter.numel() for parameter in built.parameters())

    def _read_split(self) -> None:
        split, found = self._config.data.split, self._found
        found.human, found.heldout, found.pools = split.seeds, split.heldout, list(split.pools)
        try:
            mixture = mix_sources(split, seed=self._config.seed)
        except InputError:
            paths = [source.path for source in split.sources]
            if self._must_exist(*paths):
                raise
            found.unchecked.append(f"{', '.join(paths)} (the Hub does not answer; the recipe says how many pairs)")
            return
        for use in mixture.uses:
            if use.dropped:
                dropped = describe_counts(use.dropped)
                found.warnings.append(f"{use.path}: of {use.rows:,} rows are left out: {dropped}.")

    def _read_pairs(self) -> None:
        data, found = self._config.data, self._found
        wanted = data.seed_pairs
        seeds = self._read(
            data.seeds, lambda: load_pairs(data.seeds, split=data.seeds_split), wanted, "data.seed_pairs"
        )
        if seeds is not None and wanted is not None and wanted > len(seeds):
            raise InputError(
                f"data.seeds: {data.seeds}: the number of seed pairs is {wanted}; allowed: 1 to {len(seeds)}, the "
                "number of pairs."
            )
        found.human = wanted or len(seeds)
        if not data.heldout:
            return
        heldout = self._read(
            data.heldout, lambda: load_pairs(data.heldout, split=data.heldout_split), 0, "data.heldout"
        )
        found.heldout = 0 if heldout is None else len(heldout)
        if seeds is not None and heldout is not None:
            shared = {str(prompt) for prompt in seeds["prompt"]} & {str(prompt) for prompt in heldout["prompt"]}
            if shared:
                found.warnings.append(
                    f"{len(shared)} prompts of data.heldout are also among the seeds; held-out accuracy will be too "
                    "high."
                )

    def _read_pools(self) -> None:
        config, data, sizes = self._config, self._config.data, self._config.data.prompts_per_round
        if not config.rounds:
            return
        if isinstance(data.prompts, str):
            assumed = sum(sizes) if isinstance(sizes, list) else sizes and sizes * config.rounds
            available = self._read_pool(data.prompts, assumed)
            self._found.pools = round_sizes(available, config, f"data.prompts: {data.prompts}")
            return
        for number, path in enumerate(data.prompts, start=1):
            available = self._read_pool(path, sizes[number - 1] if isinstance(sizes, list) else sizes)
            self._found.pools.append(pool_size(available, config, number, f"data.prompts: {path}"))

    def _read_pool(self, path: str, assumed: int | None) -> int:
        """The number of prompts in a pool; notes repeated and long ones."""
        found, split = self._found, self._config.data.prompts_split
        pool = self._read(path, lambda: load_prompts(path, split=split), assumed, "data.prompts_per_round")
        if pool is None:
            return assumed
        distinct = len({str(prompt) for prompt in pool["prompt"]})
        if distinct < len(pool):
            found.warnings.append(f"{path} repeats {len(pool) - distinct} of its {len(pool)} prompts.")
        if found.architecture is not None:
            lengths, room = prompt_lengths(self._config, self._config.model.path, pool, f"data.prompts: {path}")
            found.prompt_tokens = float(lengths.mean())
            if len(long := (lengths > room).nonzero()[0]):
                found.warnings.append(
                    f"{path}: {len(long)} of {len(pool)} prompts have more than {room} tokens (the first: row "
                    f"{long[0]}, {lengths[long[0]]} tokens). Rounds drop and count them: a response must fit in the "
                    "model's context, and some of it below leader.max_length."
                )
        return len(pool)

    def _read(self, path: str, load: Callable[[], Dataset], assumed: int | None, key: str) -> Dataset | None:
        """A dataset; None if the Hub does not answer and the recipe states its size, the value `assumed` of `key`."""
        try:
            return load()
        except InputError as error:
            if self._must_exist(path):
                raise
            if assumed is None:
                raise InputError(f"{error}. To plan without the Hub, state {key}.") from error
        size = f"; the recipe says {assumed}" if assumed else ""
        self._found.unchecked.append(f"{path} (the Hub does not answer{size})")
        return None

    def _must_exist(self, *paths: str) -> bool:
        return not self._offline or all(Path(path).exists() for path in paths)


def _model_config(config: RunConfig) -> PreTrainedConfig:
    check_exists(config.model.path, "model")
    try:
        return AutoConfig.from_pretrained(config.model.path, trust_remote_code=config.model.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model.path: {config.model.path}: no model config can be read: {reason}") from error
