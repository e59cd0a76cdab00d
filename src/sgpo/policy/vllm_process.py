"""The process that runs vLLM, and the pipes to it."""

import json
import os
import select
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.serving.process import child_process

_WORKER = Path(__file__).with_name("vllm_worker.py")
_POLL = 0.5


class VLLMProcess:
    """The process that runs `vllm_worker.py`: one JSON object goes in, and one comes back."""

    def __init__(self, python: str, log: str | Path | None, grace: float) -> None:
        self._python, self._grace, self._busy = python, grace, False
        self._stack = ExitStack()
        self._child = self._stack.enter_context(
            child_process(
                [python, "-P", str(_WORKER)],
                name=f"python {python!r}",
                allowed="the interpreter of an environment that has vLLM",
                log=log,
                grace=grace,
                pipes=True,
            )
        )
        self._process = self._child.process
        self._stack.callback(self._end_input)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises InputError if that is an error, or the worker ends."""
        self._busy = True
        # If the worker is gone, its exit status and output say more than the broken pipe.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        answer = json.loads(self._receive())
        self._busy = False
        if "error" in answer:
            raise InputError(f"vLLM under {self._python!r}: {answer['error']}.{self._child.quote()}")
        return answer

    def close(self) -> None:
        """Ends the process and everything that it started."""
        self._stack.close()
        self._process.stdout.close()

    def _receive(self) -> bytes:
        """One line. The worker's own children may keep the pipe open after its end, so the process is polled too."""
        pipe, chunks = self._process.stdout.fileno(), [b""]
        while not chunks[-1].endswith(b"\n"):
            ended = self._process.poll() is not None
            readable = bool(select.select([pipe], [], [], 0 if ended else _POLL)[0])
            if readable and (chunk := os.read(pipe, 1 << 20)):
                chunks.append(chunk)
            elif readable and not ended:
                # The pipe is closed, so the process is about to end.
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_POLL)
            elif ended:
                raise InputError(
                    f"the process of vLLM ({self._python!r}) ended with code {self._process.returncode} before it "
                    f"answered.{self._child.quote()}"
                )
        return b"".join(chunks)

    def _end_input(self) -> None:
        """An idle worker exits when its input ends, and lets vLLM clean up; a busy one is ended by its group."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if not self._busy:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace)
