"""Runs of the real loop that share what is the same in them."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgpo.config import RunConfig, validate
from sgpo.store.run_dir import RunDir

# Stages that depend on the seeds and the leader's settings of round 0 alone.
OF_ROUND_0 = (
    "seed/pairs", "validation/pairs", "round-0/policy", "round-0/evaluations", "round-0/metrics.json",
    "round-0/validation.json",
)  # fmt: skip


def changed_recipe(base: Mapping[str, Any], *changes: Mapping[str, Any], name: str) -> RunConfig:
    """A recipe with changes by dotted key; `name` stands for it in messages."""
    content = copy.deepcopy(dict(base))
    for key, value in (item for some in changes for item in some.items()):
        *parents, last = key.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return validate(RunConfig, content, name)


def adopt(recipe: RunConfig, source: Path, stages: Sequence[str], command: list[str]) -> None:
    """Starts a run directory with those of the stages that another run has made in the same way."""
    run = RunDir(recipe.output, recipe, command)
    for stage in stages:
        if (source / stage).exists():
            with run.writing(stage) as path:
                (shutil.copytree if (source / stage).is_dir() else shutil.copy2)(source / stage, path)
    run.close()
