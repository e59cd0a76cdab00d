"""How a stage is done: by one process, by all of them together, or in shards that they share."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Features
from transformers import set_seed

from sgpo.errors import InputError
from sgpo.store.files import write_json
from sgpo.store.processes import Processes
from sgpo.store.progress import Advance, Reporter
from sgpo.store.run_dir import RunDir
from sgpo.store.shards import Shards

ABOUT = "about.json"


@dataclass(frozen=True)
class ShardRows:
    """The rows of a shard by column, and its counts."""

    columns: dict[str, list[Any]]
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardWork:
    """The work of a sharded stage.

    Attributes:
        do: returns the rows of a span of items; calls its second argument with the number of items done.
        about: what the rows are made with, such as the fingerprint of a model; JSON values.
    """

    do: Callable[[range, Advance], ShardRows]
    about: dict[str, Any] = field(default_factory=dict)


class Stages:
    """Does the stages of a run that are not on disk yet.

    Every stage is seeded by its own name, so an interrupted run ends with the same bytes as an uninterrupted one, and
    shards do not depend on the number of processes.

    Args:
        run: the run directory.
        seed: of the run.
        processes: the processes of the run.
        reporter: where progress is shown.
    """

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
        """Divides a stage between the processes, shard by shard; each shard is on disk as soon as it is done.

        Args:
            name: of the stage; it becomes a dataset of the shards in order, with about.json: what they were made with
                and the sum of their notes.
            count: items of work, such as prompts; at least 1.
            size: items of a shard.
            features: columns of the rows.
            open_work: opened by every process that takes part, if any shard is missing.
            main_only: only the main process takes part, because its backend uses all devices.

        Raises:
            InputError: there is no item; shards that were made with different things.
        """
        if count < 1 or size < 1:
            raise InputError(f"{name}: {count} items in shards of {size}; allowed: at least one item, and one a shard.")
        if self.has(name):
            return
        spans = [range(first, min(first + size, count)) for first in range(0, count, size)]
        shards = Shards(self.run.shards_path(name), features)
        notes: dict[str, int] = {}
        with self.reporter.stage(name), self.run.writing(name, notes) as path:
            missing = self.processes.from_main(shards.missing(len(spans)))
            rank, of = (0, 1) if main_only else (self.processes.rank, self.processes.count)
            if missing:
                with ExitStack() as stack:
                    if self.processes.is_main or not main_only:
                        mine = [(index, spans[index]) for index in missing[rank::of]]
                        self._write_shards(name, shards, mine, stack.enter_context(open_work()))
                    self.processes.wait()
            if self.processes.is_main:
                dataset, counts, about = shards.read(len(spans))
                dataset.save_to_disk(path)
                write_json(path / ABOUT, {**about, **counts})
                notes.update(rows=len(dataset), shards=len(spans), **counts)
        self.processes.wait()

    def _write_shards(self, name: str, shards: Shards, mine: list[tuple[int, range]], work: ShardWork) -> None:
        with self.reporter.bar(name.rpartition("/")[2], sum(len(span) for _, span in mine)) as advance:
            for index, span in mine:
                set_seed(self.seed(f"{name}/{index}"))
                rows = work.do(span, advance)
                shards.write(index, rows.columns, notes=rows.notes, about=work.about)
