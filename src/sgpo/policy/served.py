"""Generating responses on servers that speak the OpenAI API."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sgpo.choices import Dialect, Failure, FinishReason, check_choice
from sgpo.errors import InputError, shorten
from sgpo.policy.sampling import Response, Sampling, derive_seed, tokenize_requests
from sgpo.policy.tokens import Messages, end_tokens
from sgpo.serving.answers import Answer, Body
from sgpo.serving.client import ServerPool
from sgpo.store.files import read_json
from sgpo.store.progress import Advance

# `transformers serve` fills in missing fields from the checkpoint's generation config: these values turn each one off.
_NEUTRAL = {
    "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1.0, "num_beams": 1,
}  # fmt: skip
# Fields without a neutral value.
_NOT_NEUTRAL = (
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id",
    "forced_eos_token_id", "exponential_decay_length_penalty", "top_h", "watermarking_config", "stop_strings",
    "max_time",
)  # fmt: skip


class ServedGenerator:
    """Samples from a policy on servers (docs/servers.md), which know it by the name `model`; each response is a request
    with its own seed. A server that counts other prompt tokens renders another template, and is refused. `transformers
    serve` (5.23) seeds its process instead, so it gets one request at a time."""

    def __init__(
        self, pool: ServerPool, model: str, tokenizer: PreTrainedTokenizerBase, *, dialect: Dialect = "vllm"
    ) -> None:
        check_choice("dialect", dialect, Dialect)
        self._pool, self._model, self._tokenizer, self._dialect = pool, model, tokenizer, dialect
        self._ends = _read_ends(model, tokenizer) if dialect == "transformers" else None
        self._special = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)

    def generate(
        self, prompts: Sequence[Messages], seeds: Sequence[int], sampling: Sampling, *, progress: Advance | None = None
    ) -> list[list[Response]]:
        """Samples n responses to each of P prompts; see `Generator` and `ServerPool.map`."""
        lengths = [len(ids) for ids in tokenize_requests(self._tokenizer, prompts, seeds)]
        bodies = [
            self._body(messages, derive_seed(seed, number), sampling)
            for messages, seed in zip(prompts, seeds, strict=True)
            for number in range(sampling.n)
        ]
        responses: list[Response | None] = [None] * len(bodies)

        def take(place: int, answer: Answer) -> None:
            row = place // sampling.n
            if answer.failure is None and answer.prompt_tokens not in (None, lengths[row]):
                raise InputError(
                    f"row {row}: the server counts {answer.prompt_tokens} tokens in the prompt, the tokenizer of "
                    f"{self._model!r} {lengths[row]}; allowed: a server that renders prompts with the policy's "
                    "tokenizer and chat template, with one beginning-of-sequence token at most."
                )
            responses[place] = self._respond(answer, sampling)
            if progress is not None and None not in responses[row * sampling.n :][: sampling.n]:
                progress(1)

        concurrency = 1 if self._dialect == "transformers" else None
        self._pool.map(bodies, on_answer=take, concurrency=concurrency, review=_review)
        return [responses[first : first + sampling.n] for first in range(0, len(responses), sampling.n)]

    def _body(self, messages: Messages, seed: int, sampling: Sampling) -> Body:
        body = {
            "model": self._model,
            "messages": [dict(message) for message in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            "max_completion_tokens" if self._dialect == "openai" else "max_tokens": sampling.max_new_tokens,
        }
        if self._dialect == "vllm":
            body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        elif self._dialect == "llama.cpp":
            # It applies the samplers that are named, in this order, and leaves what the model thinks in the text.
            body |= {"samplers": ["temperature", "top_p"], "reasoning_format": "none"}
        elif self._dialect == "transformers":
            # It replaces the checkpoint's whole generation config.
            fields = {"do_sample": sampling.temperature > 0, **_NEUTRAL, "pad_token_id": self._tokenizer.pad_token_id}
            body["generation_config"] = json.dumps({**fields, "eos_token_id": self._ends})
        return {**body, "stop": list(sampling.stop)} if sampling.stop else body

    def _respond(self, answer: Answer, sampling: Sampling) -> Response:
        if answer.failure is not None:
            return Response.missing(answer.failure)
        text, reason, tokens = answer.texts[0], answer.finish_reasons[0], answer.completion_tokens
        for special in self._special:
            text = text.replace(special, "")
        if tokens is None:
            tokens = len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) + (reason == "stop")
        if (stop := sampling.find_stop(text)) is not None:
            text, reason = text[:stop], "stop"
        return Response(text, reason, tokens)


def _review(answer: Answer) -> Failure | None:
    return None if answer.finish_reasons[0] in FinishReason.__args__ else "other_finish"


def _read_ends(model: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The tokenizer's end token and those of a folder's generation_config.json; None leaves them to the server."""
    file = Path(model) / "generation_config.json"
    if not file.is_file():
        return None
    published = read_json(file)
    if kept := [name for name in _NOT_NEUTRAL if published.get(name)]:
        raise InputError(
            f"{file}: {', '.join(kept)} would change what `transformers serve` samples, and a request cannot override "
            "that; allowed: a file without it."
        )
    ends = published.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if type(end) is not int and end is not None:
            raise InputError(f"{file}: eos_token_id is {shorten(ends)}; allowed: a whole number, or a list of them.")
    return end_tokens(tokenizer, ends)
