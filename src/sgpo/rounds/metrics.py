"""The metrics of a finished round, from what its stages left on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.rounds.context import Run
from sgpo.rounds.evaluations import headlines
from sgpo.rounds.pairs import COUNTS, HEADS, HELDOUT, gaps_under
from sgpo.rounds.training import TRAINING_LOG, read_summary
from sgpo.rounds.validation import DECISION
from sgpo.stats.ranking import ranking_accuracy
from sgpo.store.files import read_json, reading_back, write_jsonl
from sgpo.store.records import WORST_CASE, RoundMetrics, parse_record

_METRICS = "metrics.json"


def measure_round(run: Run, number: int) -> None:
    """Writes the metrics of a finished round, to its own file and as a line of metrics.jsonl."""
    folders = [run.folder(done) for done in range(number + 1)]
    run.stages.alone(f"{folders[-1]}/{_METRICS}", lambda path: _collect(run, number).write(path))
    if run.stages.processes.is_main:
        write_jsonl(run.root / "metrics.jsonl", (read_json(run.root / folder / _METRICS) for folder in folders))


def _collect(run: Run, number: int) -> RoundMetrics:
    name = {0: "DPO on seeds", run.final: "final DPO"}.get(number, f"round {number}")
    folder = run.root / run.folder(number)
    metrics: dict[str, Any] = {"round": number, "name": name, "seconds": run.stages.run.seconds(f"{folder.name}/")}
    if (folder / "responses").exists():
        metrics["annotation"] = _annotation(run, folder) | read_json(folder / "pairs" / COUNTS)
        metrics["follower"] = read_summary(folder / WORST_CASE)
    if (folder / DECISION).exists():
        metrics["decision"] = read_json(folder / DECISION)
    # A round that was not accepted has no training log: it keeps the policy before.
    if (folder / "policy" / TRAINING_LOG).exists():
        metrics["leader"] = _leader(folder / "policy" / TRAINING_LOG, run.config.leader.beta)
    if run.config.data.heldout:
        metrics["heldout"] = ranking_accuracy(gaps_under(run, HELDOUT, run.policy(number)))._asdict()
    if number == 0 and (run.root / HEADS).exists():
        metrics["heads"] = read_json(run.root / HEADS)
    if run.config.evaluate:
        metrics["evaluations"] = headlines(run, number)
    return parse_record(RoundMetrics, metrics, f"{folder.name}/{_METRICS}")


def _annotation(run: Run, folder: Path) -> dict[str, float]:
    responses, pairs = run.load(f"{folder.name}/responses"), run.load(f"{folder.name}/pairs")
    gaps = np.array(pairs["gap"])[np.array(pairs["source"]) == "self"]
    return {"response_tokens": float(np.mean(responses["n_tokens"][:])), "gap_mean": float(np.mean(gaps))}


def _leader(path: Path, beta: float) -> dict[str, Any]:
    with reading_back(path):
        log = json.loads(path.read_text(encoding="utf-8"))
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
