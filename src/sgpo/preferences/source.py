"""Loading preference data: files, folders written by `datasets`, and the Hugging Face Hub; where pairs come from."""

import os
import re
from pathlib import Path
from typing import get_args

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from datasets import Dataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from datasets.utils.info_utils import NonMatchingSplitsSizesError

from sgpo.choices import PairSource
from sgpo.errors import InputError, first_line, shorten
from sgpo.preferences.columns import from_objects, from_table
from sgpo.preferences.layout import to_pairs, to_prompts
from sgpo.store.files import name_row, read_objects
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
        path: a file (of `SUFFIXES`), a folder (written by `save_to_disk` or laid out like a Hub dataset), or a Hub id.
        split: which split, if the source has splits; None uses "train", or the only one of a saved folder.

    Raises:
        InputError: there is nothing at `path`, it is not valid (the file and line are named), or it has no such split.
    """
    place, name = Path(path), str(path)
    if name and os.path.isdir(place):
        dataset = _load_folder(place, split)
    elif os.path.isfile(place):
        if split is not None:
            raise InputError(f"split is {split!r}, but {place} is one file; allowed: no split.")
        dataset = _load_file(place)
    elif is_hub_id(path) and not name.endswith(SUFFIXES):
        dataset = _load_hub(name, split)
    else:
        raise InputError(f"{shorten(name, 300)} does not exist; allowed: {SOURCES}.")
    _check_table(dataset.data.table, name)
    return dataset


def self_annotated(pairs: Dataset) -> Dataset | None:
    """The pairs with the source "self", or all pairs if they do not come from a round; None if there are none."""
    sources = pairs["source"][:] if "source" in pairs.column_names else [None]
    if set(sources) <= set(get_args(PairSource)):
        pairs = pairs.select([row for row, source in enumerate(sources) if source == "self"])
    return pairs if len(pairs) else None


def pair_sources(pairs: Dataset, column: str | None, name: str) -> list[str] | None:
    """The source of each pair, from a column of texts. Without a column, the one named "source" is used if it holds
    texts; otherwise no sources are known."""
    if column is None and "source" not in pairs.column_names:
        return None
    wanted = column or "source"
    if wanted not in pairs.column_names:
        raise InputError(f"{name} has the columns {', '.join(pairs.column_names)}; allowed: one named {wanted!r}.")
    values = pairs[wanted][:]
    others = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if others and column is not None:
        raise InputError(f"{name_row(name, others[0])}: {column!r} is {values[others[0]]!r}; allowed: a text.")
    return None if others else values


def _load_file(file: Path) -> Dataset:
    if not file.name.endswith(SUFFIXES):
        raise InputError(f"{file} has an unknown file type; allowed: {', '.join(SUFFIXES)}.")
    kind = {".parquet": "Parquet", ".arrow": "Arrow"}.get(file.suffix, "JSON")
    try:
        if kind == "JSON":
            return from_objects([row for _, row in read_objects(file)])
        table = pyarrow.parquet.read_table(file) if kind == "Parquet" else _read_arrow(file)
        # `datasets` reads every value for its fingerprint, and a value outside of its buffer would end the process.
        _check_table(table, str(file))
        return from_table(table)
    except InputError:
        raise
    except Exception as error:
        # Also KeyError, TypeError or AttributeError, for the metadata of `datasets` in another form.
        raise InputError(f"{file} is not a readable {kind} file: {first_line(error)}.") from error


def _read_arrow(file: Path) -> pyarrow.Table:
    """Reads both Arrow formats: with a footer (Feather 2), or a stream, as `datasets` writes it."""
    with pyarrow.memory_map(str(file)) as source:
        try:
            return pyarrow.ipc.open_file(source).read_all()
        except pyarrow.ArrowInvalid:
            source.seek(0)
            return pyarrow.ipc.open_stream(source).read_all()


def _check_table(table: pyarrow.Table, name: str) -> None:
    """Names the row whose text is not UTF-8: Parquet and Arrow keep any bytes, and the row would fail later."""
    for column in table.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowException as error:
            # Only these rows can be read at all: others may lie outside of their buffers.
            for index in range(table.num_rows if "UTF8" in str(error) else 0):
                try:
                    column.slice(index, 1).to_pylist()
                except UnicodeDecodeError:
                    raise InputError(f"{name} row {index}: not valid UTF-8.") from error
            raise InputError(f"{name} is damaged: {first_line(error)}.") from error


def _load_folder(folder: Path, split: str | None) -> Dataset:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _load_saved(folder, split)
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith(SUFFIXES))
    if len(files) == 1 and split is None:
        return _load_file(files[0])
    if not files and not any(file.name.endswith(SUFFIXES) for file in folder.rglob("*")):
        raise InputError(f"{folder} holds no dataset; allowed: {SOURCES}.")
    return _load_hub(str(folder), split)


def _load_saved(folder: Path, split: str | None) -> Dataset:
    try:
        saved = load_from_disk(str(folder))
    except Exception as error:
        raise InputError(f"{folder} is not a complete dataset: {first_line(error)}.") from error
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
