"""The process that vLLM lives in, and the pipes to it."""

import json
import os
import select
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.serving.process import open_output, quote_output, watcher
from sgpo.serving.watch import end_group

_WORKER = Path(__file__).with_name("vllm_worker.py")
_POLL = 0.5
# What `accelerate launch` tells its processes; vLLM is none of them.
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class VLLMProcess:
    """The process that runs `vllm_worker.py`: one JSON object goes in, and one comes back.

    Args:
        python: interpreter that imports vLLM.
        log: file that its output is appended to; None keeps it only as long as the process runs.
        grace: seconds between SIGTERM and SIGKILL when it is closed.

    Raises:
        InputError: the interpreter cannot be started.
    """

    def __init__(self, python: str, log: str | Path | None, grace: float) -> None:
        self._python, self._grace, self._busy = python, grace, False
        with ExitStack() as stack:
            self._output = stack.enter_context(open_output(log))
            self._start = os.fstat(self._output.fileno()).st_size
            told = stack.enter_context(watcher(grace))
            try:
                # A session of its own: Ctrl-C reaches this process alone, which then ends the worker's whole group.
                self._process = subprocess.Popen(
                    [python, "-P", str(_WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._output,
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise InputError(
                    f"python {python!r} cannot be started ({error}); allowed: the interpreter of an environment that "
                    "has vLLM."
                ) from error
            stack.callback(self._end)
            told.write(b"%d" % self._process.pid)
            self._stack = stack.pop_all()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
            InputError: the worker answers with an error, or ends.
        """
        self._busy = True
        # A worker that is gone says more with its exit status and output than the broken pipe does.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        answer = json.loads(self._receive())
        self._busy = False
        if "error" in answer:
            raise InputError(f"vLLM under {self._python!r}: {answer['error']}.{self._quote()}")
        return answer

    def close(self) -> None:
        """Ends the process and all that it started."""
        self._stack.close()

    def _receive(self) -> bytes:
        """One line. What the worker has started may hold the pipe open after its end, so that is looked at too."""
        pipe, chunks = self._process.stdout.fileno(), []
        while not (chunks and chunks[-1].endswith(b"\n")):
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
                    f"the process of vLLM ({self._python!r}) ended with code {self._process.returncode} before it had "
                    f"answered.{self._quote()}"
                )
        return b"".join(chunks)

    def _quote(self) -> str:
        return quote_output(self._output, self._start)

    def _end(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if not self._busy:
            # Its input has ended: an idle worker leaves by itself, and lets vLLM clean up.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace)
        end_group(self._process.pid, self._grace, reap=self._process.poll)
        self._process.wait()
        self._process.stdout.close()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _LAUNCHED}
    kept = {name: value for name, value in kept.items() if not name.startswith("TORCHELASTIC_")}
    # Like everything else here, vLLM reports nothing to anybody unless it is asked to.
    return {"VLLM_NO_USAGE_STATS": "1", **kept}
