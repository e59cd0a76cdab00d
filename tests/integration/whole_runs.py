"""What two runs must have in common to be the same run."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from datasets import load_from_disk

from sgpo.config import RunConfig, validate
from sgpo.plan.run import plan_run


def fingerprint(directory: Path) -> dict[str, Any]:
    """Weights byte by byte, responses, scores and pairs value by value, and the numbers that were reported."""
    found: dict[str, Any] = {}
    for weights in sorted(directory.rglob("*.safetensors")):
        found[str(weights.relative_to(directory))] = hashlib.sha256(weights.read_bytes()).hexdigest()
    for state in sorted(directory.rglob("state.json")):
        found[str(state.parent.relative_to(directory))] = load_from_disk(state.parent).to_list()
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        metrics.pop("seconds")
        metrics["leader"].pop("seconds", None)
        found[f"metrics {metrics['round']}"] = metrics
    return found


def recorded_counts(directory: Path) -> dict[str, dict[str, int]]:
    """What the manifest says of each stage, but for times."""
    stages = json.loads((directory / "manifest.json").read_text())["stages"]
    return {
        name: {key: value for key, value in entry.items() if key not in ("seconds", "finished")}
        for name, entry in stages.items()
    }


def planned_and_recorded(directory: Path) -> tuple[list[str], list[str]]:
    """The stages that the plan of a finished run lists, and those of its manifest that a plan has."""
    config = validate(RunConfig, yaml.safe_load((directory / "config.yaml").read_text()), "config.yaml")
    unplanned = ("metrics.json", "validation.json", "final/pairs")
    recorded = [stage for stage in recorded_counts(directory) if not stage.endswith(unplanned)]
    return [stage.name for stage in plan_run(config).stages], recorded
