"""A run directory as one record, finished or not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import ConfigDict, Field

from sgpo.errors import InputError, first_line
from sgpo.store.files import read_numbers, read_objects, read_yaml
from sgpo.store.records import WORST_CASE, GapTable, Manifest, Record, RoundMetrics, Sample, Shipped, parse_record


class _Settings(Record):
    model_config = ConfigDict(strict=True)


class _Follower(_Settings):
    radius: float | Literal["measured", "validated"]
    space: str
    tangents: int | None = None
    source_radius: dict[str, float] | None = None


class _Leader(_Settings):
    beta: float
    accept: str | None = None


class _Model(_Settings):
    path: str | None = None


class _Annotation(_Settings):
    annotator: str = "implicit"


class _Recipe(_Settings):
    """What the page says of config.yaml."""

    rounds: Annotated[int, Field(ge=0, le=10_000)]
    seed: int
    model: _Model | None = None
    annotation: _Annotation | None = None
    follower: _Follower
    leader: _Leader
    evaluate: list[dict[str, Any]] | None = None


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a run left on disk, by finished round where there is any. `seed_pairs` are None before they are drawn;
    `shipped` is None if the recipe does not choose a policy, or has not yet."""

    name: str
    config: dict[str, Any]
    manifest: Manifest
    rounds: list[RoundMetrics]
    gaps: dict[int, GapTable]
    samples: dict[int, dict[str, list[Sample]]]
    seed_pairs: int | None
    shipped: Shipped | None

    @property
    def judged_round(self) -> RoundMetrics:
        """The round that the run ships, or else the last finished one."""
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
        """Whether the choice of the round removes what the length of responses explains."""
        return self.config["leader"].get("accept") != "supported_any_length"

    @property
    def missing_rounds(self) -> list[int]:
        """Rounds that the recipe asks for and that have no metrics yet."""
        done = {metrics.round for metrics in self.rounds}
        return [t for t in range(self.config["rounds"] + 1) if t not in done]

    @property
    def missing_end(self) -> str:
        """What the recipe asks for after its rounds and is missing; empty if nothing is."""
        leader = self.config["leader"]
        if self.shipped is None and str(leader.get("accept")).startswith("supported"):
            return "The choice of the round to ship"
        # Without a choice, the recipe alone says whether there is a last DPO; runs of older versions do not.
        wanted = leader.get("final_epochs") if self.shipped is None else self.ships_final
        return "The last DPO on all human pairs" if wanted and not self.has_final else ""

    def baseline(self, evaluation: str) -> str | None:
        """What the recipe compares the policy with in an evaluation; None: the SFT model."""
        settings = self.config.get("evaluate") or []
        return {one.get("name") or one.get("kind"): one.get("baseline") for one in settings}.get(evaluation)


def read_run(directory: str | Path) -> RunRecord:
    """Reads a run directory: rounds and their parts may be missing, but a damaged file raises InputError."""
    root = Path(directory)
    for name in ("config.yaml", "manifest.json"):
        if not (root / name).exists():
            raise InputError(f"{root} holds no run: {root / name}: no such file; allowed: a directory of sgpo run.")
    config = read_yaml(root / "config.yaml")
    parse_record(_Recipe, config, str(root / "config.yaml"))
    rounds, gaps, samples = [], {}, {}
    for t, folder in enumerate([*(root / f"round-{t}" for t in range(config["rounds"] + 1)), root / "final"]):
        if (path := folder / "metrics.json").exists():
            rounds.append(RoundMetrics.read(path))
            if rounds[-1].round != t:
                raise InputError(f"{path}: round is {rounds[-1].round}; allowed: {t}.")
            if found := _read_samples(folder, rounds[-1]):
                samples[t] = found
        if (path := folder / WORST_CASE).exists():
            gaps[t] = GapTable(*read_numbers(path, GapTable._fields))
    return RunRecord(
        name=root.resolve().name,
        config=config,
        manifest=Manifest.read(root / "manifest.json"),
        rounds=rounds,
        gaps=gaps,
        samples=samples,
        seed_pairs=_count_rows(root / "seed" / "pairs"),
        shipped=Shipped.read(root / "shipped.json") if (root / "shipped.json").exists() else None,
    )


def _read_samples(folder: Path, metrics: RoundMetrics) -> dict[str, list[Sample]]:
    samples = {}
    for name in metrics.evaluations:
        path = folder / "evaluations" / name / "samples.jsonl"
        if name == "gold" and not path.exists():
            path = folder / "samples.jsonl"  # where older runs keep those of the embedded world
        if path.exists():
            samples[name] = [parse_record(Sample, row, where) for where, row in read_objects(path)]
    return samples


def _count_rows(folder: Path) -> int | None:
    """Rows of the Arrow streams that datasets' save_to_disk writes; None if there is no such folder."""
    rows = 0
    for path in folder.glob("*.arrow"):
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                rows += sum(batch.num_rows for batch in reader)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged Arrow file ({first_line(error)}).") from error
    return rows if folder.is_dir() else None
