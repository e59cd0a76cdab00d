"""Generating responses from a policy."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GenerationConfig

from sgpo.errors import InputError
from sgpo.policy.load import Policy
from sgpo.policy.tokens import Messages, tokenize_prompts


@dataclass(frozen=True, slots=True)
class Response:
    """A generated response.

    Attributes:
        text: the response without special tokens.
        finish_reason: "stop" where the policy ended the response itself, "length" where it was cut.
        n_tokens: number of generated tokens, the end-of-sequence token included.
    """

    text: str
    finish_reason: str
    n_tokens: int


def generate_responses(
    policy: Policy,
    prompts: Sequence[Messages],
    *,
    n: int = 2,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 300,
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[list[Response]]:
    """Samples n responses to each of P prompts.

    Samples from the policy itself: generation defaults that come with a checkpoint (top-k, repetition penalty, ...)
    are set aside. The same call gives the same text on the same machine; the random state outside is left alone.
    `batch_size` is part of the call: another one cuts the random stream elsewhere and gives other samples.

    Args:
        policy: the policy; it is left as it is.
        prompts: P conversations that end in a user turn.
        n: responses per prompt.
        temperature: > 0 samples; 0 takes the most likely token, with n = 1.
        top_p: nucleus, in (0, 1].
        max_new_tokens: a response is cut after this many tokens.
        seed: seed of the samples, >= 0.
        batch_size: most responses generated at once.
        progress: called with the number of prompts newly answered.

    Returns: P lists of n responses, in the order of the prompts.

    Raises:
        InputError: an argument is out of range, or a prompt and its response exceed the model's context; the row is
            named.

    Source: arXiv:2502.18099, Algorithm 1, self-annotation (temperature 0.7, at most 300 new tokens, two responses).
    """
    _check_arguments(n, temperature, top_p, max_new_tokens, seed, batch_size)
    prompt_ids = tokenize_prompts(policy.tokenizer, prompts)
    for row, ids in enumerate(prompt_ids):
        if policy.context is not None and len(ids) + max_new_tokens > policy.context:
            raise InputError(
                f"row {row}: the prompt has {len(ids)} tokens, which with max_new_tokens {max_new_tokens} exceeds the "
                f"context of {policy.path!r}, {policy.context}; allowed: shorter prompts or a lower max_new_tokens."
            )
    config = _generation_config(policy, n, temperature, top_p, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda row: -len(prompt_ids[row]))
    answers: list[list[Response]] = [[] for _ in prompts]
    per_batch = max(1, batch_size // n)
    with _undisturbed(policy):
        for number, first in enumerate(range(0, len(order), per_batch)):
            rows = order[first : first + per_batch]
            batch_seed = int(np.random.SeedSequence([seed, number]).generate_state(1, dtype=np.uint64)[0])
            torch.manual_seed(batch_seed)
            for row, found in zip(rows, _generate(policy, [prompt_ids[row] for row in rows], config), strict=True):
                answers[row] = found
            if progress is not None:
                progress(len(rows))
    return answers


def _check_arguments(n: int, temperature: float, top_p: float, max_new_tokens: int, seed: int, batch_size: int) -> None:
    for name, value, least in (("n", n, 1), ("max_new_tokens", max_new_tokens, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise InputError(f"{name} is {value}; allowed: a whole number >= {least}.")
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: a whole number >= 0.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature is {temperature}; allowed: a number >= 0.")
    if temperature == 0 and n > 1:
        raise InputError(f"n is {n} with temperature 0, which gives one response; allowed: n=1, or a temperature > 0.")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}; allowed: a number in (0, 1].")


def _generation_config(
    policy: Policy, n: int, temperature: float, top_p: float, max_new_tokens: int
) -> GenerationConfig:
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        **(sampling if temperature > 0 else {"do_sample": False}),
        num_return_sequences=n,
        max_new_tokens=max_new_tokens,
        eos_token_id=_end_tokens(policy),
        pad_token_id=policy.tokenizer.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
        use_cache=True,
    )


def _end_tokens(policy: Policy) -> list[int]:
    """Every token that ends a response: the tokenizer's and those that the checkpoint was published with."""
    ends = {policy.tokenizer.eos_token_id}
    published = policy.model.generation_config.eos_token_id
    ends.update(published if isinstance(published, list) else [published])
    return sorted(ends - {None})


@contextmanager
def _undisturbed(policy: Policy) -> Iterator[None]:
    """Evaluation mode without the checkpoint's generation defaults; everything is put back on leaving."""
    model = policy.model
    was_training, defaults = model.training, model.generation_config
    devices = [policy.device] if policy.device.type == "cuda" else []
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            yield
    finally:
        model.generation_config = defaults
        model.train(was_training)


def _generate(policy: Policy, prompts: list[list[int]], config: GenerationConfig) -> list[list[Response]]:
    length = max(map(len, prompts))
    pad = policy.tokenizer.pad_token_id
    input_ids = torch.tensor([[pad] * (length - len(ids)) + ids for ids in prompts], device=policy.device)
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts], device=policy.device)
    output = policy.model.generate(input_ids=input_ids, attention_mask=mask, generation_config=config)
    generated = output[:, length:].tolist()
    ends = set(config.eos_token_id)
    # The place of the first end token; a row goes on with padding after it.
    stops = [next((place for place, token in enumerate(ids) if token in ends), None) for ids in generated]
    texts = policy.tokenizer.batch_decode(
        [ids[:stop] for ids, stop in zip(generated, stops, strict=True)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    responses = [
        Response(text, "length", len(ids)) if stop is None else Response(text, "stop", stop + 1)
        for text, ids, stop in zip(texts, generated, stops, strict=True)
    ]
    n = config.num_return_sequences
    return [responses[first : first + n] for first in range(0, len(responses), n)]
