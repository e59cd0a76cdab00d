"""Loading a policy: a causal language model and its tokenizer, from a directory or the Hugging Face Hub."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sgpo.choices import Dtype, check_choice
from sgpo.errors import InputError
from sgpo.policy.locate import adapter_base, adapter_weights, check_exists, has_tokenizer, loading
from sgpo.store.files import read_json

_WHOLE = "a complete checkpoint of the architecture that its config.json names"


@dataclass(frozen=True)
class Policy:
    """A causal language model in evaluation mode, its tokenizer, and the path or Hub id they were loaded from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: str

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int | None:
        """Longest sequence the model was built for, in tokens; None if its config names no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; the model's mode is restored on exit."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)


def load_policy(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
) -> Policy:
    """Loads a policy, ready to score and generate.

    A directory (or Hub id) that holds a PEFT adapter loads the adapter's base model and merges the adapter into it. The
    tokenizer is the adapter's own, if it has one; rows of the embedding for added tokens come from the adapter. The
    config of a merged model names the base, so save it before passing it to code that reloads by name. A tokenizer
    without a pad token pads with its end-of-sequence token. Weights are read from safetensors only.

    Args:
        path: directory or Hub id of a model with a chat template, or of a PEFT adapter.
        dtype: "float32", "bfloat16", "float16", or "auto" (as the weights were saved).
        device: "cpu", "cuda", "cuda:1", ...; None uses CUDA if there is any. "meta" checks the files, of the Hub
            but the weights, and reads no weights.
        trust_remote_code: run model code from a Hub repository.
        adapter: directory or Hub id of a PEFT adapter to merge into `path`.

    Raises:
        InputError: the model, its tokenizer, chat template, end-of-sequence token or adapter is missing or broken, the
            tokenizer uses tokens without a row in the embedding, or an argument is out of range.
    """
    check_choice("dtype", dtype, Dtype)
    chosen_device = choose_device(device)
    name, base = str(path), adapter_base(path)
    if adapter is not None:
        if base is not None:
            raise InputError(f"model {name!r} is an adapter, and adapter is {str(adapter)!r}; allowed: one of them.")
        if adapter_base(adapter, "adapter") is None:
            raise InputError(f"adapter {str(adapter)!r} has no adapter_config.json; allowed: a PEFT adapter.")
    source, merged = (name, adapter) if base is None else (base, name)
    if merged is not None:
        _check_adapter(str(merged))
    check_exists(source, "base model")
    config = Path(source) / "config.json"
    if config.is_file():
        read_json(config)
    elif Path(source).is_dir():
        raise InputError(f"model {source!r} has no config.json; allowed: a folder of save_pretrained, or gguf_file.")
    tokenizer = load_tokenizer(path, adapter=adapter, trust_remote_code=trust_remote_code)
    if device == "meta" and not Path(source).is_dir():
        model = _sketch(source, trust_remote_code)
    else:
        options = {"dtype": dtype, "device_map": "meta" if device == "meta" else None}
        model = load_weights(AutoModelForCausalLM, source, "model", trust_remote_code=trust_remote_code, **options)
    if merged is not None:
        _add_rows(model, str(merged))
    check_vocabulary(Policy(model, tokenizer, str(merged or name)))
    if merged is not None and device != "meta":
        from peft import PeftModel

        with loading("adapter", str(merged)):
            # PEFT freezes the base; a run trains the merged model.
            model = PeftModel.from_pretrained(model, str(merged)).merge_and_unload().requires_grad_(True)
    return Policy(model.to(chosen_device).eval(), tokenizer, name)


def _sketch(name: str, trust_remote_code: bool) -> PreTrainedModel:
    """A model of the Hub on the device "meta", from its configs: its weights need not be downloaded."""
    with loading("model", name), torch.device("meta"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    # Without this file a model has the end tokens of its config.
    with suppress(OSError):
        model.generation_config = model.generation_config.from_pretrained(name)
    return model


def check_vocabulary(policy: Policy) -> list[str]:
    """Refuses a tokenizer that uses a token without a row in the embedding; returns a note on any that it does not use.

    Published models have these: gemma-3-1b-it a token for images, CodeLlama-34b those for infilling. More rows than
    tokens are usual: embeddings are padded.
    """
    tokenizer, rows = policy.tokenizer, len(policy.model.get_input_embeddings().weight)
    if not (beyond := sorted(place for place in tokenizer.get_vocab().values() if place >= rows)):
        return []
    ends = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    base = set(beyond).difference(tokenizer.added_tokens_decoder)
    check_rows(policy, [sorted((ends | base | _template_ids(tokenizer)) - {None})], f"the tokenizer of {policy.path!r}")
    unused = f"{len(beyond)}, such as {beyond[0]} ({tokenizer.convert_ids_to_tokens(beyond[0])!r})"
    who = f"the tokenizer of {policy.path!r} has unused ids beyond the {rows} rows of the embedding"
    return [f"{who} ({unused}): a text that holds one is refused."]


def check_rows(policy: Policy, texts: Iterable[Sequence[int]], who: str | None = None) -> None:
    """Raises InputError for a token id that has no row in the embedding, and names the row of the text, or `who`."""
    rows = len(policy.model.get_input_embeddings().weight)
    for place, ids in enumerate(texts):
        if (largest := max(ids, default=0)) >= rows:
            token = policy.tokenizer.convert_ids_to_tokens(largest)
            raise InputError(
                f"{who or f'row {place}'} uses the id {largest} ({token!r}), and the embedding has {rows} rows; "
                f"allowed: ids below {rows}. Use the tokenizer that the model was trained with, or train the model "
                f"after resize_token_embeddings({len(policy.tokenizer)}); PEFT saves new rows with "
                "save_embedding_layers=True."
            )


def _template_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that the chat template writes around the turns of a conversation."""
    turns, ids = [{"role": role, "content": "A"} for role in ("system", "user", "assistant")], set()
    for conversation in (turns, turns[1:], turns[:2], turns[1:2]):
        # It may want a system turn, or none; there may be no template.
        with suppress(Exception):
            opened = conversation[-1]["role"] == "user"
            ids |= set(tokenizer.apply_chat_template(conversation, add_generation_prompt=opened)["input_ids"])
    return ids


def _add_rows(model: PreTrainedModel, adapter: str) -> None:
    """Makes a base as large as an adapter's embedding, if it holds one; PEFT refuses another number of rows."""
    layers, held, file = (model.get_input_embeddings(), model.get_output_embeddings()), {}, adapter_weights(adapter)
    with loading("adapter", adapter), safe_open(file, "pt") as weights:
        shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    for name in [name for name, module in model.named_modules() if module in layers]:
        found = [shape[0] for key, shape in shapes.items() if f".{name}." in key and key.endswith(".weight")]
        held[name] = max(found, default=0)
    rows, tied = max(held.values()), model.config.get_text_config().tie_word_embeddings
    if rows > len(layers[0].weight):
        if min(held.values()) < rows and not tied:
            raise InputError(f"adapter {adapter!r} holds {held} rows for tokens; allowed: {rows} in each of them.")
        model.resize_token_embeddings(rows, mean_resizing=False)


def load_tokenizer(
    path: str | Path, *, adapter: str | Path | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer for conversations: it has a chat template and an end-of-sequence token.

    An adapter's own tokenizer comes first, because it may have added tokens; without one it is that of the base.
    """
    check_exists(path, "tokenizer")
    owners = [str(place) for place in (adapter, path) if place is not None]
    name = next(filter(has_tokenizer, owners), adapter_base(path, "tokenizer") or str(path))
    if Path(name).is_dir() and not has_tokenizer(name):
        raise InputError(f"model {name!r} has no tokenizer.json or tokenizer_config.json; allowed: a folder with one.")
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    return check_tokenizer(tokenizer, name)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Refuses a tokenizer, that of `name`, without chat template or end-of-sequence token; completes its pad token."""
    if tokenizer.chat_template is None:
        raise InputError(
            f"the tokenizer of {name!r} has no chat template; allowed: a tokenizer with one (an instruction-tuned or "
            "SFT model; chat_template.jinja next to the tokenizer, chat_template in tokenizer_config.json, or "
            "tokenizer.chat_template of a GGUF file, see gguf-new-metadata)."
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {name!r} has no eos_token; allowed: one whose eos_token ends a response.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_weights(model_class: Any, name: str, what: str, *, whole: str = _WHOLE, **options: Any) -> PreTrainedModel:
    """`model_class.from_pretrained` from safetensors only; transformers would fill missing weights at random.

    In messages, `what` is loaded from `name`, and `whole` names the allowed checkpoints.
    """
    with loading(what, name):
        model, info = model_class.from_pretrained(name, use_safetensors=True, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{what} {name!r} lacks {len(missing)} of its weights (first: {missing[0]}); allowed: {whole}."
        )
    return model


def choose_device(device: str | None) -> torch.device:
    """The device of that name; None chooses CUDA if there is any, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; allowed: 'cpu', 'cuda', 'cuda:1', ..., or None.") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {device!r}, but this machine has {torch.cuda.device_count()} CUDA devices.")
    return chosen


def _check_adapter(adapter: str) -> None:
    if find_spec("peft") is None:
        raise InputError(f"adapter {adapter!r} needs PEFT, which is not installed: pip install 'sgpo[peft]'.")
    if adapter_weights(adapter) is None:
        raise InputError(f"adapter {adapter!r} has no adapter_model.safetensors; allowed: weights in safetensors.")
