"""Starting a server, waiting until it answers, and ending it with everything that it started."""

import os
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from sgpo.errors import InputError
from sgpo.serving.process import open_output, quote_output, watcher
from sgpo.serving.watch import end_group

_POLL = 0.2
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")


def fill_command(command: str | Sequence[str], **fields: object) -> list[str]:
    """Splits a command into words as a shell does, and fills in `{name}`; a value with spaces stays one word.

    Args:
        command: the command, or its words. Braces that hold anything but a name, such as JSON, are left alone.
        fields: the value of each name; a name may be left unused.

    Returns: the words.

    Raises:
        InputError: a name that is not in `fields`, an open quote, or no word at all.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise InputError(f"server command {command!r} has {match[0]}; allowed: {', '.join(map(_braced, fields))}.")
        return str(fields[match[1]])

    return [_FIELD.sub(value, word) for word in _words(command)]


@contextmanager
def launched_server(
    command: str | Sequence[str],
    urls: Sequence[str],
    *,
    timeout: float = 1800,
    log: str | Path | None = None,
    grace: float = 30,
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a server, waits until it answers, and ends it on leaving: the process and all that it started.

    The server answers where GET /health says 200, or, where there is no such page, GET /v1/models. Should this process
    be killed, so that it cannot clean up, a small process beside it ends the server.

    Args:
        command: a command, split as a shell does but run without one, or its words.
        urls: base URLs of the server, such as http://localhost:8000/v1; several where one command starts several.
        timeout: seconds until all of them must answer.
        log: file that the server's output is appended to; None keeps it only as long as the server runs.
        grace: seconds between SIGTERM and SIGKILL on leaving.

    Yields: the process, the leader of its group.

    Raises:
        InputError: the command does not exist, ends or runs out of time before all URLs answer (the end of its output
            is quoted), or a URL answers already, as that is another server, with perhaps another model.
    """
    words = _words(command)
    if taken := [url for url in urls if _says(url) is not None]:
        raise InputError(
            f"{', '.join(taken)} answers before {shlex.join(words)!r} is started; allowed: a port that is free. "
            "End the server that runs there, or leave the command out to use it."
        )
    with ExitStack() as stack:
        output = stack.enter_context(open_output(log))
        start = os.fstat(output.fileno()).st_size
        told = stack.enter_context(watcher(grace))
        process = _start(words, output)
        stack.callback(lambda: end_group(process.pid, grace, reap=process.poll))
        told.write(b"%d" % process.pid)
        _wait(process, words, urls, timeout, output, start)
        yield process


def answers(url: str) -> bool:
    """Whether the server with this base URL, such as http://localhost:8000/v1, is ready for requests."""
    return bool(_says(url))


def _words(command: str | Sequence[str]) -> list[str]:
    try:
        words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    except ValueError as error:
        raise InputError(f"server command {command!r}: {error}.") from error
    if not words:
        raise InputError("server command is empty; allowed: a program and its arguments.")
    return words


def _braced(name: str) -> str:
    return "{" + name + "}"


def _start(words: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the server's whole group.
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise InputError(f"server command {shlex.join(words)!r} cannot be started: {error}.") from error


def _wait(
    process: subprocess.Popen[bytes],
    words: list[str],
    urls: Sequence[str],
    timeout: float,
    output: IO[bytes],
    start: int,
) -> None:
    until = time.monotonic() + timeout
    silent = list(urls)
    while True:
        code = process.poll()
        silent = [url for url in silent if not answers(url)]
        if code is not None:
            raise InputError(
                f"server command {shlex.join(words)!r} ended with code {code} before {', '.join(urls)} answered."
                + quote_output(output, start)
            )
        if not silent:
            return
        if time.monotonic() > until:
            raise InputError(
                f"{', '.join(silent)} did not answer within {timeout:g} s of starting {shlex.join(words)!r}."
                + quote_output(output, start)
            )
        time.sleep(_POLL)


def _says(url: str) -> bool | None:
    """Whether a server says that it is ready; None where nobody answers."""
    base = url.rstrip("/")
    for page, ready in ((base.removesuffix("/v1") + "/health", {200}), (base + "/models", {200, 401, 403})):
        status = _status(page)
        if status is None or status != 404:
            return None if status is None else status in ready
    return False


def _status(page: str) -> int | None:
    try:
        with urllib.request.urlopen(page, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError):
        return None
