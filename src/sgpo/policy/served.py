"""Generating responses on servers that speak the OpenAI API."""

import json
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.policy.sampling import Response, Sampling
from sgpo.policy.tokens import Messages
from sgpo.serving.client import ServerPool

DIALECTS = ("vllm", "transformers", "openai")


class ServedGenerator:
    """Samples from a policy that servers hold.

    Each response is a request of its own, with its own seed: a server that honours seeds (vLLM) gives the same text
    again after a restart. `transformers serve` seeds its process, not the request, so there only one request at a time
    is repeatable (`concurrency: 1` in the pool). The server renders the chat template, so no token is put in front
    twice. In the first two dialects the sampling defaults that come with a checkpoint (top-k, repetition penalty, no
    sampling at all) are set aside, so that the policy itself is sampled; plain "openai" knows no such fields.

    Args:
        pool: the servers.
        model: the policy's name there: its folder, or the name that the server was given.
        tokenizer: the policy's; counts the tokens where a server does not, and takes out what special tokens a server
            leaves in a text.
        dialect: "vllm", "transformers" (`transformers serve`) or "openai": which further fields a request has.

    Raises:
        InputError: an unknown dialect.
    """

    def __init__(
        self, pool: ServerPool, model: str, tokenizer: PreTrainedTokenizerBase, *, dialect: str = "vllm"
    ) -> None:
        if dialect not in DIALECTS:
            raise InputError(f"dialect is {dialect!r}; allowed: {', '.join(map(repr, DIALECTS))}.")
        self._pool, self._model, self._tokenizer, self._dialect = pool, model, tokenizer, dialect
        self._special = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)

    def generate(
        self,
        prompts: Sequence[Messages],
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Response]]:
        """Samples n responses to each of P prompts; see `sgpo.policy.sampling.Generator`.

        Raises:
            InputError: see `ServerPool.map`; an answer ended for a reason that is neither "stop" nor "length".
        """
        if len(seeds) != len(prompts):
            raise InputError(f"seeds has {len(seeds)} numbers; allowed: one per prompt, {len(prompts)}.")
        bodies = [
            self._body(messages, response_seed(seed, number), sampling)
            for messages, seed in zip(prompts, seeds, strict=True)
            for number in range(sampling.n)
        ]
        left = [sampling.n] * len(prompts)

        def count(place: int, answer: object) -> None:
            left[place // sampling.n] -= 1
            if progress is not None and not left[place // sampling.n]:
                progress(1)

        answers = self._pool.map(bodies, on_answer=count)
        responses = [
            self._respond(answer.texts[0], answer.finish_reasons[0], answer.completion_tokens, place)
            for place, answer in enumerate(answers)
        ]
        return [responses[first : first + sampling.n] for first in range(0, len(responses), sampling.n)]

    def _body(self, messages: Messages, seed: int, sampling: Sampling) -> dict:
        body = {
            "model": self._model,
            "messages": [dict(message) for message in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            "max_completion_tokens" if self._dialect == "openai" else "max_tokens": sampling.max_new_tokens,
            **self._further(sampling),
        }
        return {**body, "stop": list(sampling.stop)} if sampling.stop else body

    def _further(self, sampling: Sampling) -> dict:
        if self._dialect == "vllm":
            return {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        if self._dialect == "transformers":
            # It takes the place of the checkpoint's whole generation config.
            ends = {"eos_token_id": self._tokenizer.eos_token_id, "pad_token_id": self._tokenizer.pad_token_id}
            return {"generation_config": json.dumps({"do_sample": sampling.temperature > 0, "top_k": 0, **ends})}
        return {}

    def _respond(self, text: str, reason: str, tokens: int | None, place: int) -> Response:
        if reason not in ("stop", "length"):
            raise InputError(f"request {place}: finish_reason is {reason!r}; allowed: 'stop', 'length'.")
        for special in self._special:
            text = text.replace(special, "")
        if tokens is None:
            tokens = len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) + (reason == "stop")
        return Response(text, reason, tokens)


def response_seed(seed: int, number: int) -> int:
    """The seed of a prompt's response: 31 bits of the prompt's seed and the response's number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) >> 1
