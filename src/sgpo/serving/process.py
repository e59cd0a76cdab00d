"""What every process that this one starts needs: its output kept and quoted, and an end when this one is gone."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sgpo.serving import watch

_QUOTED_LINES, _QUOTED_BYTES = 20, 10_000


def open_output(log: str | Path | None) -> IO[bytes]:
    """Where a process writes: a file that is appended to, or, for None, one that lasts as long as it is open."""
    if log is None:
        return tempfile.TemporaryFile()
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    return open(log, "ab+")


def quote_output(output: IO[bytes], start: int) -> str:
    """A sentence with the last lines written to `output` after its byte `start`."""
    # The process writes at the place that seeking would move.
    end = os.fstat(output.fileno()).st_size
    start = max(start, end - _QUOTED_BYTES)
    written = os.pread(output.fileno(), end - start, start)
    lines = written.decode("utf-8", errors="replace").splitlines()[-_QUOTED_LINES:]
    return " The end of its output:\n" + "\n".join(lines) if lines else " It wrote nothing."


@contextmanager
def watcher(grace: float) -> Iterator[IO[bytes]]:
    """A pipe to a process that ends the group whose id is written to it, should this process be killed."""
    words = [sys.executable, "-I", "-S", watch.__file__, str(grace)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, bufsize=0, start_new_session=True) as process:
        try:
            yield process.stdin
        finally:
            process.kill()
