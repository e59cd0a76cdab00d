"""Loading a policy: a causal language model and its tokenizer, from a directory or the Hugging Face Hub."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sgpo.errors import InputError
from sgpo.policy.locate import adapter_base, cannot_load, check_exists, has_tokenizer, read_json

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
    base = adapter_base(path, "model")
    if base is not None and adapter is not None:
        raise InputError(f"model {name!r} is itself an adapter and adapter is {str(adapter)!r}; allowed: one of them.")
    merged = name if base is not None else adapter
    if adapter is not None and adapter_base(adapter, "adapter") is None:
        raise InputError(f"adapter {str(adapter)!r} has no adapter_config.json; allowed: a PEFT adapter.")
    if merged is not None:
        _check_adapter(str(merged))
    speaks = base is None or has_tokenizer(name)
    config = _load_config(base or name, trust_remote_code)
    tokenizer = load_tokenizer(name if speaks else base, trust_remote_code=trust_remote_code)
    model = _load_model(base or name, config, dtype, trust_remote_code)
    if merged is not None:
        model = _merge_adapter(model, str(merged))
    return Policy(model.to(chosen_device).eval(), tokenizer, name)


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a tokenizer that can speak in conversations: with a chat template and an end-of-sequence token.

    Raises:
        InputError: there is no tokenizer, or it lacks one of them.
    """
    name = str(path)
    check_exists(path, "tokenizer")
    if Path(name).is_dir() and not has_tokenizer(name):
        raise InputError(
            f"model {name!r} has no tokenizer; allowed: a directory that also holds tokenizer.json or "
            "tokenizer_config.json (tokenizer.save_pretrained writes them)."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise cannot_load("tokenizer", name, error) from error
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


def _load_config(name: str, trust_remote_code: bool) -> PreTrainedConfig:
    check_exists(name, "base model")
    directory = Path(name)
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise InputError(f"model {name!r} has no config.json; allowed: a directory written by save_pretrained.")
        read_json(directory / "config.json")
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise cannot_load("model", name, error) from error


def _load_model(name: str, config: PreTrainedConfig, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise cannot_load("model", name, error) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise InputError(
            f"model {name!r} lacks {len(missing)} of its weights (first: {missing[0]}); allowed: a complete checkpoint "
            "of the architecture that its config.json names."
        )
    return model


def _check_adapter(adapter: str) -> None:
    if find_spec("peft") is None:
        raise InputError(f"adapter {adapter!r} needs PEFT, which is not installed: pip install 'sgpo[peft]'.")
    if Path(adapter).is_dir() and not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise InputError(f"adapter {adapter!r} has no adapter_model.safetensors; allowed: weights in safetensors.")


def _merge_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except Exception as error:
        raise cannot_load("adapter", adapter, error) from error
