"""Resolving a model path: a directory, a repository of the Hugging Face Hub, or a PEFT adapter."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from sgpo.errors import InputError, first_line, shorten
from sgpo.store.files import read_json
from sgpo.store.hub import is_hub_id


def check_exists(path: str | Path, what: str) -> None:
    """Raises InputError for a path that is neither a directory nor a possible Hub id; asks the Hub nothing."""
    name = str(path)
    if (name and os.path.isdir(name)) or is_hub_id(path):
        return
    found = "is a file" if name and os.path.exists(name) else "does not exist"
    hint = " Name a GGUF file in gguf_file, and its folder here." if name.endswith(".gguf") else ""
    raise InputError(f"{what} {shorten(name, 300)} {found}; allowed: a directory or a Hugging Face Hub id.{hint}")


def has_tokenizer(name: str) -> bool:
    """Whether a folder or Hub repository holds its own tokenizer."""
    if Path(name).is_dir():
        files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
        return any((Path(name) / file).is_file() for file in files)
    return _download(name, "tokenizer_config.json", "adapter", lenient=True) is not None


def adapter_base(path: str | Path, what: str = "model") -> str | None:
    """The base model that a PEFT adapter names; None if `path` is a whole model. `what` is its name in messages."""
    check_exists(path, what)
    name = str(path)
    if Path(name).is_dir():
        file = Path(name) / "adapter_config.json"
    elif isinstance(cached := try_to_load_from_cache(name, "adapter_config.json"), str):
        file = Path(cached)
    else:
        # A model needs config.json, so asking for it first shows whether the Hub answers at all: an unreachable Hub
        # would otherwise count as "no adapter" after minutes of retries.
        has_config = _download(name, "config.json", what) is not None
        file = _download(name, "adapter_config.json", what, lenient=has_config)
    if file is None or not file.is_file():
        return None
    base = read_json(file).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{file}: base_model_name_or_path is {base!r}; allowed: the base model's path or Hub id.")
    return base


def adapter_weights(name: str) -> Path | None:
    """The file of an adapter's weights; None if there is none in safetensors, or the Hub cannot be reached."""
    if Path(name).is_dir():
        file = Path(name) / "adapter_model.safetensors"
        return file if file.is_file() else None
    return _download(name, "adapter_model.safetensors", "adapter", lenient=True)


@contextmanager
def loading(what: str, name: str) -> Iterator[None]:
    """Turns a library's error while it loads `name` into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        where = "Hugging Face Hub id, and no directory of that name exists here"
        where = (
            "directory" if Path(name).is_dir() else "file, which must be complete" if Path(name).is_file() else where
        )
        hint = " Its trust_remote_code allows that." if "trust_remote_code" in str(error) else ""
        raise InputError(f"{what} {name!r} ({where}) cannot be loaded: {first_line(error)}.{hint}") from error


def _download(name: str, file: str, what: str, *, lenient: bool = False) -> Path | None:
    """A file of a Hub repository; None if it has no such file (or, if lenient, if the Hub cannot be reached)."""
    with loading(what, name):
        try:
            return Path(hf_hub_download(name, file))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not lenient:
                raise
    return None
