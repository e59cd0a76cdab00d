"""Writes run directories as `sgpo run` leaves them, with made-up numbers."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

CONFIG = {
    "output": "runs/fake",
    "seed": 7,
    "rounds": 3,
    "model": {"path": "some/sft-model", "dtype": "float32"},
    "data": {"seeds": "seeds.jsonl", "seed_pairs": 120, "prompts": "prompts.jsonl"},
    "generation": {"candidates": 2, "temperature": 0.7, "max_new_tokens": 300},
    "follower": {"radius": 0.01, "space": "probability", "tangents": 6, "window": None},
    "leader": {"beta": 0.1, "learning_rate": 5e-7, "epochs": 1.0},
}
GOLD = {
    "value": [0.580, 0.640, 0.703, 0.722],
    "kl": [0.412, 1.377, 2.204, 2.951],
    "tokens": [22.0, 22.9, 24.1, 25.3],
    "agreement": [None, 0.713, 0.688, 0.671],
}
HELDOUT = [0.575, 0.601, 0.633, 0.629]
SAMPLES = [
    {
        "prompt": "Please tell me where the green lantern is.",
        "response": "The green lantern is in the harbour office. Anything else?",
        "baseline": "The lantern is is is green and the harbour.",
        "reward": 1.84,
        "baseline_reward": 0.32,
    },
    {
        "prompt": "How many boats came in today?",
        "response": "Seven boats came in today, thank you for asking.",
        "baseline": "Seven boats came in today.",
        "reward": 1.21,
        "baseline_reward": 1.37,
    },
]

LOGPS = {"chosen_logps": -31.0, "reference_chosen_logps": -30.0}


def fake_metrics(t: int) -> dict[str, Any]:
    """The metrics of round t: a reward evaluation and held-out pairs in every round, annotation and follower from 1."""
    win, accuracy = GOLD["value"][t], HELDOUT[t]
    metrics: dict[str, Any] = {
        "round": t,
        "name": f"round {t}" if t else "DPO on seeds",
        "seconds": 40.0 + t,
        "leader": {"steps": 44, "loss_first": 0.69, "loss_last": 0.55, **LOGPS},
        "heldout": {"pairs": 300, "accuracy": accuracy, "low": accuracy - 0.055, "high": accuracy + 0.054},
        "evaluations": {
            "gold": {
                **{"kind": "reward", "low": win - 0.056, "high": win + 0.054, "count": 300},
                **{name: values[t] for name, values in GOLD.items()},
            }
        },
    }
    if t:
        metrics["annotation"] = {
            **{"prompts": 400, "responses": 800, "pairs": 352, "response_tokens": 21.0 + t, "gap_mean": 0.31 * t},
            "dropped": {"identical": 19, "unfinished": 28, "tied": 1},
        }
        metrics["follower"] = {
            **{"radius": 0.01, "space": "probability", "tangents": 6, "window": [0.0, 1.0], "value": 0.612 + t / 100},
            **{
                "empirical_value": 0.581,
                "price": 2.917 + t / 100,
                "moved_share": 0.0231,
                "marginal": [0, 0.506, 0.515, 0.52][t],
            },
        }
    return metrics


def as_older_run(metrics: dict[str, Any]) -> None:
    """Turns metrics into those of an older run, which keep the reward evaluation of the embedded world in `gold`."""
    gold = metrics.pop("evaluations")["gold"]
    older = {"value": "win_rate", "count": "prompts", "tokens": "response_tokens"}
    metrics["gold"] = {older.get(key, key): value for key, value in gold.items() if key != "kind"}
    metrics["gold"] |= {"reward": 1.2, "baseline_reward": 0.8, "attributes": {"polite": 0.9}}


class FakeRun:
    """A finished run in `root`, and the means to change it before `write` puts it on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config: dict[str, Any] = copy.deepcopy(CONFIG)
        self.metrics = [fake_metrics(t) for t in range(4)]
        self.samples: dict[str, list[dict[str, Any]]] = {"gold": copy.deepcopy(SAMPLES)}
        self.shipped: dict[str, Any] | None = None

    def write(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))
        (self.root / "manifest.json").write_text(json.dumps(self._manifest(), indent=2))
        _write_pairs(self.root / "seed" / "pairs", {"source": ["human"] * 120})
        for metrics in self.metrics:
            self._write_round(metrics)
        lines = "".join(json.dumps(metrics) + "\n" for metrics in self.metrics)
        (self.root / "metrics.jsonl").write_text(lines)
        if self.shipped is not None:
            (self.root / "shipped.json").write_text(json.dumps(self.shipped))
        return self.root

    def _manifest(self) -> dict[str, Any]:
        stages = {"seed/pairs": {"seconds": 0.4, "finished": "2025-11-02T10:00:00+00:00"}}
        for metrics in self.metrics:
            for index, part in enumerate(("responses", "pairs", "worst_case.parquet", "policy", "metrics.json")):
                if metrics["round"] or index > 2:
                    stages[f"round-{metrics['round']}/{part}"] = {
                        "seconds": [31.2, 4.75, 0.02, 75.5, 6.0][index],
                        "finished": f"2025-11-02T10:0{metrics['round']}:{10 + index}+00:00",
                    }
        return {
            "sgpo": "0.1.0",
            "command": ["sgpo", "run", "--config", "recipes/fake.yaml", "rounds=3"],
            "created": "2025-11-02T10:00:00+00:00",
            "versions": {"torch": "2.13.0", "trl": "1.16.0"},
            "seed": self.config["seed"],
            "stages": stages,
        }

    def _write_round(self, metrics: dict[str, Any]) -> None:
        folder = self.root / (f"round-{t}" if (t := metrics["round"]) <= self.config["rounds"] else "final")
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
        if "follower" in metrics:
            _write_pairs(folder / "pairs", {"source": ["self"] * 352})
            _write_gaps(folder / "worst_case.parquet", metrics["round"], self.config["follower"]["space"])
        for name, samples in self.samples.items():
            path = folder / ("samples.jsonl" if "gold" in metrics else f"evaluations/{name}/samples.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in samples))


def _write_gaps(path: Path, t: int, space: str) -> None:
    """The 352 gaps of round t, of the mean in its metrics and none below 0; a share of 0.0231, the lowest, moved."""
    gap = np.sort(np.random.default_rng(t).gamma(2.0, 0.31 * t / 2, 352))
    point = 1 / (1 + np.exp(-gap)) if space == "probability" else gap
    moved = np.clip(0.0231 * len(gap) - np.arange(len(gap)), 0, 1)
    pq.write_table(pa.table({"gap": gap, "point": point, "moved": moved}), path)


def _write_pairs(folder: Path, columns: dict[str, list[Any]]) -> None:
    """The file that datasets' save_to_disk writes: an Arrow stream."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
