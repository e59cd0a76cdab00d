"""Which prompts a round takes: its own pool, or a slice of a common one; rounds share nothing."""

import math

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from sgpo.config import Recipe, RunConfig
from sgpo.errors import InputError
from sgpo.policy.tokens import Messages, tokenize_prompts
from sgpo.preferences.source import load_prompts


def round_sizes(available: int, config: Recipe, source: str) -> list[int]:
    """How many prompts each round takes of a common pool.

    Raises:
        InputError: the pool, named by `source`, is too small for the rounds.
    """
    sizes = config.data.prompts_per_round
    if sizes is None:
        sizes = available // max(config.rounds, 1)
    sizes = sizes if isinstance(sizes, list) else [sizes] * config.rounds
    if sizes and (min(sizes) == 0 or sum(sizes) > available):
        raise InputError(
            f"{source}: holds {available} prompts; allowed: at least {sum(sizes) or config.rounds} for "
            f"{config.rounds} rounds, or a smaller data.prompts_per_round."
        )
    return sizes


def pool_size(available: int, config: Recipe, number: int, source: str) -> int:
    """How many prompts a round takes of a pool of its own.

    Raises:
        InputError: the pool, named by `source`, is too small.
    """
    wanted = config.data.prompts_per_round
    wanted = wanted[number - 1] if isinstance(wanted, list) else wanted or available
    if wanted > available:
        raise InputError(
            f"{source}: holds {available} prompts; allowed: at least {wanted} for round {number}, or a smaller "
            "data.prompts_per_round."
        )
    return wanted


def round_prompts(config: RunConfig, number: int) -> Dataset:
    """The prompts of one round, shuffled by the run's seed: P rows with `prompt`.

    Raises:
        InputError: a pool that cannot be read, or that is too small for the rounds.
    """
    pools = config.data.prompts
    path = pools[number - 1] if isinstance(pools, list) else pools
    pool = load_prompts(path, split=config.data.prompts_split)
    source = f"data.prompts: {path}"
    if isinstance(pools, list):
        rows = range(pool_size(len(pool), config, number, source))
    else:
        sizes = round_sizes(len(pool), config, source)
        start = sum(sizes[: number - 1])
        rows = range(start, start + sizes[number - 1])
    return pool.shuffle(seed=config.seed).select(rows)


def prompt_room(config: Recipe, model: PreTrainedConfig) -> float:
    """Most tokens of a prompt: the response must fit in the model's context, and some of it be trained on."""
    context = getattr(model.get_text_config(), "max_position_embeddings", None) or math.inf
    return min(context - config.generation.max_new_tokens, config.leader.max_length - 1)


def prompt_lengths(tokenizer: PreTrainedTokenizerBase, prompts: list[Messages]) -> list[int]:
    """Tokens of each prompt."""
    return [len(ids) for ids in tokenize_prompts(tokenizer, prompts)]
