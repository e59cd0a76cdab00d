"""Child processes: their output is kept and quoted, and they are terminated even if this process is killed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sgpo.errors import InputError
from sgpo.serving import watch

_QUOTED_LINES, _QUOTED_BYTES = 20, 10_000
# Variables that `accelerate launch` sets for its own processes; a child must not inherit them.
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Child:
    """A child process, the leader of its group, the file that it writes to, and that file's size before the start."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    start: int

    def quote(self) -> str:
        """A sentence with the last lines of the child's output."""
        # Not by seeking: the child writes at the position that this would move.
        end = os.fstat(self.output.fileno()).st_size
        start = max(self.start, end - _QUOTED_BYTES)
        written = os.pread(self.output.fileno(), end - start, start)
        lines = written.decode("utf-8", errors="replace").splitlines()[-_QUOTED_LINES:]
        return " The end of its output:\n" + "\n".join(lines) if lines else " It wrote nothing."


@contextmanager
def child_process(
    words: Sequence[str], *, name: str, allowed: str, log: str | Path | None, grace: float, pipes: bool = False
) -> Iterator[Child]:
    """Runs a command and, on exit or if this process is killed, ends its process group, `grace` seconds between SIGTERM
    and SIGKILL. Output is appended to `log`, or kept while it runs; with `pipes`, stdin and stdout are pipes. No
    variables of `accelerate launch`; vLLM's usage statistics are off by default."""
    kept = {key: os.environ[key] for key in os.environ if key not in _LAUNCHED and not key.startswith("TORCHELASTIC_")}
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() if log is None else open(log, "ab+") as output, _watcher(grace) as told:
        start = os.fstat(output.fileno()).st_size
        try:
            # In its own session: Ctrl-C reaches this process only, which then ends the child's whole group.
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                env={"VLLM_NO_USAGE_STATS": "1", **kept},
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"{name} cannot be started ({error}); allowed: {allowed}.") from error
        with process:
            try:
                told.write(b"%d" % process.pid)
                yield Child(process, output, start)
            finally:
                watch.end_group(process.pid, grace, reap=process.poll)


@contextmanager
def _watcher(grace: float) -> Iterator[IO[bytes]]:
    """A pipe to a process that ends the group whose id is written to it, should this process be killed."""
    words = [sys.executable, "-I", "-S", watch.__file__, str(grace)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, bufsize=0, start_new_session=True) as process:
        try:
            yield process.stdin
        finally:
            process.kill()
