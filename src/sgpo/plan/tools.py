"""Whether what a recipe writes and ranks with is there, before anything is trained."""

import subprocess
import sys
from importlib.util import find_spec

from sgpo.config import Recipe
from sgpo.errors import InputError

_HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def missing_tools(config: Recipe) -> list[str]:
    """What a run of this recipe would lack on this machine, a sentence each; empty where nothing is missing.

    Raises:
        InputError: a function, template or folder that the recipe names and that is not there.
    """
    _check_annotator(config)
    missing = []
    if config.generation.backend == "vllm":
        python = str(config.generation.vllm.get("python") or sys.executable)
        try:
            found = subprocess.run([python, "-c", _HAS_VLLM], capture_output=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"generation.vllm.python: {python!r} cannot be started: {error}.") from error
        if found.returncode:
            missing.append(
                f"generation.backend is 'vllm', and {python} has no vLLM: install it into an environment of its own, "
                "and name that one's interpreter as generation.vllm.python"
            )
    asks_servers = config.generation.backend == "server" or config.annotation.annotator == "judge"
    if asks_servers and not _imports("openai"):
        missing.append("servers need the openai package: pip install 'sgpo[server]'")
    if config.leader.lora is not None and not _imports("peft"):
        missing.append("leader.lora needs PEFT: pip install 'sgpo[peft]'")
    return missing


def _check_annotator(config: Recipe) -> None:
    settings = config.annotation
    if settings.annotator == "function":
        from sgpo.preferences.annotators.function import FunctionAnnotator

        FunctionAnnotator(settings.function)
    elif settings.annotator == "judge":
        from sgpo.preferences.annotators.verdicts import read_template

        read_template(settings.template)
    elif settings.annotator in ("reward_model", "pair_ranker"):
        from sgpo.policy.locate import check_exists

        check_exists(settings.model, "annotation.model:")


def _imports(name: str) -> bool:
    return find_spec(name) is not None
