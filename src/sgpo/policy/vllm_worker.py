"""Generates responses with vLLM for another process, which may run another interpreter: the other end of `vllm.py`.

It is run as a script, with `-P` so that `import vllm` does not find the file of that name in this folder. It needs only
the standard library and vLLM. It reads one JSON object per line and answers each with one: first the arguments of
`vllm.LLM`, answered by the context in tokens; then requests
`{"prompts": [{"ids", "max_tokens", "seeds"}, ...], "sampling": {...}}`, answered by
`{"responses": [[{"ids", "reason", "stopped_by"}, ...], ...]}`, one per seed. A failure is answered by `{"error": ...}`.
The process ends with its input.
"""

import json
import os
from typing import Any


def main() -> None:
    """Answers until the input ends."""
    # Only this script uses the pipes: libraries print to stderr and read an empty stdin.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as empty:
        os.dup2(empty.fileno(), 0)
    os.dup2(2, 1)
    llm = None
    for line in requests:
        try:
            request = json.loads(line)
            if llm is None:
                llm = _open_llm(request)
                answer = {"context": llm.model_config.max_model_len}
            else:
                answer = {"responses": _respond(llm, request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _open_llm(arguments: dict[str, Any]) -> Any:
    from vllm import LLM
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # vLLM 0.32 fails on a CPU where a request with a seed has its prompt read in several pieces.
        arguments = {"enable_chunked_prefill": False, **arguments}
    return LLM(**arguments)


def _respond(llm: Any, request: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """One vLLM request per response, so that each has its own seed; equal prompts share their cached prefix."""
    from vllm import SamplingParams

    prompts, params = [], []
    for prompt in request["prompts"]:
        for seed in prompt["seeds"]:
            prompts.append({"prompt_token_ids": prompt["ids"]})
            params.append(SamplingParams(seed=seed, max_tokens=prompt["max_tokens"], **request["sampling"]))
    outputs = iter(llm.generate(prompts, params, use_tqdm=False))
    return [[_completion(next(outputs)) for _ in prompt["seeds"]] for prompt in request["prompts"]]


def _completion(output: Any) -> dict[str, Any]:
    [one] = output.outputs
    return {"ids": list(one.token_ids), "reason": one.finish_reason, "stopped_by": one.stop_reason}


if __name__ == "__main__":
    main()
