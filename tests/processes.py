"""Processes of this machine, for tests of what is left of them."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return _stat(pid)[0] != "Z"


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have started."""
    children = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        children[int(_stat(int(folder.name))[1])].append(int(folder.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found[1:]


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Waits until a condition holds; fails if it does not within some seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def _stat(pid: int) -> list[str]:
    """State, parent and further fields of a process; of one that is gone, those of a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", "0"]
