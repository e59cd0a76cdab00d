"""Answers of servers kept on disk, so that no request is paid for twice."""

import fcntl
import hashlib
import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from sgpo.errors import InputError
from sgpo.serving.answers import Answer, Body
from sgpo.serving.client import Review, ServerPool, reviewed
from sgpo.store.files import parse_json
from sgpo.store.progress import Advance
from sgpo.store.records import Record, parse_record


class CachedPool:
    """A pool of servers behind a file of answers, JSON Lines, appended as they arrive; the key is the SHA-256 of the
    request's body, so servers with the same model name share them. One process at a time; `retry_failed` asks again for
    failed ones."""

    def __init__(self, pool: ServerPool, path: str | Path, *, retry_failed: bool = False) -> None:
        self._pool, self._path, self._retry_failed = pool, Path(path), retry_failed

    def missing(self, bodies: Sequence[Body]) -> list[Body]:
        """The bodies that `map` would ask for: those without an answer in the file, each once."""
        known = self._known()
        return list({key: body for body in bodies if (key := _key(body)) not in known}.values())

    def _known(self) -> dict[str, Answer]:
        answers = _read(self._path)
        return {key: one for key, one in answers.items() if one.failure is None or not self._retry_failed}

    def map(
        self, bodies: Sequence[Body], *, progress: Advance | None = None, review: Review | None = None
    ) -> list[Answer]:
        """Answers to N bodies, in their order, equal ones asked for once; see `ServerPool.map`. InputError: what the
        pool raises; the file is damaged, cannot be written, or is in use by another process."""
        keys = [_key(body) for body in bodies]
        distinct, uses = dict(zip(keys, bodies, strict=True)), Counter(keys)
        answers: dict[str, Answer] = {}

        def give(key: str, answer: Answer) -> None:
            answers[key] = answer
            if progress is not None:
                progress(uses[key])

        with _open_locked(self._path) as file:
            for key, answer in self._known().items():
                if key in distinct:
                    give(key, reviewed(answer, review))
            wanted, known = [key for key in distinct if key not in answers], list(answers.values())

            def take(number: int, answer: Answer) -> None:
                file.write(json.dumps({"key": wanted[number], "answer": asdict(answer)}).encode() + b"\n")
                # A line that was written survives the end of this process.
                file.flush()
                give(wanted[number], answer)

            try:
                self._pool.map([distinct[key] for key in wanted], on_answer=take, review=review, known=known)
            except InputError as error:
                if not any(answer.failure for answer in answers.values()):
                    raise
                hint = f"{self._path} keeps the failures; retry_failed asks for them again."
                raise InputError(f"{error} {hint}") from error
        return [answers[key] for key in keys]


def _key(body: Body) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def _open_locked(path: Path) -> Iterator[BinaryIO]:
    """Opens the file to append lines, locked, and with its incomplete last line removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise InputError(f"cache {path} cannot be written: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"cache {path} is in use by another process; wait for it, or use another file.") from error
        file.truncate(len(_whole_lines(path)))
        yield file


def _whole_lines(path: Path) -> bytes:
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"cache {path} cannot be read: {error.strerror}.") from error
    return content[: content.rfind(b"\n") + 1]


class _Line(Record):
    key: str
    answer: Answer


def _read(path: Path) -> dict[str, Answer]:
    answers = {}
    # An editor with which somebody removed a line may have added the mark.
    for number, line in enumerate(_whole_lines(path).removeprefix(BOM_UTF8).splitlines(), start=1):
        try:
            row = parse_record(_Line, parse_json(line, path, line=number), f"{path} line {number}")
            needed = row.answer.failure is None
            if not needed <= len(row.answer.texts) == len(row.answer.finish_reasons):
                raise InputError(f"{path} line {number}: allowed: a finish reason for each text.")
        except InputError as error:
            raise InputError(f"cache {error} Remove the line to ask for its answer again.") from error
        answers[row.key] = row.answer
    return answers
