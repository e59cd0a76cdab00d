"""Mutated files by the thousand for every reader: each returns a value that can be used, or one InputError.

The suite reads 2,000; before a release, and after a change to a reader:

    PYTHONPATH=tests python -m fuzz.campaign 50000
    PYTHONPATH=tests python -m fuzz.campaign 5000 --reader gaps.npy     # one reader
    PYTHONPATH=tests python -m fuzz.campaign --file 1234 --reader gaps.npy --save a.npy    # one file again
"""

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import datasets

from fuzz.readers import READERS, Reader
from sgpo.errors import InputError

FILES = 2000
SEED = 20261127
SECONDS = 10.0  # of computation, for a file of at most some 100 KB
MEGABYTES = 500
_LONGEST_LINE = 4000


class Failure(NamedTuple):
    """A mutated file that a reader neither reads nor refuses; `kind` is the same for failures of one cause."""

    reader: str
    number: int
    kind: str
    detail: str


class TooLong(BaseException):
    """No `except Exception` of a reader catches it."""


def spread(count: int, readers: Sequence[Reader] = READERS) -> list[tuple[Reader, int]]:
    """About `count` files, divided between readers by their shares."""
    whole = sum(reader.share for reader in readers)
    return [(reader, max(round(count * reader.share / whole), 1)) for reader in readers]


def check(reader: Reader, numbers: Sequence[int], folder: Path, *, save: Path | None = None) -> Iterator[Failure]:
    """Reads the mutated files of these numbers; a number stands for the same file every time."""
    home, scratch = folder / "home", folder / "scratch"
    home.mkdir(parents=True)
    with _own_cache(folder / "cache"):
        path = reader.write(home)
        original = path.read_bytes()
        for number in numbers:
            rng = random.Random(f"{SEED} {reader.name} {number}")
            _replace(path, rng, original, reader)
            if save is not None and path.is_file():
                shutil.copy(path, save)
            scratch.mkdir()
            try:
                if found := _failure(reader, path, home, scratch):
                    yield Failure(reader.name, number, *found)
            finally:
                shutil.rmtree(scratch)
                _remove(path)
    shutil.rmtree(folder)


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """`datasets` writes what it converts into a folder of this test, and no bars."""
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with mock.patch("datasets.config.HF_DATASETS_CACHE", folder):
            yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _replace(path: Path, rng: random.Random, original: bytes, reader: Reader) -> None:
    _remove(path)
    place = rng.randrange(100)
    if place == 0:
        path.mkdir()
    elif place == 1:
        path.symlink_to("nowhere")
    elif place > 2:
        content = reader.mutate(rng, original)
        # What is no file of its kind any more is damaged no further.
        with suppress(Exception):
            content = reader.mutate(rng, content) if rng.random() < 0.2 else content
        path.write_bytes(content)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _failure(reader: Reader, path: Path, home: Path, scratch: Path) -> tuple[str, str] | None:
    peak = _peak()
    try:
        with _limits():
            found = _read_and_use(reader, path, home, scratch)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return _kind(error), _detail(error)
    if _peak() - peak > MEGABYTES:
        return f"{_peak() - peak} MB", ""
    return found


def _read_and_use(reader: Reader, path: Path, home: Path, scratch: Path) -> tuple[str, str] | None:
    before = _listing(home)
    try:
        value = reader.read(path)
    except InputError as error:
        found = _wrong_message(reader, path, str(error))
        return found if _listing(home) == before else ("something on disk changed", "")
    if _listing(home) != before:
        return "something on disk changed", ""
    # Numbers that are too few, or a mean of nothing, may be refused later, by a message that names no file.
    with suppress(InputError):
        reader.use(value, scratch)
    return None


def _wrong_message(reader: Reader, path: Path, message: str) -> tuple[str, str] | None:
    if (reader.named or path.name) not in message:
        return "the message does not name the file", message[:_LONGEST_LINE]
    # A recipe's message has a line for each wrong key.
    if max(map(len, message.splitlines())) > _LONGEST_LINE:
        return "the message is too long", message[:_LONGEST_LINE]
    return None


def _kind(error: BaseException) -> str:
    """The type of an error, and the last function of ours that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/sgpo/" in frame.filename]
    if not frames:
        return type(error).__name__
    file = frames[-1].filename.rpartition("/sgpo/")[2]
    return f"{type(error).__name__} in {file}: {frames[-1].name}"


def _detail(error: BaseException) -> str:
    """A traceback of one line for each frame that is ours, and the last frame of all; recursion would fill pages."""
    *frames, last = traceback.extract_tb(error.__traceback__)
    shown = [frame for frame in frames if "site-packages" not in frame.filename][-12:]
    lines = [f"  {frame.filename}:{frame.lineno} {frame.name}: {frame.line}" for frame in [*shown, last]]
    return "\n".join([*lines, f"{type(error).__name__}: {error}"[:500]])


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(one): ((about := one.lstat()).st_size, about.st_mtime_ns) for one in folder.rglob("*")}


def _peak() -> int:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@contextmanager
def _limits() -> Iterator[None]:
    """Warnings are errors, and computing or waiting for too long is one."""

    def stop(*_: Any) -> None:
        raise TooLong(f"more than {SECONDS} seconds")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, 12 * SECONDS))
    handlers = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        for (number, timer, _), handler in zip(timers, handlers, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


@contextmanager
def bounded_memory(gigabytes: int = 4) -> Iterator[None]:
    """What is allocated beyond that is a MemoryError, and no end of the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + gigabytes * 2**30, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def main() -> int:
    """Returns 1 if there are failures."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=FILES, help="Number of files.")
    parser.add_argument("--reader", action="append", help="Only the readers of these names.")
    parser.add_argument("--file", type=int, help="Only the file of this number.")
    parser.add_argument("--save", type=Path, help="Where to keep that file.")
    arguments = parser.parse_args()
    readers = [reader for reader in READERS if arguments.reader is None or reader.name in arguments.reader]
    shares = [(reader, range(share)) for reader, share in spread(arguments.count, readers)]
    if arguments.file is not None:
        shares = [(reader, [arguments.file]) for reader in readers]
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, bounded_memory():
        for reader, numbers in shares:
            for failure in check(reader, numbers, Path(folder) / "files", save=arguments.save):
                kind = f"{failure.reader}: {failure.kind}"
                kinds[kind] += 1
                if kinds[kind] == 1:
                    print(f"\n{kind} (file {failure.number})\n{failure.detail}", flush=True)
    for kind, times in sorted(kinds.items()):
        print(f"{times:6} {kind}")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(main())
