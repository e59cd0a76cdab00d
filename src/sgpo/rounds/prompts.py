"""Which prompts a round takes: all of its own pool or a slice of a common one, so that no two rounds share any."""

import math

import numpy as np
from datasets import Dataset
from transformers import AutoConfig

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.policy.load import load_tokenizer
from sgpo.policy.tokens import tokenize_prompts
from sgpo.preferences.source import load_prompts


def round_sizes(available: int, config: RunConfig, source: str) -> list[int]:
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


def pool_size(available: int, config: RunConfig, number: int, source: str) -> int:
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


def prompt_lengths(config: RunConfig, policy: str, prompts: Dataset, source: str) -> tuple[np.ndarray, float]:
    """Tokens of each prompt, and the most that a prompt may have.

    A response must fit in the model's context, and some of it within `leader.max_length`.

    Args:
        config: the recipe.
        policy: folder or Hub id of the policy that answers.
        prompts: P rows with `prompt`.
        source: where they come from, for messages.

    Returns: (P,) lengths and the maximum; infinite for a model that names no context.

    Raises:
        InputError: every prompt is too long.
    """
    trust = config.model.trust_remote_code
    model = AutoConfig.from_pretrained(policy, trust_remote_code=trust).get_text_config()
    context = getattr(model, "max_position_embeddings", None) or math.inf
    room = min(context - config.generation.max_new_tokens, config.leader.max_length - 1)
    tokens = tokenize_prompts(load_tokenizer(policy, trust_remote_code=trust), prompts["prompt"][:])
    lengths = np.array([len(ids) for ids in tokens])
    if len(lengths) and (lengths > room).all():
        raise InputError(
            f"{source}: every prompt is too long (the first has {lengths[0]} tokens); allowed: at most {room}, the "
            "model's context less generation.max_new_tokens, and below leader.max_length."
        )
    return lengths, room


def check_prompts(config: RunConfig) -> None:
    """Reads the prompts of every round.

    Raises:
        InputError: see `round_prompts` and `prompt_lengths`.
    """
    for number in range(1, config.rounds + 1):
        prompt_lengths(config, config.model.path, round_prompts(config, number), f"data.prompts, round {number}")
