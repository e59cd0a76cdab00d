"""Loading preference data: files, folders written by `datasets`, and the Hugging Face Hub."""

import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from datasets.utils.info_utils import NonMatchingSplitsSizesError

from sgpo.errors import InputError, first_line
from sgpo.preferences.layout import to_pairs, to_prompts
from sgpo.store.files import parse_json, read_text
from sgpo.store.hub import is_hub_id

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".arrow")
SOURCES = f"a file ({', '.join(SUFFIXES)}), a folder written by save_to_disk, or a Hugging Face Hub id"


def load_pairs(path: str | Path, *, split: str | None = None) -> Dataset:
    """Loads preference pairs: `load_rows`, then `to_pairs`; raises what they raise."""
    return to_pairs(load_rows(path, split=split), str(path))


def load_prompts(path: str | Path, *, split: str | None = None) -> Dataset:
    """Loads a pool of prompts: `load_rows`, then `to_prompts`; raises what they raise."""
    return to_prompts(load_rows(path, split=split), str(path))


def load_rows(path: str | Path, *, split: str | None = None) -> Dataset:
    """Loads the rows of a dataset, whatever their columns.

    Args:
        path: a file (.jsonl, .jsonl.gz, .json, .parquet, .arrow), a folder (written by `save_to_disk`, or laid out like
            a Hub dataset), or a Hub id.
        split: which split, if the source has splits; None uses "train", or the only one of a saved folder.

    Raises:
        InputError: there is nothing at `path`, it is not valid (the file and line are named), or it has no such split.
    """
    dataset = _load(path, split)
    _check_text(dataset, str(path))
    return dataset


def _load(path: str | Path, split: str | None) -> Dataset:
    place, name = Path(path), str(path)
    if name and place.is_dir():
        return _load_folder(place, split)
    if place.is_file():
        if split is not None:
            raise InputError(f"split is {split!r}, but {place} is one file; allowed: no split.")
        return _load_file(place)
    if not is_hub_id(path) or name.endswith(SUFFIXES):
        raise InputError(f"{name!r} does not exist; allowed: {SOURCES}.")
    return _load_hub(name, split)


def _load_file(file: Path) -> Dataset:
    name = file.name
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _from_rows(list(_read_jsonl(file)), file)
    if name.endswith(".json"):
        return _from_rows(_read_json(file), file)
    if name.endswith(".parquet"):
        try:
            return Dataset(pyarrow.parquet.read_table(file))
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{file} is not a readable Parquet file: {first_line(error)}.") from error
    if name.endswith(".arrow"):
        return _read_arrow(file)
    raise InputError(f"{file} has an unknown file type; allowed: {', '.join(SUFFIXES)}.")


def _read_arrow(file: Path) -> Dataset:
    """Reads both Arrow formats: with a footer (Feather 2), or a stream, as `datasets` writes it."""
    try:
        with pyarrow.memory_map(str(file)) as source:
            try:
                return Dataset(pyarrow.ipc.open_file(source).read_all())
            except pyarrow.ArrowInvalid:
                source.seek(0)
                return Dataset(pyarrow.ipc.open_stream(source).read_all())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file} is not a readable Arrow file: {first_line(error)}.") from error


def _check_text(dataset: Dataset, name: str) -> None:
    """Names the row whose text is not UTF-8: Parquet and Arrow keep any bytes, and the row would fail later."""
    table = dataset.data.table
    try:
        table.validate(full=True)
    except pyarrow.ArrowException as error:
        for index in range(table.num_rows):
            try:
                table.slice(index, 1).to_pylist()
            except UnicodeDecodeError:
                raise InputError(f"{name} row {index}: not valid UTF-8.") from error
        raise InputError(f"{name} is damaged: {first_line(error)}.") from error


def _read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = parse_json(line.removeprefix(BOM_UTF8), str(file), line=number)
                    yield _check_row(row, f"{file} line {number}")
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}.") from error


def _read_json(file: Path) -> list[dict[str, Any]]:
    rows = parse_json(read_text(file), str(file))
    if not isinstance(rows, list):
        raise InputError(f"{file} holds a {type(rows).__name__}; allowed: a list of JSON objects.")
    return [_check_row(row, f"{file} row {index}") for index, row in enumerate(rows)]


def _check_row(row: Any, where: str) -> dict[str, Any]:
    """The row, if it is a JSON object of valid text: JSON can escape half of a surrogate pair, which is no text."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: a {type(row).__name__}; allowed: a JSON object.")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise InputError(f"{where}: not valid text: {half} is half of a surrogate pair.") from error
    return row


def _from_rows(rows: list[dict[str, Any]], file: Path) -> Dataset:
    if not rows:
        raise InputError(f"{file} has no rows; allowed: at least one.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        _check_one_type(rows, name, file)
    try:
        return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise InputError(f"{file}: a column holds values of different types: {first_line(error)}.") from error


def _check_one_type(rows: list[dict[str, Any]], name: str, file: Path) -> None:
    """Names the row and the column that changes its type; Arrow would name neither."""
    first = None
    for index, row in enumerate(rows):
        value = row.get(name)
        if value is None:
            continue
        kind = "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
        first = first or kind
        if kind != first:
            raise InputError(f"{file} row {index}: {name!r} is a {kind} after rows with a {first}; allowed: one type.")


def _load_folder(folder: Path, split: str | None) -> Dataset:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        try:
            saved = load_from_disk(str(folder))
        except Exception as error:
            raise InputError(f"{folder} is not a complete dataset: {first_line(error)}.") from error
        return _pick_split(saved, folder, split)
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith(SUFFIXES))
    if len(files) == 1 and split is None:
        return _load_file(files[0])
    if not files and not any(file.name.endswith(SUFFIXES) for file in folder.rglob("*")):
        raise InputError(f"{folder} holds no dataset; allowed: {SOURCES}.")
    return _load_hub(str(folder), split)


def _pick_split(saved: Dataset | DatasetDict, folder: Path, split: str | None) -> Dataset:
    if isinstance(saved, Dataset):
        if split is not None and split != str(saved.split):
            raise InputError(f"split is {split!r}, but {folder} holds one dataset without splits; allowed: no split.")
        return saved
    wanted = split or (next(iter(saved)) if len(saved) == 1 else "train")
    if wanted not in saved:
        raise InputError(f"{folder} has no split {wanted!r}; allowed: {', '.join(map(repr, saved))}.")
    return saved[wanted]


def _load_hub(name: str, split: str | None) -> Dataset:
    """A Hub dataset, or a folder laid out like one."""
    try:
        return load_dataset(name, split=split or "train")
    except NonMatchingSplitsSizesError as error:
        sizes = re.findall(r"num_examples=(\d+)", str(error))
        raise InputError(
            f"{name!r} is incomplete: its card promises {', '.join(sizes[::2])} rows and its files hold "
            f"{', '.join(sizes[1::2])}; allowed: all of its files, or a README.md without dataset_info."
        ) from error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        what = "folder" if Path(name).is_dir() else "Hugging Face Hub id, and nothing of that name exists here"
        raise InputError(
            f"{name!r} ({what}) cannot be loaded with split {split or 'train'!r}: {first_line(cause)}."
        ) from error
