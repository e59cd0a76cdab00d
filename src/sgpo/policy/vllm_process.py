"""The process that runs vLLM, and the pipes to it."""

import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.serving.process import Child, child_process

_WORKER = Path(__file__).with_name("vllm_worker.py")
_POLL = 0.5


@contextmanager
def vllm_process(python: str, log: str | Path | None, grace: float) -> Iterator["VLLMProcess"]:
    """Runs `vllm_worker.py`, and ends it with everything that it started; for `log` and `grace` see `child_process`."""
    words, allowed = [python, "-P", str(_WORKER)], "the interpreter of an environment that has vLLM"
    with child_process(words, name=f"python {python!r}", allowed=allowed, log=log, grace=grace, pipes=True) as child:
        process = VLLMProcess(python, child)
        try:
            yield process
        finally:
            # An idle worker exits when its input ends, and lets vLLM clean up; a busy one is ended by its group.
            with suppress(BrokenPipeError):
                child.process.stdin.close()
            if not process.busy:
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(grace)


class VLLMProcess:
    """A process that runs `vllm_worker.py`: one JSON object goes in, and one comes back."""

    def __init__(self, python: str, child: Child) -> None:
        self._python, self._child, self.busy = python, child, False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises InputError if that is an error, or the worker ends."""
        self.busy, stdin = True, self._child.process.stdin
        # If the worker is gone, its exit status and output say more than the broken pipe.
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        answer = json.loads(self._receive())
        self.busy = False
        if "error" in answer:
            raise InputError(f"vLLM under {self._python!r}: {answer['error']}.{self._child.quote()}")
        return answer

    def _receive(self) -> bytes:
        """One line. The worker's own children may keep the pipe open after its end, so the process is polled too."""
        process = self._child.process
        pipe, chunks = process.stdout.fileno(), [b""]
        while not chunks[-1].endswith(b"\n"):
            ended = process.poll() is not None
            readable = bool(select.select([pipe], [], [], 0 if ended else _POLL)[0])
            if readable and (chunk := os.read(pipe, 1 << 20)):
                chunks.append(chunk)
            elif readable and not ended:
                # The pipe is closed, so the process is about to end.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
            elif ended:
                raise InputError(
                    f"the process of vLLM ({self._python!r}) ended with code {process.returncode} before it "
                    f"answered.{self._child.quote()}"
                )
        return b"".join(chunks)
