"""The numbers of a finished round, from what its stages left on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk

from sgpo.rounds.follower import read_summary


def stage_metrics(folder: Path, pairs: Dataset, beta: float) -> dict[str, Any]:
    """Metrics of annotation, follower and leader of one round.

    Args:
        folder: the round's folder; round 0 has neither responses nor a worst case.
        pairs: the pairs that the round trained on.
        beta: scale of the implicit rewards in the leader's log.
    """
    metrics: dict[str, Any] = {}
    if (folder / "responses").exists():
        metrics["annotation"] = _annotation_metrics(folder, pairs)
        metrics["follower"] = read_summary(folder / "worst_case.parquet")
    if (folder / "decision.json").exists():
        metrics["decision"] = json.loads((folder / "decision.json").read_text(encoding="utf-8"))
    log = folder / "policy" / "training_log.json"
    if log.exists():
        metrics["leader"] = _leader_metrics(json.loads(log.read_text(encoding="utf-8")), beta)
    # A round that was not taken trained nothing that is kept.
    return metrics


def _annotation_metrics(folder: Path, pairs: Dataset) -> dict[str, Any]:
    counts = json.loads((folder / "pairs" / "annotation.json").read_text(encoding="utf-8"))
    tokens = load_from_disk(folder / "responses")["n_tokens"][:]
    gaps = [gap for gap, source in zip(pairs["gap"], pairs["source"], strict=True) if source == "self"]
    return {**counts, "response_tokens": float(np.mean(tokens)), "gap_mean": float(np.mean(gaps))}


def _leader_metrics(log: list[dict[str, Any]], beta: float) -> dict[str, Any]:
    steps = [record for record in log if "loss" in record]
    last = steps[-1]
    return {
        "steps": log[-1]["step"],
        "loss_first": steps[0]["loss"],
        "loss_last": last["loss"],
        "chosen_logps": last["logps/chosen"],
        "rejected_logps": last["logps/rejected"],
        "reference_chosen_logps": last["logps/chosen"] - last["rewards/chosen"] / beta,
        "reward_accuracy": last["rewards/accuracies"],
    }
