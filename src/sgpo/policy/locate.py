"""Finding what a model path names: a directory, a repository of the Hugging Face Hub, a PEFT adapter."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from sgpo.errors import InputError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def check_exists(path: str | Path, what: str) -> None:
    """Refuses a path that is meant as a directory and is none, before the Hub is asked for it."""
    name = str(path)
    if name and Path(name).is_dir():
        return
    if name and Path(name).exists():
        raise InputError(f"{what} {name!r} is a file; allowed: a directory or a Hugging Face Hub id.")
    looks_like_id = isinstance(path, str) and not name.startswith((".", "/", "~")) and name.count("/") <= 1
    if not looks_like_id or not name:
        raise InputError(f"{what} {name!r} does not exist; allowed: a directory or a Hugging Face Hub id.")


def has_tokenizer(name: str) -> bool:
    """Whether a folder or Hub id holds a tokenizer of its own."""
    if Path(name).is_dir():
        return any((Path(name) / file).is_file() for file in TOKENIZER_FILES)
    return _download(name, "tokenizer_config.json", "adapter", lenient=True) is not None


def adapter_base(path: str | Path, what: str = "model") -> str | None:
    """The base model that a PEFT adapter names; None where `path` is a model of its own.

    Raises:
        InputError: `path` is neither, or the adapter names no base; `what` is its name in the message.
    """
    check_exists(path, what)
    name = str(path)
    if Path(name).is_dir():
        file = Path(name) / "adapter_config.json"
    else:
        cached = try_to_load_from_cache(name, "adapter_config.json")
        # Asked for first: a model needs it, so a Hub that cannot be reached ends here instead of passing for "no
        # adapter" after minutes of retries.
        has_config = isinstance(cached, str) or _download(name, "config.json", what) is not None
        file = Path(cached) if isinstance(cached, str) else _download(name, "adapter_config.json", what, has_config)
    if file is None or not file.is_file():
        return None
    base = read_json(file).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{file}: base_model_name_or_path is {base!r}; allowed: the base model's path or Hub id.")
    return base


def _download(name: str, file: str, what: str, lenient: bool = False) -> Path | None:
    """A file of a Hub repository, None where it has no such file (or, if lenient, where the Hub cannot be reached)."""
    try:
        return Path(hf_hub_download(name, file))
    except LocalEntryNotFoundError as error:
        if lenient:
            return None
        raise cannot_load(what, name, error) from error
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise cannot_load(what, name, error) from error


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: the file is not valid JSON, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}; allowed: a JSON object.")
    return content


def cannot_load(what: str, name: str, error: Exception) -> InputError:
    """One line in place of a chain of library errors: the first line of the error says what failed."""
    if isinstance(error, InputError):
        return error
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    where = "directory" if Path(name).is_dir() else "Hugging Face Hub id, and no directory of that name exists here"
    return InputError(f"{what} {name!r} ({where}) cannot be loaded: {reason[:400]}.")
