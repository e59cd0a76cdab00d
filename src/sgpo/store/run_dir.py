"""A run on disk: stages that are complete or absent, a manifest, and one writer at a time."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

import sgpo
from sgpo.errors import InputError, shorten
from sgpo.store.files import partial_path, read_yaml, remove, remove_abandoned, replacing, write_atomically
from sgpo.store.records import Manifest, StageEntry

_RECORDED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "numpy", "scipy")
# Keys that a user changes to go on after failures; they change nothing that was made before.
_MAY_CHANGE = ("max_failed", "retry_failed")


class RunDir:
    """The directory of one run. A stage is a folder or file named by its path (`round-1/pairs`), complete or absent;
    leftovers are removed, except `shards_path`. InputError: a directory that is in use, or of another recipe or no
    run."""

    def __init__(self, root: str | Path, recipe: BaseModel, command: list[str], *, writer: bool = True) -> None:
        """Opens or creates a directory for a recipe, which has a `seed`; one of the processes is its `writer`."""
        self.root = Path(root)
        self._writer = writer
        if not writer:
            return
        self._check(recipe)
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock()
        with ExitStack() as failing:
            failing.callback(self.close)
            self._remove_leftovers()
            content = recipe.model_dump(mode="json")
            write_atomically(self.root / "config.yaml", yaml.safe_dump(content, sort_keys=False))
            self._manifest_path = self.root / "manifest.json"
            if not self._manifest_path.is_file():
                about = {"sgpo": sgpo.__version__, "command": command, "created": _now(), "seed": content["seed"]}
                versions = {name: version(name) for name in _RECORDED_PACKAGES}
                Manifest(**about, versions=versions, stages={}).write(self._manifest_path)
            self.manifest = Manifest.read(self._manifest_path)
            failing.pop_all()

    def _check(self, recipe: BaseModel) -> None:
        check_same_config(self.root, recipe)
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file; allowed: a run directory, or a path that does not exist.")
        # A start that fails before its config is written, as on a full disk, leaves no more than these.
        own = {self.root / ".lock", *self.root.glob(".config.yaml.*partial")}
        if self.root.is_dir() and not (self.root / "config.yaml").is_file() and {*self.root.iterdir()} - own:
            raise InputError(f"{self.root} is not empty and holds no run; allowed: a run directory or a new path.")

    def _lock(self) -> None:
        self._lock_file = (self.root / ".lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock_file.close()
            raise InputError(f"{self.root} is in use by another run; wait for it or choose another output.") from error

    def _remove_leftovers(self) -> None:
        for partial in list(self.root.rglob(".*.partial")):
            remove_abandoned(partial)
        for shards in list(self.root.rglob(".*.shards")):
            if shards.with_name(shards.name[1:].removesuffix(".shards")).exists():
                remove(shards)

    def close(self) -> None:
        """Releases the directory for other processes."""
        if self._writer:
            self._lock_file.close()

    def has(self, stage: str) -> bool:
        """Whether a stage is complete."""
        return (self.root / stage).exists()

    def shards_path(self, stage: str) -> Path:
        """The folder of an unfinished stage's shards. It survives an interruption, and is removed with the last one."""
        return (self.root / stage).with_name(f".{Path(stage).name}.shards")

    def seconds(self, prefix: str) -> float:
        """Time spent so far on the stages whose names start with `prefix`."""
        stages = self.manifest.stages.items()
        return round(sum(entry.seconds for name, entry in stages if name.startswith(prefix)), 1)

    @contextmanager
    def writing(self, stage: str, notes: dict[str, int] | None = None) -> Iterator[Path]:
        """Yields a path for a stage, moves it to its place, and records `notes`, counts that the block fills."""
        final = self.root / stage
        if not self._writer:
            yield partial_path(final)
            return
        started = time.monotonic()
        with replacing(final, partial_path(final)) as partial:
            yield partial
            # Recorded before the rename: a run killed in between repeats the stage and records it again.
            entry = StageEntry(seconds=round(time.monotonic() - started, 2), finished=_now(), **(notes or {}))
            self.manifest = self.manifest.model_copy(update={"stages": {**self.manifest.stages, stage: entry}})
            self.manifest.write(self._manifest_path)
        remove(self.shards_path(stage))


@contextmanager
def explaining_full_disk(root: str | Path) -> Iterator[None]:
    """Turns whatever a library raises on a full disk into one InputError, which says that finished stages are kept."""
    try:
        yield
    except Exception as error:
        # Arrow and safetensors have exceptions of their own, which only share the system's words.
        if not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise InputError(
            f"{root}: no room is left on the disk ({' '.join(str(error).split())}). Finished stages and shards are "
            "kept; the same command continues once there is room."
        ) from error


def check_same_config(root: Path, recipe: BaseModel) -> None:
    """Raises InputError if a run directory has another recipe; keys that an older version lacks have their defaults."""
    path = root / "config.yaml"
    if not path.is_file():
        return
    try:
        stored = read_yaml(path)
    except InputError as error:
        raise InputError(f"{path}: damaged; cannot tell which recipe this run was started with.") from error
    with suppress(ValidationError):
        stored = type(recipe).model_validate(stored).model_dump(mode="json")
    differences = list(_differences(stored, recipe.model_dump(mode="json"), ""))
    if differences:
        raise InputError(
            f"{root} holds a run with another config: {'; '.join(differences)}. "
            "Allowed: the same values, or another output."
        )


def _differences(stored: Any, given: Any, key: str) -> Iterator[str]:
    if isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        stored, given = dict(enumerate(stored)), dict(enumerate(given))
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in {**stored, **given}:
            if name not in _MAY_CHANGE:
                yield from _differences(stored.get(name), given.get(name), f"{key}.{name}" if key else f"{name}")
    elif stored != given:
        yield f"{key or 'it'} is {shorten(given, 200)}, was {shorten(stored, 200)}"


def start_of(root: str | Path) -> datetime:
    """When the run in a directory began, as its manifest says; now, if there is none yet."""
    path = Path(root) / "manifest.json"
    created = Manifest.read(path).created if path.is_file() else _now()
    try:
        return datetime.fromisoformat(created)
    except ValueError as error:
        raise InputError(f"{path}: created is {created!r}; allowed: a time, such as {_now()}.") from error


def _now() -> str:
    """The local time with its distance from UTC, so that a run that goes on elsewhere keeps the date of its start."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
