"""Answers of servers kept on disk, so that no request is paid for twice."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from sgpo.errors import InputError
from sgpo.serving.answers import Answer, Body
from sgpo.store.progress import Advance

OnAnswer = Callable[[int, Answer], None]


class Pool(Protocol):
    """Answers requests, as `sgpo.serving.client.ServerPool` does."""

    def map(
        self, bodies: Sequence[Body], *, progress: Advance | None = None, on_answer: OnAnswer | None = None
    ) -> list[Answer]: ...


class CachedPool:
    """A pool of servers behind a file of answers: JSON Lines, one answer per line, appended as it arrives.

    The key of an answer is the SHA-256 of its request's body, which does not contain the server's address: answers of
    another server with the same model name are used too. An incomplete last line, which a killed run may leave, is
    removed. One process at a time may use a file.

    Args:
        pool: asked for what the file does not hold.
        path: the file; it and its folder are created with the first answer.
    """

    def __init__(self, pool: Pool, path: str | Path) -> None:
        self._pool, self._path = pool, Path(path)

    def missing(self, bodies: Sequence[Body]) -> list[Body]:
        """The bodies that `map` would ask for: those without an answer in the file, each once.

        Raises:
            InputError: a line of the file, other than an incomplete last one, is damaged.
        """
        known = _read(self._path)
        return list({key: body for body in bodies if (key := request_key(body)) not in known}.values())

    def map(
        self, bodies: Sequence[Body], *, progress: Advance | None = None, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answers to N bodies, in their order; see `ServerPool.map`. Equal bodies are asked for once.

        Raises:
            InputError: what the pool raises; the file is damaged, cannot be written, or is in use by another process.
        """
        keys = [request_key(body) for body in bodies]
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)

        def give(key: str, answer: Answer) -> None:
            for place in places[key]:
                if on_answer is not None:
                    on_answer(place, answer)
                if progress is not None:
                    progress(1)

        with _appending(self._path) as append:
            answers = {key: answer for key, answer in _read(self._path).items() if key in places}
            for key, answer in answers.items():
                give(key, answer)
            wanted = [key for key in places if key not in answers]

            def take(number: int, answer: Answer) -> None:
                append(_as_line(wanted[number], answer))
                answers[wanted[number]] = answer
                give(wanted[number], answer)

            if wanted:
                self._pool.map([bodies[places[key][0]] for key in wanted], on_answer=take)
        return [answers[key] for key in keys]


def request_key(body: Body) -> str:
    """SHA-256 of a request's body, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def _appending(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that appends a line, with the file locked and its incomplete last line removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise InputError(f"cache {path} cannot be written: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"cache {path} is in use by another process; wait for it, or use another file.") from error
        os.ftruncate(file, _whole_length(path))
        # Unbuffered: a line that was written survives the end of this process.
        yield lambda line: _write_all(file, line)
    finally:
        os.close(file)


def _write_all(file: int, line: bytes) -> None:
    while line:
        line = line[os.write(file, line) :]


def _whole_length(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def _read(path: Path) -> dict[str, Answer]:
    if not path.exists():
        return {}
    answers = {}
    whole = path.read_bytes()[: _whole_length(path)]
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            fields = row["answer"]
            answers[row["key"]] = Answer(
                **{**fields, "texts": tuple(fields["texts"]), "finish_reasons": tuple(fields["finish_reasons"])}
            )
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"cache {path} line {number} is damaged ({error}); allowed: lines that a judge's cache wrote. Remove "
                "the line to ask for its answer again."
            ) from error
    return answers


def _as_line(key: str, answer: Answer) -> bytes:
    return json.dumps({"key": key, "answer": asdict(answer)}).encode() + b"\n"
