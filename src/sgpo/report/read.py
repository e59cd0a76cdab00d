"""A run directory as one record, finished or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sgpo.errors import InputError
from sgpo.store.files import parse_json, read_text
from sgpo.store.records import Manifest, RoundMetrics, Sample, Shipped, parse_record

_CONFIG_KEYS = ("rounds", "seed", "follower.radius", "follower.space", "leader.beta")


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
        rounds: metrics of the finished rounds, in order.
        gaps: per round, its pairs in the worst case; only the rounds that have one.
        samples: per finished round and evaluation, responses with those of its baseline; only those that have any.
        seed_pairs: number of human pairs that the run starts from; None before they are drawn.
        shipped: the policy that the run ships; None if the recipe does not choose, or has not yet.
    """

    name: str
    config: dict[str, Any]
    manifest: Manifest
    rounds: list[RoundMetrics]
    gaps: dict[int, GapTable]
    samples: dict[int, dict[str, list[Sample]]]
    seed_pairs: int | None
    shipped: Shipped | None = None

    @property
    def judged_round(self) -> RoundMetrics:
        """Metrics of the round that the run ships, or else of the last finished one."""
        if self.shipped is None or self.has_final:
            return self.rounds[-1]
        return next((metrics for metrics in self.rounds if metrics.round == self.shipped.round), self.rounds[-1])

    @property
    def has_final(self) -> bool:
        """Whether a last DPO on all human pairs is among the rounds."""
        return bool(self.rounds) and self.rounds[-1].round > self.config["rounds"]

    @property
    def ships_final(self) -> bool:
        """Whether the shipped policy is that of a last DPO on all human pairs."""
        return self.shipped is not None and self.shipped.round is not None and self.shipped.path.startswith("final/")

    @property
    def controls_length(self) -> bool:
        """Whether the choice of the round takes out what the length of responses explains."""
        return self.config["leader"].get("accept") != "supported_any_length"

    @property
    def missing_rounds(self) -> list[int]:
        """Rounds that the recipe asks for and that have no metrics yet."""
        done = {metrics.round for metrics in self.rounds}
        return [t for t in range(self.config["rounds"] + 1) if t not in done]

    @property
    def missing_end(self) -> str:
        """What the recipe asks for after its rounds and that is not there yet; empty if nothing is missing."""
        leader = self.config["leader"]
        if self.shipped is None and str(leader.get("accept")).startswith("supported"):
            return "The choice of the round to ship"
        # Without a choice, the recipe alone says whether there is a last DPO; runs of older versions do not.
        wanted = leader.get("final_epochs") if self.shipped is None else self.ships_final
        return "The last DPO on all human pairs" if wanted and not self.has_final else ""

    def baseline(self, evaluation: str) -> str | None:
        """What the recipe compares the policy with in an evaluation; None: the SFT model."""
        settings = self.config.get("evaluate") or []
        return next(
            (one.get("baseline") for one in settings if evaluation == (one.get("name") or one.get("kind"))), None
        )


def read_run(directory: str | Path) -> RunRecord:
    """Reads a run directory, which may be unfinished: rounds and their parts may be absent, but not damaged.

    Raises:
        InputError: no run there, or a damaged file; names the file, and the key, line or column.
    """
    root = Path(directory)
    for name in ("config.yaml", "manifest.json"):
        if not (root / name).exists():
            raise InputError(f"{root} holds no run: {root / name}: no such file; allowed: a directory of sgpo run.")
    config = _read_config(root / "config.yaml")
    rounds, gaps, samples = [], {}, {}
    for t, folder in enumerate([*(root / f"round-{t}" for t in range(config["rounds"] + 1)), root / "final"]):
        if (folder / "metrics.json").exists():
            rounds.append(_read_metrics(folder / "metrics.json", t))
            samples[t] = _read_samples(folder, rounds[-1])
        if (folder / "worst_case.parquet").exists():
            gaps[t] = _read_gaps(folder / "worst_case.parquet")
    return RunRecord(
        name=root.resolve().name,
        config=config,
        manifest=Manifest.read(root / "manifest.json"),
        rounds=rounds,
        gaps=gaps,
        samples={t: found for t, found in samples.items() if found},
        seed_pairs=_count_rows(root / "seed" / "pairs"),
        shipped=Shipped.read(root / "shipped.json") if (root / "shipped.json").exists() else None,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(read_text(path))
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


def _read_metrics(path: Path, t: int) -> RoundMetrics:
    metrics = RoundMetrics.read(path)
    if metrics.round != t:
        raise InputError(f"{path}: round is {metrics.round}; allowed: {t}.")
    return metrics


def _read_samples(folder: Path, metrics: RoundMetrics) -> dict[str, list[Sample]]:
    paths = {name: folder / "evaluations" / name / "samples.jsonl" for name in metrics.evaluations}
    if "gold" in paths and not paths["gold"].exists():
        paths["gold"] = folder / "samples.jsonl"  # where older runs keep those of the embedded world
    return {name: list(_parse_samples(path)) for name, path in paths.items() if path.exists()}


def _parse_samples(path: Path) -> Iterator[Sample]:
    # Not splitlines(): a JSON string may hold other line separators.
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text:
            yield parse_record(Sample, parse_json(text, str(path), line=line), f"{path} line {line}")


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


def _count_rows(folder: Path) -> int | None:
    return sum(_count_rows_of(path) for path in sorted(folder.glob("*.arrow"))) if folder.is_dir() else None


def _count_rows_of(path: Path) -> int:
    """Rows of a file as datasets' save_to_disk writes it: an Arrow stream."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return sum(batch.num_rows for batch in reader)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged Arrow file ({' '.join(str(error).split())}).") from error
