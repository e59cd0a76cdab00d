"""Starting a server, waiting until it answers, and ending it with everything that it started."""

import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sgpo.errors import InputError
from sgpo.serving.process import child_process
from sgpo.store.hub import ask_status

_POLL = 0.2
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")


def fill_command(command: str, **fields: object) -> list[str]:
    """Splits a command into words as a shell does, and replaces `{name}`; a value with spaces stays one word. Braces
    that hold anything but a name, such as JSON, are not changed. Names may be unused."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            allowed = ", ".join(f"{{{name}}}" for name in fields)
            raise InputError(f"server command {command!r} has {match[0]}; allowed: {allowed}.")
        return str(fields[match[1]])

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"server command {command!r}: {error}.") from error
    if not words:
        raise InputError("server command is empty; allowed: a program and its arguments.")
    return [_FIELD.sub(value, word) for word in words]


@contextmanager
def launched_server(
    words: Sequence[str], url: str, *, timeout: float = 1800, log: Path | None = None, grace: float = 30
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a server, waits `timeout` seconds until its base URL answers, yields its process, and ends everything that
    it started (see `child_process`). InputError: the command cannot be started, ends or is late, or the URL answers
    already."""
    command = shlex.join(words)
    if is_ready(url) is not None:
        raise InputError(
            f"{url} answers before {command!r} is started; allowed: a port that is free. End the server that runs "
            "there, or remove the command to use it."
        )
    name, allowed = f"server command {command!r}", "a program that is installed"
    with child_process(words, name=name, allowed=allowed, log=log, grace=grace) as child:
        until = time.monotonic() + timeout
        while True:
            code = child.process.poll()
            ready = is_ready(url)
            if code is not None:
                raise InputError(f"{name} ended with code {code} before {url} answered.{child.quote()}")
            if ready:
                break
            if time.monotonic() > until:
                raise InputError(f"{url} did not answer within {timeout:g} s of starting {command!r}.{child.quote()}")
            time.sleep(_POLL)
        yield child.process


def is_ready(url: str) -> bool | None:
    """Whether the server with this base URL takes requests (GET /health, or without such a page GET /v1/models); None
    if nothing answers there."""
    base = url.rstrip("/")
    for page, ready in ((base.removesuffix("/v1") + "/health", {200}), (base + "/models", {200, 401, 403})):
        status = ask_status(page, timeout=5)
        if status != 404:
            return None if status is None else status in ready
    return False
