"""Generates responses with vLLM for another process, which may run another interpreter: the other end of `vllm.py`.

It is run as a script, with `-P` so that `import vllm` does not find the file of that name in this folder. It needs only
the standard library and vLLM. It reads one JSON object per line and answers each with one: first the arguments of
`vllm.LLM`, answered by the context in tokens; then requests `{"prompts": [{"ids", "seeds"}, ...], "sampling": {...}}`,
answered by `{"responses": [[{"ids", "reason", "stopped_by"}, ...], ...]}`, one per seed. A failure is answered by
`{"error": ...}`. The process ends with its input.
"""

import json
import os
from typing import Any, BinaryIO


def main() -> None:
    """Answers until the input ends."""
    requests, answers = _take_pipes()
    opening = _read(requests)
    if opening is None:
        return
    try:
        llm = _open_model(opening)
    except Exception as error:
        _write(answers, {"error": _describe(error)})
        return
    _write(answers, {"context": llm.model_config.max_model_len})
    for request in iter(lambda: _read(requests), None):
        try:
            answer = {"responses": _respond(llm, request)}
        except Exception as error:
            answer = {"error": _describe(error)}
        _write(answers, answer)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes, kept from everything else: what a library prints goes to stderr, what it reads is empty."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return requests, answers


def _read(requests: BinaryIO) -> dict[str, Any] | None:
    line = requests.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def _write(answers: BinaryIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _open_model(arguments: dict[str, Any]) -> Any:
    from vllm import LLM

    return LLM(**arguments)


def _respond(llm: Any, request: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """One vLLM request per response, so that each has its own seed; equal prompts share their cached prefix."""
    from vllm import SamplingParams

    prompts, params = [], []
    for prompt in request["prompts"]:
        for seed in prompt["seeds"]:
            prompts.append({"prompt_token_ids": prompt["ids"]})
            params.append(SamplingParams(seed=seed, **request["sampling"]))
    outputs = iter(llm.generate(prompts, params, use_tqdm=False))
    return [[_completion(next(outputs)) for _ in prompt["seeds"]] for prompt in request["prompts"]]


def _completion(output: Any) -> dict[str, Any]:
    [one] = output.outputs
    return {"ids": list(one.token_ids), "reason": one.finish_reason, "stopped_by": one.stop_reason}


if __name__ == "__main__":
    main()
