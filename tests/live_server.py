"""A real `transformers serve` on a model folder, for tests; about five seconds until it answers."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sgpo.serving.launch import launched_server


@dataclass
class LiveServer:
    """A server that runs.

    Attributes:
        url: its base URL, which ends in /v1.
        process: the leader of its process group.
    """

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kills it at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def serve_command(model_path: str | Path, port: int) -> list[str]:
    """`transformers serve` pinned to a model folder, on the local address."""
    # From the environment of the tests, whatever PATH is.
    program = Path(sys.executable).with_name("transformers")
    options = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    return [str(program), "serve", str(model_path), *options]


@contextmanager
def killable(model_path: str | Path) -> Iterator[LiveServer]:
    """A server of a model folder; the model's name in requests is `str(model_path)`. Takes its settings (offline, one
    thread) from the environment that conftest.py sets."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    with launched_server(serve_command(model_path, port), url, timeout=120, grace=5) as process:
        yield LiveServer(url, process)


@contextmanager
def serving(model_path: str | Path) -> Iterator[str]:
    """The base URL of a server of a model folder; the model's name in requests is `str(model_path)`."""
    with killable(model_path) as server:
        yield server.url
