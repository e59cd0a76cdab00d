"""Generating responses with vLLM, in a process of its own whose GPU memory is free again before training."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.policy.locate import adapter_base
from sgpo.policy.sampling import Response, Sampling
from sgpo.policy.served import response_seed
from sgpo.policy.tokens import Messages, tokenize_prompts
from sgpo.policy.vllm_process import VLLMProcess

# vLLM silently samples at 0.01 below that, and refuses more than 2.
_TEMPERATURES = (0.01, 2.0)


class VLLMGenerator:
    """Samples from a policy that vLLM holds; a context manager, which starts its process and ends it.

    vLLM asks for other versions of libraries than sgpo does, so it may live in an environment of its own: `python` is
    that environment's interpreter. Token ids go there and come back, so the template is rendered once and no token is
    put in front twice. Each response has a seed of its own; vLLM gives the same text again for it up to rounding. The
    sampling defaults that come with a checkpoint are set aside, its end tokens are kept. The process, and all that it
    starts, ends with the context, even if this process is killed.

    Args:
        path: folder or Hub id of the policy; an adapter must be merged first.
        tokenizer: the policy's.
        python: interpreter that imports vLLM; None is the one that runs.
        dtype: "auto", "float32", "bfloat16" or "float16"; "auto" is as the weights were saved, float32 as float16.
        tensor_parallel_size: GPUs that share the model.
        gpu_memory_utilization: share of a GPU's memory that vLLM may take, in (0, 1].
        max_model_len: longest prompt and response together, in tokens; None is the model's context.
        trust_remote_code: run model code that comes with a Hub repository.
        engine: further arguments of `vllm.LLM`, such as {"enforce_eager": True}.
        log: file that vLLM's output is appended to; None keeps it only as long as the process runs.
        grace: seconds between SIGTERM and SIGKILL for what does not end with the context.

    Raises:
        InputError: an argument is out of range or set twice; on entering: the interpreter or vLLM cannot be had, or
            vLLM cannot load the policy (its message and the end of its output are quoted).
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        python: str | Path | None = None,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        trust_remote_code: bool = False,
        engine: Mapping[str, Any] | None = None,
        log: str | Path | None = None,
        grace: float = 30,
    ) -> None:
        if tensor_parallel_size < 1:
            raise InputError(f"tensor_parallel_size is {tensor_parallel_size}; allowed: a whole number >= 1.")
        if not 0 < gpu_memory_utilization <= 1:
            raise InputError(f"gpu_memory_utilization is {gpu_memory_utilization}; allowed: a number in (0, 1].")
        if max_model_len is not None and max_model_len < 2:
            raise InputError(f"max_model_len is {max_model_len}; allowed: None or a whole number >= 2.")
        if (base := adapter_base(path)) is not None:
            raise InputError(f"{str(path)!r} is an adapter of {base!r}; allowed with vLLM: the merged model.")
        self._opening = {
            "model": str(path),
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
            "trust_remote_code": trust_remote_code,
        }
        if twice := sorted(self._opening.keys() & (engine or {}).keys()):
            raise InputError(f"engine has {', '.join(twice)}; allowed: what is no argument of its own.")
        self._opening |= engine or {}
        self._path, self._tokenizer = str(path), tokenizer
        self._python, self._log, self._grace = str(python or sys.executable), log, grace
        self._process: VLLMProcess | None = None
        self._context = 0

    def __enter__(self) -> "VLLMGenerator":
        self._process = VLLMProcess(self._python, self._log, self._grace)
        try:
            self._context = self._process.ask(self._opening)["context"]
        except BaseException:
            self._process.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.close()
        self._process = None

    def generate(
        self,
        prompts: Sequence[Messages],
        seeds: Sequence[int],
        sampling: Sampling,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Response]]:
        """Samples n responses to each of P prompts; see `sgpo.policy.sampling.Generator`.

        vLLM batches all of them as it sees fit, so progress is called once, when all are done.

        Raises:
            InputError: a prompt and its response exceed the context (the row is named); not one seed each; a
                temperature that vLLM does not sample at; vLLM fails or its process ends.
        """
        if self._process is None:
            raise InputError("VLLMGenerator generates inside its context; allowed: with VLLMGenerator(...) as it: ...")
        if len(seeds) != len(prompts):
            raise InputError(f"seeds has {len(seeds)} numbers; allowed: one per prompt, {len(prompts)}.")
        low, high = _TEMPERATURES
        if sampling.temperature and not low <= sampling.temperature <= high:
            raise InputError(f"temperature is {sampling.temperature}; allowed with vLLM: 0, or {low} to {high:g}.")
        if not prompts:
            return []
        prompt_ids = tokenize_prompts(self._tokenizer, prompts)
        for row, ids in enumerate(prompt_ids):
            self._check_room(row, len(ids), sampling.max_new_tokens)
        request = {
            "prompts": [
                {"ids": ids, "seeds": [response_seed(seed, number) for number in range(sampling.n)]}
                for ids, seed in zip(prompt_ids, seeds, strict=True)
            ],
            "sampling": self._arguments(sampling),
        }
        answered = self._process.ask(request)["responses"]
        if progress is not None:
            progress(len(prompts))
        return [[self._respond(one, row) for one in responses] for row, responses in enumerate(answered)]

    def _check_room(self, row: int, length: int, max_new_tokens: int) -> None:
        if length + max_new_tokens > self._context:
            raise InputError(
                f"row {row}: the prompt has {length} tokens, which with max_new_tokens {max_new_tokens} exceeds the "
                f"context that vLLM keeps for {self._path!r}, {self._context}; allowed: shorter prompts, a lower "
                "max_new_tokens, or a higher max_model_len where the model's context is longer."
            )

    def _arguments(self, sampling: Sampling) -> dict[str, Any]:
        """Arguments of `vllm.SamplingParams`, but for the seed."""
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "stop": list(sampling.stop),
            # The checkpoint's other end tokens are vLLM's to add.
            "stop_token_ids": [self._tokenizer.eos_token_id],
            # Texts are made here; vLLM needs them only to look for stop texts.
            "detokenize": bool(sampling.stop),
        }

    def _respond(self, one: dict[str, Any], row: int) -> Response:
        ids, reason, stopped_by = one["ids"], one["reason"], one["stopped_by"]
        if reason not in ("stop", "length"):
            raise InputError(f"row {row}: vLLM ended a response with {reason!r}; allowed: 'stop', 'length'.")
        by_text = isinstance(stopped_by, str)
        closed = reason == "stop" and not by_text
        text = self._tokenizer.decode(
            ids[:-1] if closed else ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Response(text.partition(stopped_by)[0] if by_text else text, reason, len(ids))
