"""Generating responses with vLLM, in a separate process whose GPU memory is free again before training."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sgpo.choices import FinishReason
from sgpo.config import ModelConfig
from sgpo.config.options import VLLMOptions
from sgpo.errors import InputError
from sgpo.policy.locate import adapter_base
from sgpo.policy.sampling import Response, Sampling, derive_seed, room_for, tokenize_requests
from sgpo.policy.tokens import Messages, decode_response
from sgpo.serving.process import Child, child_process
from sgpo.store.progress import Advance

_WORKER = Path(__file__).with_name("vllm_worker.py")
_POLL = 0.5


class VLLMGenerator:
    """Samples from a policy in vLLM; a context manager that starts and ends vLLM's process.

    Prompts and responses are exchanged as token ids, so the template is rendered once and no beginning-of-sequence
    token is added twice. Each response has its own seed; vLLM reproduces its text up to rounding. The sampling defaults
    of a checkpoint are ignored, its end tokens are kept. The process, and everything that it starts, ends with the
    context, even if this process is killed.

    Args:
        model: the policy; an adapter must be merged first.
        tokenizer: the policy's.
        options: how vLLM is started.
        log: file that vLLM's output is appended to; None keeps it only as long as the process runs.

    Raises:
        InputError: the policy is an adapter; on entering, the interpreter or vLLM is missing, or vLLM cannot load the
            policy.
    """

    def __init__(
        self, model: ModelConfig, tokenizer: PreTrainedTokenizerBase, options: VLLMOptions, *, log: Path | None = None
    ) -> None:
        if (base := adapter_base(model.path)) is not None:
            raise InputError(f"{model.path!r} is an adapter of {base!r}; allowed with vLLM: the merged model.")
        own = options.model_dump(include={"tensor_parallel_size", "gpu_memory_utilization", "max_model_len"})
        trust = model.trust_remote_code if options.trust_remote_code is None else options.trust_remote_code
        self._opening = {"model": model.path, "dtype": options.dtype or model.dtype, **own, "trust_remote_code": trust}
        self._opening |= options.engine
        self._tokenizer = tokenizer
        self._python, self._log, self._grace = str(options.python or sys.executable), log, options.grace
        self._process: VLLMProcess | None = None

    def __enter__(self) -> "VLLMGenerator":
        with ExitStack() as stack:
            process = stack.enter_context(vllm_process(self._python, self._log, self._grace))
            self._context = process.ask(self._opening)["context"]
            self._process, self._stack = process, stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._process = None
        self._stack.close()

    def generate(
        self, prompts: Sequence[Messages], seeds: Sequence[int], sampling: Sampling, *, progress: Advance | None = None
    ) -> list[list[Response]]:
        """Samples n responses to each of P prompts; see `Generator`.

        vLLM schedules all of them together, so progress is called once, at the end.
        """
        if self._process is None:
            raise InputError("VLLMGenerator generates inside its context; allowed: with VLLMGenerator(...) as it: ...")
        # vLLM silently raises lower temperatures to 0.01, and refuses those above 2.
        if sampling.temperature and not 0.01 <= sampling.temperature <= 2:
            raise InputError(f"temperature is {sampling.temperature}; allowed with vLLM: 0, or 0.01 to 2.")
        prompt_ids = tokenize_requests(self._tokenizer, prompts, seeds)
        rooms = [room_for(ids, sampling, self._context) for ids in prompt_ids]
        if not prompts:
            return []
        request = {
            "prompts": [
                {"ids": ids, "max_tokens": room, "seeds": [derive_seed(seed, number) for number in range(sampling.n)]}
                for ids, seed, room in zip(prompt_ids, seeds, rooms, strict=True)
                if room > 0
            ],
            # Arguments of `vllm.SamplingParams`.
            "sampling": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "stop": list(sampling.stop),
                # vLLM adds the checkpoint's other end tokens.
                "stop_token_ids": [self._tokenizer.eos_token_id],
                # Texts are decoded here; vLLM needs them only to look for stop texts.
                "detokenize": bool(sampling.stop),
            },
        }
        answered = iter(self._process.ask(request)["responses"])
        if progress is not None:
            progress(len(prompts))
        missing = [Response.missing("too_long")] * sampling.n
        return [[self._respond(one) for one in next(answered)] if room > 0 else missing for room in rooms]

    def _respond(self, one: dict[str, Any]) -> Response:
        ids, reason, stopped_by = one["ids"], one["reason"], one["stopped_by"]
        if reason not in FinishReason.__args__:
            return Response.missing("no_answer" if reason in (None, "abort", "error") else "other_finish")
        by_text = isinstance(stopped_by, str)
        closed = reason == "stop" and not by_text
        text = decode_response(self._tokenizer, ids[:-1] if closed else ids)
        return Response(text.partition(stopped_by)[0] if by_text else text, reason, len(ids))


@contextmanager
def vllm_process(python: str, log: str | Path | None, grace: float) -> Iterator["VLLMProcess"]:
    """Runs `vllm_worker.py`, and ends it with everything that it started; for `log` and `grace` see `child_process`."""
    words, allowed = [python, "-P", str(_WORKER)], "the interpreter of an environment that has vLLM"
    with child_process(words, name=f"python {python!r}", allowed=allowed, log=log, grace=grace, pipes=True) as child:
        process = VLLMProcess(python, child)
        try:
            yield process
        finally:
            # An idle worker exits when its input ends, and lets vLLM clean up; a busy one is ended by its group.
            with suppress(BrokenPipeError):
                child.process.stdin.close()
            if not process.busy:
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(grace)


class VLLMProcess:
    """A process that runs `vllm_worker.py`: one JSON object goes in, and one comes back."""

    def __init__(self, python: str, child: Child) -> None:
        self._python, self._child, self.busy = python, child, False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises InputError if that is an error, or the worker ends."""
        self.busy, stdin = True, self._child.process.stdin
        # If the worker is gone, its exit status and output say more than the broken pipe.
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        answer = json.loads(self._receive())
        self.busy = False
        if "error" in answer:
            raise InputError(f"vLLM under {self._python!r}: {answer['error']}.{self._child.quote()}")
        return answer

    def _receive(self) -> bytes:
        """One line. The worker's own children may keep the pipe open after its end, so the process is polled too."""
        process = self._child.process
        pipe, chunks = process.stdout.fileno(), [b""]
        while not chunks[-1].endswith(b"\n"):
            ended = process.poll() is not None
            readable = bool(select.select([pipe], [], [], 0 if ended else _POLL)[0])
            if readable and (chunk := os.read(pipe, 1 << 20)):
                chunks.append(chunk)
            elif readable and not ended:
                # The pipe is closed, so the process is about to end.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
            elif ended:
                raise InputError(
                    f"the process of vLLM ({self._python!r}) ended with code {process.returncode} before it "
                    f"answered.{self._child.quote()}"
                )
        return b"".join(chunks)
