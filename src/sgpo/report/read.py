"""A run directory as one record, whole or not yet finished."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sgpo.errors import InputError
from sgpo.report.evaluations import Measured, find_measured, read_evaluations
from sgpo.report.shipping import Shipped, parse_shipped

# The numbers of metrics.json that the report shows. Other keys may be there and are left alone.
_NUMBERS = {
    "annotation": ("prompts", "responses", "pairs", "response_tokens", "gap_mean"),
    "follower": ("radius", "value", "empirical_value", "price", "moved_share", "marginal"),
    "leader": ("chosen_logps", "reference_chosen_logps"),
    "heldout": ("pairs", "accuracy", "low", "high"),
    "gold": (
        *("win_rate", "low", "high", "prompts", "reward", "baseline_reward"),
        *("kl", "response_tokens", "agreement"),
    ),
}
_CONFIG_KEYS = ("rounds", "seed", "follower.radius", "follower.space", "leader.beta")
_SAMPLE_KEYS = {"prompt": str, "response": str, "baseline": str, "reward": float, "baseline_reward": float}


@dataclass(frozen=True, eq=False)
class GapTable:
    """The pairs of a round as the follower sees them.

    Attributes:
        gap: (N,) beta-scaled reward differences, in nats.
        point: (N,) the same in the gap space of the run (nats, or a probability).
        moved: (N,) the share of each pair's mass that the worst case moves, in [0, 1].
    """

    gap: np.ndarray
    point: np.ndarray
    moved: np.ndarray


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a run left on disk.

    Attributes:
        name: name of the run directory.
        config: the whole recipe.
        manifest: versions, command, seconds per stage.
        rounds: metrics of the finished rounds, in order; see `number` for reading one.
        gaps: per round, its pairs in the worst case; only the rounds that have one.
        samples: per round, responses beside those of the SFT model; only the rounds that have them.
        seed_pairs: how many human pairs the run starts from; None while they are not drawn.
        shipped: the round that the run ships; None where the recipe does not choose, or has not yet.
    """

    name: str
    config: dict[str, Any]
    manifest: dict[str, Any]
    rounds: list[dict[str, Any]]
    gaps: dict[int, GapTable]
    samples: dict[int, list[dict[str, Any]]]
    seed_pairs: int | None
    shipped: Shipped | None = None

    @property
    def judged_round(self) -> dict[str, Any]:
        """Metrics of the round that the run stands for: the one it ships, else the last finished one."""
        if self.shipped is None or self.has_final:
            return self.rounds[-1]
        return next((metrics for metrics in self.rounds if metrics["round"] == self.shipped.round), self.rounds[-1])

    @property
    def has_final(self) -> bool:
        """Whether a last DPO on all human pairs is among the rounds."""
        return bool(self.rounds) and self.rounds[-1]["round"] > self.config["rounds"]

    @property
    def missing_rounds(self) -> list[int]:
        """Rounds that the recipe asks for and that have no metrics yet."""
        done = {metrics["round"] for metrics in self.rounds}
        return [t for t in range(self.config["rounds"] + 1) if t not in done]

    @property
    def missing_end(self) -> str:
        """What the recipe asks for after its rounds and that is not there yet; empty where nothing is."""
        leader = self.config["leader"]
        if self.shipped is None and str(leader.get("accept")).startswith("supported"):
            return "The choice of the round to ship"
        # Without a choice, the recipe alone says whether there is a last DPO; runs of older versions do not.
        wanted = leader.get("final_epochs") if self.shipped is None else self.shipped.has_last_dpo
        return "The last DPO on all human pairs" if wanted and not self.has_final else ""

    def has(self, key: str) -> bool:
        """Whether any round has this number."""
        return any(number(metrics, key) is not None for metrics in self.rounds)

    @property
    def measured(self) -> list[Measured]:
        """The recipe's evaluations that some round has a number of."""
        return find_measured(self.rounds)

    @property
    def length_key(self) -> str:
        """Where response lengths are read: the round's own policy if it was evaluated, else the annotated responses."""
        return "gold.response_tokens" if self.has("gold.response_tokens") else "annotation.response_tokens"

    @property
    def length_meaning(self) -> str:
        """Whose length `length_key` reads."""
        if self.length_key == "gold.response_tokens":
            return "mean length of the policy's answers to the test prompts"
        return "mean length of the responses that were annotated in the round"


def number(metrics: dict[str, Any], key: str) -> float | None:
    """The number at a dotted key such as `gold.win_rate`; None where it is absent or null."""
    block, _, name = key.partition(".")
    return (metrics.get(block) or {}).get(name)


def read_run(directory: str | Path) -> RunRecord:
    """Reads a run directory, which may be unfinished: rounds and their parts may be absent, never damaged.

    Raises:
        InputError: no run there, or a damaged file; names the file, and the line or column.
    """
    root = Path(directory)
    if not root.is_dir():
        raise InputError(f"{root}: no such directory; allowed: a run directory of sgpo run.")
    config = _read_config(root / "config.yaml")
    manifest = _read_manifest(root / "manifest.json")
    rounds, gaps, samples = [], {}, {}
    folders = [*(root / f"round-{t}" for t in range(config["rounds"] + 1)), root / "final"]
    for t, folder in enumerate(folders):
        if (folder / "metrics.json").exists():
            rounds.append(_read_metrics(folder / "metrics.json", t))
        if (folder / "worst_case.parquet").exists():
            gaps[t] = _read_gaps(folder / "worst_case.parquet")
        if (folder / "samples.jsonl").exists():
            samples[t] = _read_samples(folder / "samples.jsonl")
    return RunRecord(
        name=root.resolve().name,
        config=config,
        manifest=manifest,
        rounds=rounds,
        gaps=gaps,
        samples=samples,
        seed_pairs=_count_rows(root / "seed" / "pairs"),
        shipped=_read_shipped(root / "shipped.json"),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, so {path.parent} is no run of sgpo run.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error


def _parse_json(text: str, path: Path, line: int = 1) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise InputError(f"{path}, line {line}: holds {constant}; allowed: finite numbers and null.")

    try:
        content = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {line + error.lineno - 1}: damaged JSON ({error.msg}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}, line {line}: holds a {type(content).__name__}; allowed: a JSON object.")
    return content


def _read_config(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: damaged YAML: {' '.join(str(error).split())}") from error
    for key in _CONFIG_KEYS:
        node = config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                raise InputError(f"{path}: no key {key}; allowed: the recipe that sgpo run writes.")
            node = node[part]
    if type(config["rounds"]) is not int or config["rounds"] < 0:
        raise InputError(f"{path}: rounds is {config['rounds']!r}; allowed: a whole number >= 0.")
    return config


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = _parse_json(_read_text(path), path)
    for name, stage in manifest.setdefault("stages", {}).items():
        if not isinstance(stage, dict) or not _is_number(stage.get("seconds")):
            raise InputError(f"{path}: stage {name} has no seconds; allowed: a number.")
    return manifest


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_metrics(path: Path, t: int) -> dict[str, Any]:
    metrics = _parse_json(_read_text(path), path)
    if metrics.get("round") != t or not isinstance(metrics.get("name"), str):
        raise InputError(f"{path}: round is {metrics.get('round')!r}; allowed: {t}, and a name.")
    for block, names in _NUMBERS.items():
        content = metrics.get(block) or {}
        if not isinstance(content, dict):
            raise InputError(f"{path}: {block} is {content!r}; allowed: an object.")
        for name in names:
            if content.get(name) is not None and not _is_number(content[name]):
                raise InputError(f"{path}: {block}.{name} is {content[name]!r}; allowed: a finite number or null.")
    dropped = (metrics.get("annotation") or {}).get("dropped") or {}
    if not isinstance(dropped, dict) or not all(map(_is_number, dropped.values())):
        raise InputError(f"{path}: annotation.dropped is {dropped!r}; allowed: a count per reason.")
    window = (metrics.get("follower") or {}).get("window")
    if window is not None and not (isinstance(window, list) and len(window) == 2 and all(map(_is_number, window))):
        raise InputError(f"{path}: follower.window is {window!r}; allowed: two numbers or null.")
    return {**metrics, **read_evaluations(metrics, path)}


def _read_shipped(path: Path) -> Shipped | None:
    return parse_shipped(_parse_json(_read_text(path), path), path) if path.exists() else None


def _read_gaps(path: Path) -> GapTable:
    names = ("gap", "point", "moved")
    try:
        table = pq.read_table(path)
        for name in names:
            if name not in table.column_names:
                raise InputError(f"{path}: no column {name}; allowed: {', '.join(names)}, one row per pair.")
        columns = {name: table[name].cast(pa.float64()).to_numpy() for name in names}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged Parquet ({' '.join(str(error).split())}).") from error
    for name, values in columns.items():
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            raise InputError(f"{path}, row {wrong[0]}: {name} is {values[wrong[0]]}; allowed: a finite number.")
    return GapTable(**columns)


def _read_samples(path: Path) -> list[dict[str, Any]]:
    samples = []
    # Not splitlines(): a JSON string may hold other line separators as they are.
    for line, text in enumerate(_read_text(path).removesuffix("\n").split("\n"), start=1):
        row = _parse_json(text, path, line)
        for key, kind in _SAMPLE_KEYS.items():
            value = row.get(key)
            if not (isinstance(value, str) if kind is str else _is_number(value)):
                raise InputError(f"{path}, line {line}: {key} is {value!r}; allowed: a {kind.__name__}.")
            # JSON can hold halves of surrogate pairs, which UTF-8 cannot.
            row[key] = value.encode("utf-8", "replace").decode("utf-8") if kind is str else value
        samples.append(row)
    return samples


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for path in sorted(folder.glob("*.arrow")):
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                yield from reader
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged Arrow file ({' '.join(str(error).split())}).") from error


def _count_rows(folder: Path) -> int | None:
    return sum(batch.num_rows for batch in _batches(folder)) if folder.is_dir() else None
