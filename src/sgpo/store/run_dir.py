"""Where a run lives on disk: stages that are whole or absent, a manifest, and one writer at a time."""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import sgpo
from sgpo.errors import InputError

_RECORDED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "numpy", "scipy")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file beside its place and renames it there, so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


class RunDir:
    """The directory of one run.

    A stage is a folder or a file named by its path in the run (`round-1/pairs`). It is written beside its place and
    renamed when it is complete; whatever exists is whole, and what an interrupted run left is removed, but for the
    shards of an unfinished stage (`shards_path`).

    Args:
        root: the run directory; created when absent.
        config: the whole validated recipe, as plain values; kept as config.yaml.
        command: the command line, for the manifest.
        writer: False for the further processes of a run, which put nothing in its place; they open the directory after
            the writer has.

    Raises:
        InputError: the directory holds another config, holds something that is no run, or is in use.
    """

    def __init__(self, root: str | Path, config: dict[str, Any], command: list[str], *, writer: bool = True) -> None:
        self.root = Path(root)
        self._writer = writer
        if not writer:
            return
        self._open(config)
        self._lock()
        self._remove_partial_stages()
        write_atomically(self.root / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        self.manifest = self._read_manifest(config, command)
        self._write_manifest()

    def _open(self, config: dict[str, Any]) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root} is a file; allowed: a run directory, or a path that does not exist.")
        stored = self.root / "config.yaml"
        if stored.is_file():
            check_same_config(stored, config)
        elif self.root.is_dir() and any(self.root.iterdir()):
            raise InputError(f"{self.root} is not empty and holds no run; allowed: a run directory or a new path.")
        self.root.mkdir(parents=True, exist_ok=True)

    def _lock(self) -> None:
        self._lock_file = (self.root / ".lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock_file.close()
            raise InputError(f"{self.root} is in use by another run; wait for it or choose another output.") from error

    def _remove_partial_stages(self) -> None:
        for partial in list(self.root.rglob(".*.partial")):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        for shards in list(self.root.rglob(".*.shards")):
            if shards.with_name(shards.name[1:].removesuffix(".shards")).exists():
                shutil.rmtree(shards)

    def _read_manifest(self, config: dict[str, Any], command: list[str]) -> dict[str, Any]:
        path = self.root / "manifest.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        return {
            "sgpo": sgpo.__version__,
            "command": command,
            "created": _now(),
            "seed": config["seed"],
            "versions": {name: version(name) for name in _RECORDED_PACKAGES},
            "stages": {},
        }

    def _write_manifest(self) -> None:
        write_atomically(self.root / "manifest.json", json.dumps(self.manifest, indent=2) + "\n")

    def close(self) -> None:
        """Lets another process use the directory."""
        if self._writer:
            self._lock_file.close()

    def path(self, stage: str) -> Path:
        """Where a stage lies, or will lie."""
        return self.root / stage

    def has(self, stage: str) -> bool:
        """Whether a stage is whole."""
        return self.path(stage).exists()

    def shards_path(self, stage: str) -> Path:
        """Where the shards of an unfinished stage lie; they outlive an interrupted run, and go when it is whole."""
        final = self.path(stage)
        return final.with_name(f".{final.name}.shards")

    def seconds(self, prefix: str) -> float:
        """Time spent so far on the stages whose name begins with `prefix`."""
        stages = self.manifest["stages"].items()
        return round(sum(entry["seconds"] for name, entry in stages if name.startswith(prefix)), 1)

    @contextmanager
    def writing(self, stage: str, notes: dict[str, int] | None = None) -> Iterator[Path]:
        """Gives a path to write a stage to, and puts the stage in its place when the block ends without an error.

        Args:
            stage: its name.
            notes: counts that the manifest keeps with it; read when the block has ended.
        """
        final = self.path(stage)
        partial = final.with_name(f".{final.name}.partial")
        if not self._writer:
            yield partial
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            yield partial
            # Before the stage is in place: killed in between, the stage is made and recorded again, never unrecorded.
            entry = {"seconds": round(time.monotonic() - started, 2), "finished": _now(), **(notes or {})}
            self.manifest["stages"][stage] = entry
            self._write_manifest()
            os.replace(partial, final)
        except BaseException:
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
            raise
        shutil.rmtree(self.shards_path(stage), ignore_errors=True)


@contextmanager
def explaining_full_disk(root: str | Path) -> Iterator[None]:
    """Turns whatever a library raises when the disk of a run is full into one message.

    Raises:
        InputError: no space is left, or none of the quota; it says that what is finished is kept.
    """
    try:
        yield
    except Exception as error:
        # Arrow and safetensors have exceptions of their own, which share only the words of the system.
        if not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise InputError(
            f"{root}: no room is left on the disk ({' '.join(str(error).split())}). Finished stages and shards are "
            "kept; the same command goes on once there is room."
        ) from error


def check_same_config(stored_path: Path, config: dict[str, Any]) -> None:
    """Raises InputError naming each key in which `config` differs from the one that a run was started with."""
    try:
        stored = yaml.safe_load(stored_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{stored_path}: damaged; cannot tell what this run was started with.") from error
    differences = list(_differences(stored, config, ""))
    if differences:
        raise InputError(
            f"{stored_path.parent} holds a run with another config: {'; '.join(differences)}. "
            "Allowed: the same values, or another output."
        )


def _differences(stored: Any, given: Any, key: str) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        for name in {**stored, **given}:
            yield from _differences(stored.get(name), given.get(name), f"{key}.{name}" if key else name)
    elif stored != given:
        yield f"{key} is {given!r}, was {stored!r}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
