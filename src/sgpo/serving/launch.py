"""Starting a server, waiting until it answers, and ending it with everything that it started."""

import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sgpo.errors import InputError
from sgpo.serving.process import Child, child_process

_POLL = 0.2
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")


def fill_command(command: str | Sequence[str], **fields: object) -> list[str]:
    """Splits a command into words as a shell does, and replaces `{name}`; a value with spaces stays one word.

    Args:
        command: the command, or its words. Braces that hold anything but a name, such as JSON, are not changed.
        fields: the value of each name; names may be unused.

    Returns: the words.

    Raises:
        InputError: a name that is not in `fields`, an open quote, or no word at all.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            allowed = ", ".join(f"{{{name}}}" for name in fields)
            raise InputError(f"server command {command!r} has {match[0]}; allowed: {allowed}.")
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
    """Starts a server, waits until it answers, and on exit ends it and everything that it started.

    The server is ready when GET /health returns 200, or, if there is no such page, GET /v1/models. If this process is
    killed, a small watcher process ends the server.

    Args:
        command: a command, split as a shell does but run without one, or its words.
        urls: base URLs of the server, such as http://localhost:8000/v1; several if one command starts several.
        timeout: seconds until all of them must answer.
        log: file that the server's output is appended to; None keeps it only as long as the server runs.
        grace: seconds between SIGTERM and SIGKILL on exit.

    Yields: the process, the leader of its group.

    Raises:
        InputError: the command does not exist, ends or times out before all URLs answer (the end of its output is
            quoted), or a URL answers already: that is another server, perhaps with another model.
    """
    words = _words(command)
    if taken := [url for url in urls if _is_ready(url) is not None]:
        raise InputError(
            f"{', '.join(taken)} answers before {shlex.join(words)!r} is started; allowed: a port that is free. "
            "End the server that runs there, or remove the command to use it."
        )
    with ExitStack() as stack:
        try:
            child = stack.enter_context(child_process(words, log=log, grace=grace))
        except OSError as error:
            raise InputError(f"server command {shlex.join(words)!r} cannot be started: {error}.") from error
        _wait(child, shlex.join(words), urls, timeout)
        yield child.process


def answers(url: str) -> bool:
    """Whether the server with this base URL, such as http://localhost:8000/v1, is ready for requests."""
    return bool(_is_ready(url))


def _words(command: str | Sequence[str]) -> list[str]:
    try:
        words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    except ValueError as error:
        raise InputError(f"server command {command!r}: {error}.") from error
    if not words:
        raise InputError("server command is empty; allowed: a program and its arguments.")
    return words


def _wait(child: Child, command: str, urls: Sequence[str], timeout: float) -> None:
    until = time.monotonic() + timeout
    silent = list(urls)
    while True:
        code = child.process.poll()
        silent = [url for url in silent if not answers(url)]
        if code is not None:
            raise InputError(
                f"server command {command!r} ended with code {code} before {', '.join(urls)} answered.{child.quote()}"
            )
        if not silent:
            return
        if time.monotonic() > until:
            raise InputError(
                f"{', '.join(silent)} did not answer within {timeout:g} s of starting {command!r}.{child.quote()}"
            )
        time.sleep(_POLL)


def _is_ready(url: str) -> bool | None:
    """Whether a server reports that it is ready; None if nothing answers."""
    base = url.rstrip("/")
    for page, ready in ((base.removesuffix("/v1") + "/health", {200}), (base + "/models", {200, 401, 403})):
        status = _status(page)
        if status != 404:
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
