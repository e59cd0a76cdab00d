"""Loading a policy: a causal language model and its tokenizer, from a directory or the Hugging Face Hub."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from sgpo.errors import InputError

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Policy:
    """A causal language model in evaluation mode, its tokenizer, and the path or Hub id they came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: str

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int | None:
        """Longest sequence the model was built for, in tokens; None where its config names no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def load_policy(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
) -> Policy:
    """Loads a policy, ready to score and generate.

    A directory (or Hub id) that holds a PEFT adapter loads the adapter's base model and merges the adapter into it;
    the config of a merged model names the base, so save it before handing it to code that reloads by name. A tokenizer
    without a pad token pads with its end-of-sequence token. Weights are read from safetensors only.

    Args:
        path: directory or Hub id of a model with a chat template, or of a PEFT adapter.
        dtype: "float32", "bfloat16", "float16", or "auto" (as the weights were saved).
        device: "cpu", "cuda", "cuda:1", ...; None takes CUDA where there is one.
        trust_remote_code: run model code that comes with a Hub repository.
        adapter: directory or Hub id of a PEFT adapter to merge into `path`.

    Raises:
        InputError: the model, its tokenizer, chat template, end-of-sequence token or adapter cannot be had, or an
            argument is out of range.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; allowed: {', '.join(map(repr, DTYPES))}.")
    chosen_device = _device(device)
    name = str(path)
    _check_exists(path, "model")
    base = name
    if adapter is None and _adapter_base(name) is not None:
        adapter, base = name, _adapter_base(name)
    elif adapter is not None:
        _check_exists(adapter, "adapter")
        if _adapter_base(str(adapter)) is None:
            raise InputError(f"adapter {str(adapter)!r} has no adapter_config.json; allowed: a PEFT adapter.")
    tokenizer = load_tokenizer(name if _has_tokenizer(name) else base, trust_remote_code=trust_remote_code)
    model = _load_model(base, dtype, trust_remote_code)
    if adapter is not None:
        model = _merge_adapter(model, str(adapter))
    return Policy(model.to(chosen_device).eval(), tokenizer, name)


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a tokenizer that can speak in conversations: with a chat template and an end-of-sequence token.

    Raises:
        InputError: there is no tokenizer, or it lacks one of them.
    """
    name = str(path)
    _check_exists(path, "tokenizer")
    if Path(name).is_dir() and not _has_tokenizer(name):
        raise InputError(
            f"model {name!r} has no tokenizer; allowed: a directory that also holds tokenizer.json or "
            "tokenizer_config.json (tokenizer.save_pretrained writes them)."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _cannot_load("tokenizer", name, error) from error
    require_chat_template(tokenizer, name)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer of {name!r} has no eos_token; allowed: a tokenizer whose eos_token ends a response, "
            "because a response must be seen to end."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_chat_template(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Raises InputError where a tokenizer has no chat template: prompts and responses are conversations."""
    if tokenizer.chat_template is None:
        raise InputError(
            f"the tokenizer of {str(path)!r} has no chat template; allowed: a tokenizer with one (an instruction-tuned "
            "or SFT model; chat_template.jinja beside the tokenizer, or chat_template in tokenizer_config.json)."
        )


def _device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; allowed: 'cpu', 'cuda', 'cuda:1', ..., or None.") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {device!r}, but this machine has {torch.cuda.device_count()} CUDA devices.")
    return chosen


def _check_exists(path: str | Path, what: str) -> None:
    """Refuses a path that is meant as a directory and is none, before the Hub is asked for it."""
    name = str(path)
    if Path(name).is_dir():
        return
    if Path(name).exists():
        raise InputError(f"{what} {name!r} is a file; allowed: a directory or a Hugging Face Hub id.")
    looks_like_id = isinstance(path, str) and not name.startswith((".", "/", "~")) and name.count("/") <= 1
    if not looks_like_id or not name:
        raise InputError(f"{what} {name!r} does not exist; allowed: a directory or a Hugging Face Hub id.")


def _has_tokenizer(name: str) -> bool:
    """Whether a directory holds a tokenizer; a Hub model is taken to have one, a Hub adapter is asked."""
    directory = Path(name)
    if not directory.is_dir():
        return _adapter_base(name) is None or _hub_has(name, "tokenizer_config.json")
    return any((directory / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


def _hub_has(name: str, file: str) -> bool:
    from transformers.utils.hub import cached_file

    return cached_file(name, file, _raise_exceptions_for_missing_entries=False) is not None


def _adapter_base(name: str) -> str | None:
    """Base model that an adapter names in adapter_config.json; None where `name` is no adapter."""
    try:
        file = find_adapter_config_file(name)
    except Exception as error:
        raise _cannot_load("model", name, error) from error
    if file is None:
        return None
    base = _read_json(Path(file)).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{file}: base_model_name_or_path is {base!r}; allowed: the base model's path or Hub id.")
    return base


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}; allowed: a JSON object.")
    return content


def _load_model(name: str, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    _check_exists(name, "base model")
    directory = Path(name)
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise InputError(f"model {name!r} has no config.json; allowed: a directory written by save_pretrained.")
        _read_json(directory / "config.json")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _cannot_load("model", name, error) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"model {name!r} lacks {len(missing)} of its weights (first: {missing[0]}); allowed: a complete checkpoint "
            "of the architecture that its config.json names."
        )
    return model


def _merge_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    if find_spec("peft") is None:
        raise InputError(f"adapter {adapter!r} needs PEFT, which is not installed: pip install 'sgpo[peft]'.")
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except Exception as error:
        raise _cannot_load("adapter", adapter, error) from error


def _cannot_load(what: str, name: str, error: Exception) -> InputError:
    """One line in place of a chain of library errors: the first line of the error says what failed."""
    if isinstance(error, InputError):
        return error
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    where = "directory" if Path(name).is_dir() else "Hugging Face Hub id, and no directory of that name exists here"
    return InputError(f"{what} {name!r} ({where}) cannot be loaded: {reason[:400]}.")
