"""Files that are complete or absent: everything is written next to its final place and renamed."""

import glob
import gzip
import json
import os
import re
import shutil
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sgpo.errors import InputError, first_line


def partial_path(path: Path) -> Path:
    """Where several processes write a file or folder together before it is renamed to `path`."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def replacing(path: str | Path, partial: Path | None = None) -> Iterator[Path]:
    """Yields a path next to `path`, and renames it if the block ends without an error; else it is removed. `partial` is
    that path; by default no other process has it, and of several that write a file the last one wins."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if partial is None:
        for other in final.parent.glob(f".{glob.escape(final.name)}.[0-9]*.partial"):
            remove_abandoned(other)
        partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    remove(partial)
    try:
        yield partial
        os.replace(partial, final)
    except BaseException:
        remove(partial)
        raise


def remove(path: Path) -> None:
    """Removes a file, or a folder with its contents, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_abandoned(partial: Path) -> None:
    """Removes what is partly written, unless a running process of this machine has it for itself."""
    try:
        os.kill(int(partial.stem.rpartition(".")[2]), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        remove(partial)
    except PermissionError:
        pass  # It runs, for another user.


def write_atomically(path: str | Path, text: str) -> Path:
    """Writes a UTF-8 text file, so that a reader never sees half of it; returns its path."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | Path, content: Any, *, indent: int | None = 2) -> Path:
    """Writes JSON and a final newline, see `write_atomically`; raises ValueError for NaN and infinities."""
    return write_atomically(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes one JSON object per line, see `write_json`."""
    return write_atomically(path, "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows))


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; InputError if it cannot be read."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 (byte {error.start}).") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: JSON can escape half of a surrogate pair, which no tokenizer or terminal takes."""
    return re.search("[\ud800-\udfff]", text) is None


def read_yaml(path: str | Path) -> Any:
    """The value in a YAML file, whatever it is; InputError if it cannot be read."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text holds; the InputError names `where`."""
    try:
        value = yaml.safe_load(text)
        json.dumps(value, default=str, skipkeys=True)  # It refuses an alias of what it is in.
    except Exception as error:
        # Not only YAMLError: a date like 2020-99-99 is a ValueError, `!!bool x` a KeyError, and so on.
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())[:400]}.") from error
    return value


@contextmanager
def reading_back(path: str | Path) -> Iterator[None]:
    """Names a file of a run that was damaged after it was written, by a full disk or a copy that was cut off."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); remove it to make it again.") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file; InputError if it holds anything else."""
    content = parse_json(read_text(path), path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; allowed: a JSON object.")
    return content


def read_objects(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The JSON objects of a .json list, or of a .jsonl or .jsonl.gz file, at least one, each with its place.

    A place is "FILE row 3" (from 0) in a list, "FILE line 4" (from 1) in JSON Lines; InputError names it. NaN is read.
    """
    path = Path(path)
    if path.suffix == ".json":
        content = parse_json(read_text(path), path)
        if not isinstance(content, list):
            raise InputError(f"{path} holds a {type(content).__name__}; allowed: a list of JSON objects.")
        placed = [(f"{path} row {row}", value) for row, value in enumerate(content)]
    else:
        placed = list(_parse_lines(path))
    for where, value in placed:
        if not isinstance(value, dict):
            raise InputError(f"{where}: a {type(value).__name__}; allowed: a JSON object.")
    if not placed:
        raise InputError(f"{path} has no rows; allowed: at least one.")
    return placed


def read_numbers(path: str | Path, columns: Sequence[str]) -> list[Any]:
    """Columns of a Parquet file, (N,) finite float64 each; InputError names the column and the row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    try:
        names = pq.read_schema(path).names
        for name in columns:
            if name not in names:
                raise InputError(f"{path}: no column {name!r}; it has {', '.join(names)}.")
            found.append(pq.read_table(path, columns=[name])[name].cast(pa.float64()).to_numpy())
            if (wrong := np.flatnonzero(~np.isfinite(found[-1]))).size:
                raise InputError(f"{path} row {wrong[0]}: {name} is {found[-1][wrong[0]]}; allowed: a finite number.")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as numbers from Parquet ({first_line(error)}).") from error
    return found


def name_row(path: str | Path, row: int) -> str:
    """What messages call row number `row`, from 0, of a dataset: its place, as in `read_objects`, or "NAME row 3"."""
    return name_rows(path, row + 1)[row]


def name_rows(path: str | Path, count: int) -> list[str]:
    """The names of the first `count` rows of a dataset, see `name_row`; JSON Lines are read once for all of them."""
    is_lines = str(path).endswith((".jsonl", ".jsonl.gz")) and Path(path).is_file()
    return [where for where, _ in read_objects(path)] if is_lines else [f"{path} row {row}" for row in range(count)]


def parse_json(text: str | bytes, path: str | Path, *, line: int | None = None) -> Any:
    """Parses the text of a file, or the bytes of its line number `line`; the InputError names the place."""
    where = path if line is None else f"{path} line {line}"
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not valid UTF-8 (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        where = f"{path} line {line or error.lineno}"
        hint = "; JSON Lines end in .jsonl" if error.msg == "Extra data" and line is None else ""
        raise InputError(f"{where}: not valid JSON: {error.msg} (column {error.colno}){hint}.") from error
    except (RecursionError, ValueError) as error:
        # Deep nesting, or an integer of more than 4,300 digits.
        raise InputError(f"{where}: not valid JSON: {first_line(error)}.") from error


def _parse_lines(path: Path) -> Iterator[tuple[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path} line {number}", parse_json(line.removeprefix(BOM_UTF8), path, line=number)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}.") from error
