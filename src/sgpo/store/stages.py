"""How a stage is done: by one process, by all of them together, or in shards that they share."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from transformers import set_seed

from sgpo.errors import InputError
from sgpo.store.files import reading_back, replacing, write_json
from sgpo.store.processes import Processes
from sgpo.store.progress import Advance, Reporter
from sgpo.store.run_dir import RunDir

ABOUT = "about.json"
_METADATA = b"sgpo"

Rows = tuple[dict[str, list[Any]], dict[str, int]]  # by column, and counts


class ShardWork(NamedTuple):
    """Returns the rows of a span of items, advancing by the items done; `about`, JSON, says what they are made with."""

    do: Callable[[range, Advance], Rows]
    about: dict[str, Any]


class Stages:
    """Does the stages of a run that are not on disk yet. Every stage derives its seed from its name, so an interrupted
    run ends with the same bytes as an uninterrupted one, and shards do not depend on the number of processes."""

    def __init__(self, run: RunDir, seed: int, processes: Processes, reporter: Reporter) -> None:
        self.run, self.processes, self.reporter = run, processes, reporter
        self._seed = seed

    def seed(self, name: str) -> int:
        """The seed of a stage, below 2^31."""
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:4], "big") // 2

    def has(self, name: str) -> bool:
        """Whether a stage is complete, as the main process sees it."""
        return self.processes.from_main(self.run.has(name))

    def alone(self, name: str, work: Callable[[Path], None], *, notes: dict[str, int] | None = None) -> None:
        """The main process does the stage while the others wait; `work` may fill `notes`, counts for the manifest."""
        if self.has(name):
            return
        if self.processes.is_main:
            set_seed(self.seed(name))
            with self.reporter.stage(name), self.run.writing(name, notes) as path:
                work(path)
        self.processes.wait()

    def together(self, name: str, work: Callable[[Path], None]) -> None:
        """All processes do the stage at once, as a distributed trainer needs it; the main one moves it to its place."""
        if self.has(name):
            return
        set_seed(self.seed(name))
        with self.reporter.stage(name), self.run.writing(name) as path:
            # The main process must have prepared the folder before another one writes into it.
            self.processes.wait()
            work(path)
            self.processes.wait()
        self.processes.wait()

    def sharded(
        self,
        name: str,
        count: int,
        *,
        size: int,
        features: Features,
        open_work: Callable[[], AbstractContextManager[ShardWork]],
        main_only: bool = False,
    ) -> None:
        """Divides `count` items between the processes in shards of `size`, each on disk once done; the stage becomes a
        dataset of them in order, with about.json. `main_only`: the main process's backend uses all devices. InputError:
        no item, or shards made with different things."""
        if count < 1 or size < 1:
            raise InputError(f"{name}: {count} items in shards of {size}; allowed: at least one item, and one a shard.")
        if self.has(name):
            return
        spans = [range(first, min(first + size, count)) for first in range(0, count, size)]
        shards = Shards(self.run.shards_path(name), features)
        notes: dict[str, int] = {}
        with self.reporter.stage(name), self.run.writing(name, notes) as path:
            missing = self.processes.from_main(shards.missing(len(spans)))
            workers = 1 if main_only else self.processes.count
            if missing:
                with open_work() if self.processes.rank < workers else nullcontext() as work:
                    if work:
                        mine = {index: spans[index] for index in missing[self.processes.rank :: workers]}
                        self._write_shards(name, shards, mine, work)
                    self.processes.wait()
            if self.processes.is_main:
                dataset, counts, about = shards.read(len(spans))
                dataset.save_to_disk(path)
                write_json(path / ABOUT, {**about, **counts})
                notes.update(rows=len(dataset), shards=len(spans), **counts)
        self.processes.wait()

    def _write_shards(self, name: str, shards: "Shards", mine: dict[int, range], work: ShardWork) -> None:
        with self.reporter.bar(name.rpartition("/")[2], sum(map(len, mine.values()))) as advance:
            for index, span in mine.items():
                set_seed(self.seed(f"{name}/{index}"))
                columns, notes = work.do(span, advance)
                shards.write(index, columns, notes=notes, about=work.about)


class Shards:
    """Arrow files of one stage in a folder of their own, each complete or absent."""

    def __init__(self, folder: Path, features: Features) -> None:
        self.folder, self._features = folder, features

    def missing(self, count: int) -> list[int]:
        """Which of the shards 0 to count - 1 are not written yet."""
        return [index for index in range(count) if not self._path(index).exists()]

    def write(self, index: int, columns: dict[str, list[Any]], *, notes: dict[str, int], about: dict[str, Any]) -> None:
        """Writes a shard with its counts, and what it was made with."""
        table = Dataset.from_dict(columns, features=self._features).data.table
        extra = {_METADATA: json.dumps({"notes": notes, "about": about}).encode()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
        with (
            replacing(self._path(index)) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)

    def read(self, count: int) -> tuple[Dataset, dict[str, int], dict[str, Any]]:
        """The rows of all shards in order, memory-mapped; the sum of their counts; what all of them were made with."""
        notes: Counter[str] = Counter()
        abouts, datasets = [], []
        for index in range(count):
            with reading_back(self._path(index)):
                with pa.memory_map(str(self._path(index))) as source:
                    table = pa.ipc.open_stream(source).read_all()
                table.validate(full=True)
                if table.schema.remove_metadata() != self._features.arrow_schema.remove_metadata():
                    raise ValueError("other columns")
                metadata = json.loads(table.schema.metadata[_METADATA])
                notes.update(metadata["notes"])
                abouts.append(metadata["about"])
                datasets.append(Dataset.from_file(str(self._path(index))))
            if abouts[-1] != abouts[0]:
                raise InputError(
                    f"{self._path(index)} was made with {abouts[-1]} and {self._path(0).name} with {abouts[0]}; "
                    f"allowed: the same for all. Remove {self.folder} to make them again."
                )
        return concatenate_datasets(datasets), dict(notes), abouts[0]

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.arrow"
