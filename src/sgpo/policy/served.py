"""Generating responses on servers that speak the OpenAI API."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.policy.sampling import Response, Sampling
from sgpo.policy.tokens import Messages, tokenize_prompts
from sgpo.serving.answers import Answer
from sgpo.serving.client import ServerPool

DIALECTS = ("vllm", "transformers", "openai")

# `generate` takes what a request leaves out from the checkpoint's generation config: these values do nothing.
_NEUTRAL = {
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
    "num_beams": 1,
}
# Fields that have no such value.
_NOT_NEUTRAL = (
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id",
    "forced_eos_token_id", "exponential_decay_length_penalty", "top_h", "watermarking_config", "stop_strings",
    "max_time",
)  # fmt: skip


class ServedGenerator:
    """Samples from a policy that servers hold.

    Each response is a request of its own, with its own seed. The server renders the chat template; a server that counts
    other tokens in a prompt than the policy's tokenizer renders another, and is refused. In the dialects "vllm" and
    "transformers" the sampling defaults that come with a checkpoint (top-k, repetition penalty, no sampling at all) are
    set aside, so that the policy itself is sampled; plain "openai" knows no such fields.

    vLLM honours a seed: the same text comes again after a restart, up to what other batches round differently.
    `transformers serve` (5.23) seeds its process and not the request, and writes one response at a time: in this
    dialect each server is asked for one response at a time, whatever the pool's concurrency, so that a text comes again
    unless others ask the server too. It leaves a stop text in the response, which is cut off here, says "length" when a
    response ends with its very last token, and with `--continuous-batching` ignores seeds, stop texts, and the sampling
    of all requests but the first: leave that out.

    Args:
        pool: the servers.
        model: the policy's name there: its folder, or the name that the server was given.
        tokenizer: the policy's; counts the tokens where a server does not, and takes out what special tokens a server
            leaves in a text.
        dialect: "vllm", "transformers" (`transformers serve`) or "openai": which further fields a request has.

    Raises:
        InputError: an unknown dialect; a generation_config.json that `transformers serve` cannot be told to set aside.
    """

    def __init__(
        self, pool: ServerPool, model: str, tokenizer: PreTrainedTokenizerBase, *, dialect: str = "vllm"
    ) -> None:
        if dialect not in DIALECTS:
            raise InputError(f"dialect is {dialect!r}; allowed: {', '.join(map(repr, DIALECTS))}.")
        self._pool, self._model, self._tokenizer, self._dialect = pool, model, tokenizer, dialect
        self._ends = _read_ends(model, tokenizer) if dialect == "transformers" else None
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
            InputError: see `ServerPool.map`; the chat template refuses a prompt; the server counts other tokens in a
                prompt than the tokenizer; an answer ended for a reason that is neither "stop" nor "length".
        """
        if len(seeds) != len(prompts):
            raise InputError(f"seeds has {len(seeds)} numbers; allowed: one per prompt, {len(prompts)}.")
        bodies = [
            self._body(messages, response_seed(seed, number), sampling)
            for messages, seed in zip(prompts, seeds, strict=True)
            for number in range(sampling.n)
        ]
        lengths = [len(ids) for ids in tokenize_prompts(self._tokenizer, prompts)]
        responses: list[Response | None] = [None] * len(bodies)
        left = [sampling.n] * len(prompts)

        def take(place: int, answer: Answer) -> None:
            row = place // sampling.n
            self._check_prompt(row, lengths[row], answer.prompt_tokens)
            responses[place] = self._respond(row, answer, sampling)
            left[row] -= 1
            if progress is not None and not left[row]:
                progress(1)

        self._pool.map(bodies, on_answer=take, concurrency=1 if self._dialect == "transformers" else None)
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
            fields = {"do_sample": sampling.temperature > 0, **_NEUTRAL, "pad_token_id": self._tokenizer.pad_token_id}
            return {"generation_config": json.dumps({**fields, "eos_token_id": self._ends})}
        return {}

    def _check_prompt(self, row: int, length: int, counted: int | None) -> None:
        if counted is not None and counted != length:
            raise InputError(
                f"row {row}: the server counts {counted} tokens in the prompt, the tokenizer of {self._model!r} "
                f"{length}; allowed: a server that renders prompts with the policy's own tokenizer and chat template, "
                "and puts no token in front a second time."
            )

    def _respond(self, row: int, answer: Answer, sampling: Sampling) -> Response:
        text, reason, tokens = answer.texts[0], answer.finish_reasons[0], answer.completion_tokens
        if reason not in ("stop", "length"):
            raise InputError(f"row {row}: finish_reason is {reason!r}; allowed: 'stop', 'length'.")
        for special in self._special:
            text = text.replace(special, "")
        if tokens is None:
            tokens = len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) + (reason == "stop")
        if places := [place for stop in sampling.stop if (place := text.find(stop)) >= 0]:
            text, reason = text[: min(places)], "stop"
        return Response(text, reason, tokens)


def response_seed(seed: int, number: int) -> int:
    """The seed of a prompt's response: 31 bits of the prompt's seed and the response's number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) >> 1


def _read_ends(model: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The tokenizer's end token and those of a folder's generation_config.json; None leaves them to the server."""
    file = Path(model) / "generation_config.json"
    if not file.is_file():
        return None
    published = json.loads(file.read_text(encoding="utf-8"))
    if kept := [name for name in _NOT_NEUTRAL if published.get(name)]:
        raise InputError(
            f"{file}: {', '.join(kept)} would change what `transformers serve` samples, and a request cannot set that "
            "aside; allowed: a file without it."
        )
    ends = published.get("eos_token_id")
    return sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})
