"""Shards of a stage, each complete or absent, so that an interrupted run repeats at most one per process."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets

from sgpo.errors import InputError
from sgpo.store.files import replacing

_METADATA = b"sgpo"


class Shards:
    """Arrow files of one stage in a folder of their own.

    Args:
        folder: their folder; created with the first shard.
        features: the columns of every shard.
    """

    def __init__(self, folder: Path, features: Features) -> None:
        self.folder = folder
        self._features = features

    def missing(self, count: int) -> list[int]:
        """Which of the shards 0 to count - 1 are not written yet."""
        return [index for index in range(count) if not self._path(index).exists()]

    def write(self, index: int, columns: dict[str, list[Any]], *, notes: dict[str, int], about: dict[str, Any]) -> None:
        """Writes a shard.

        Args:
            index: number of the shard.
            columns: its rows.
            notes: counts of this shard; `read` adds them up.
            about: what it was made with, such as the fingerprint of a model; the same for all shards.
        """
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
        """The rows of all shards in order, memory-mapped; the sum of their notes; what they were made with.

        Raises:
            InputError: two shards were made with different things, such as a model that was replaced in between.
        """
        notes: Counter[str] = Counter()
        abouts = []
        for index in range(count):
            with pa.memory_map(str(self._path(index))) as source:
                metadata = json.loads(pa.ipc.open_stream(source).schema.metadata[_METADATA])
            notes.update(metadata["notes"])
            abouts.append(metadata["about"])
            if abouts[-1] != abouts[0]:
                raise InputError(
                    f"{self._path(index)} was made with {abouts[-1]} and {self._path(0).name} with {abouts[0]}; "
                    f"allowed: the same for all. Remove {self.folder} to make them again."
                )
        datasets = [Dataset.from_file(str(self._path(index))) for index in range(count)]
        return concatenate_datasets(datasets), dict(notes), abouts[0]

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.arrow"
