"""Whether the tools that a recipe needs are installed."""

import subprocess
import sys
from importlib.util import find_spec

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.policy.generators import check_servers
from sgpo.preferences.annotators.open import open_annotator

_HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def missing_tools(config: RunConfig) -> list[str]:
    """What a run lacks on this machine, a sentence each; InputError if something that the recipe names is not there."""
    generation, annotation, missing = config.generation, config.annotation, []
    if (generation.servers or annotation.servers) and not find_spec("openai"):
        missing.append("servers need the openai package: pip install 'sgpo[server]'")
    else:
        check_servers(generation)
        if annotation.servers or annotation.function:
            open_annotator(annotation)
    if generation.backend == "vllm":
        python = str(generation.vllm.python or sys.executable)
        try:
            found = subprocess.run([python, "-c", _HAS_VLLM], capture_output=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"generation.vllm.python: {python!r} cannot be started: {error}.") from error
        if found.returncode:
            missing.append(
                f"generation.backend is 'vllm', and {python} has no vLLM: install it into an environment of its own, "
                "and set generation.vllm.python to its interpreter"
            )
    if config.leader.lora is not None and not find_spec("peft"):
        missing.append("leader.lora needs PEFT: pip install 'sgpo[peft]'")
    return missing
