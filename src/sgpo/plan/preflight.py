"""What can be known of a recipe's files, model and disk before a run starts."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from sgpo.config import RunConfig
from sgpo.demo.sft import VOCABULARY, count_parameters
from sgpo.errors import InputError
from sgpo.policy.load import load_tokenizer
from sgpo.policy.locate import check_exists
from sgpo.preferences.source import load_pairs, load_prompts
from sgpo.rounds.costs import Architecture
from sgpo.rounds.data import mix_sources
from sgpo.rounds.prompts import pool_size, prompt_lengths, prompt_room, round_sizes

_GIB = 2**30


@dataclass
class Inputs:
    """What a run starts from, as far as it can be seen.

    Attributes:
        seeds, heldout: number of human pairs.
        pools: prompts of each round.
        prompt_tokens: mean tokens of the prompts that were read; None where none was.
        parameters: weights of the model.
        architecture: None where its config cannot be read.
        warnings: what a user should know.
        unchecked: what could not be looked at, and what was taken for it.
    """

    seeds: int = 0
    heldout: int = 0
    pools: list[int] = field(default_factory=list)
    prompt_tokens: float | None = None
    parameters: int = 0
    architecture: Architecture | None = None
    warnings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


class Preflight:
    """Reads what a recipe names.

    Args:
        config: the recipe.
        offline: the Hub cannot be reached: what is neither here nor in the cache is taken at the recipe's word, where
            that says enough, and listed in `unchecked`. Otherwise it is an error.
    """

    def __init__(self, config: RunConfig, *, offline: bool) -> None:
        self._config, self._offline = config, offline
        self._found = Inputs()

    def inspect(self) -> Inputs:
        """Looks at data and model.

        Raises:
            InputError: whatever would stop the run later.
        """
        if self._config.world is not None:
            self._look_at_world()
            return self._found
        self._look_at_model()
        if self._config.data.split is None:
            self._look_at_pairs()
            self._look_at_pools()
        else:
            self._look_at_split()
        return self._found

    def _look_at_world(self) -> None:
        world, found = self._config.world, self._found
        found.seeds, found.heldout = world.seed_pairs, world.heldout_pairs
        found.pools = round_sizes(world.pool_prompts, self._config, "world.pool_prompts")
        found.parameters = count_parameters(layers=world.layers, hidden=world.hidden, heads=world.heads)
        found.architecture = Architecture(world.layers, world.hidden, VOCABULARY)

    def _look_at_split(self) -> None:
        split, found = self._config.data.split, self._found
        found.seeds, found.heldout, found.pools = split.seeds, split.heldout, list(split.pools)
        try:
            mixture = mix_sources(self._config)
        except InputError:
            paths = [source.path for source in split.sources]
            if not self._offline or all(Path(path).exists() for path in paths):
                raise
            found.unchecked.append(f"{', '.join(paths)} (the Hub does not answer; the recipe says how many pairs)")
            return
        for source in mixture.describe()["sources"]:
            dropped = ", ".join(f"{count:,} {reason}" for reason, count in source["dropped"].items())
            if dropped:
                found.warnings.append(f"{source['path']}: of {source['rows']:,} rows are left out: {dropped}.")

    def _look_at_pairs(self) -> None:
        data, found = self._config.data, self._found
        seeds = self._read(
            data.seeds, lambda: load_pairs(data.seeds, split=data.seeds_split), data.seed_pairs, "data.seed_pairs"
        )
        if seeds is not None and data.seed_pairs is not None and data.seed_pairs > len(seeds):
            raise InputError(
                f"data.seeds: {data.seeds}: the number of seed pairs is {data.seed_pairs}; allowed: 1 to {len(seeds)}, "
                "the number of pairs."
            )
        found.seeds = data.seed_pairs or len(seeds)
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
                    f"{len(shared)} prompts of data.heldout are among the seeds; held-out accuracy will flatter the "
                    "policy."
                )

    def _read(self, path: str, load: Callable[[], Dataset], assumed: int | None, key: str) -> Dataset | None:
        try:
            return load()
        except InputError as error:
            if not self._offline or Path(path).exists():
                raise
            if assumed is None:
                raise InputError(f"{error}. To plan without the Hub, state {key}.") from error
        size = f"; the recipe says {assumed}" if assumed else ""
        self._found.unchecked.append(f"{path} (the Hub does not answer{size})")
        return None

    def _look_at_model(self) -> None:
        model, found = self._config.model, self._found
        try:
            config = _model_config(self._config)
        except InputError as error:
            if not self._offline or Path(model.path).exists():
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

    def _look_at_pools(self) -> None:
        config, data = self._config, self._config.data
        if not config.rounds:
            return
        if isinstance(data.prompts, str):
            sizes = data.prompts_per_round
            assumed = sum(sizes) if isinstance(sizes, list) else sizes and sizes * config.rounds
            available = self._read_pool(data.prompts, assumed)
            self._found.pools = round_sizes(available, config, f"data.prompts: {data.prompts}")
            return
        for number, path in enumerate(data.prompts, start=1):
            sizes = data.prompts_per_round
            available = self._read_pool(path, sizes[number - 1] if isinstance(sizes, list) else sizes)
            self._found.pools.append(pool_size(available, config, number, f"data.prompts: {path}"))

    def _read_pool(self, path: str, assumed: int | None) -> int:
        pool = self._read(
            path, lambda: load_prompts(path, split=self._config.data.prompts_split), assumed, "data.prompts_per_round"
        )
        if pool is None:
            return assumed
        distinct = len({str(prompt) for prompt in pool["prompt"]})
        if distinct < len(pool):
            self._found.warnings.append(f"{path} repeats {len(pool) - distinct} of its {len(pool)} prompts.")
        if self._found.architecture is not None:
            self._check_prompt_lengths(path, pool)
        return len(pool)

    def _check_prompt_lengths(self, path: str, pool: Dataset) -> None:
        config, found = self._config, self._found
        tokenizer = load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)
        room = prompt_room(config, _model_config(config))
        lengths = prompt_lengths(tokenizer, pool["prompt"][:])
        long = [row for row, length in enumerate(lengths) if length > room]
        if len(long) == len(lengths):
            raise InputError(
                f"data.prompts: {path}: every prompt is too long (the first has {lengths[0]} tokens); allowed: at most "
                f"{room}, the model's context less generation.max_new_tokens, and below leader.max_length."
            )
        if long:
            found.warnings.append(
                f"{path}: {len(long)} of {len(lengths)} prompts have more than {room} tokens (the first: row "
                f"{long[0]}, {lengths[long[0]]} tokens). Their rounds leave them out and count them: a response must "
                "fit in the model's context, and some of it below leader.max_length."
            )
        found.prompt_tokens = sum(lengths) / len(lengths)


def _model_config(config: RunConfig) -> AutoConfig:
    check_exists(config.model.path, "model")
    try:
        return AutoConfig.from_pretrained(config.model.path, trust_remote_code=config.model.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model.path: {config.model.path}: no model config can be read: {reason}") from error


def missing_room(output: Path, needed: int) -> list[str]:
    """A sentence where a disk has less room than a run needs, in bytes, beside the weights it has written."""
    existing = next(parent for parent in (output.absolute(), *output.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    needed -= sum(file.stat().st_size for file in output.glob("*/policy/*.safetensors"))
    if needed <= free:
        return []
    return [
        f"output: {output} needs about {needed / _GIB:.3g} GiB and {free / _GIB:.3g} GiB are free; allowed: a disk "
        "with enough room, or fewer rounds"
    ]
