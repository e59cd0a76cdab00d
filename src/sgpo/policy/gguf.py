"""A GGUF file as a model folder: its weights are de-quantised once, and everything else reads the folder."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import HF_HOME
from huggingface_hub.utils import WeakFileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from sgpo.errors import InputError, first_line
from sgpo.policy.load import Policy, check_tokenizer, check_vocabulary
from sgpo.policy.locate import check_exists, loading
from sgpo.store.files import replacing

_FLOATS = {"F32", "F16", "BF16"}
# Besides the one end token that transformers reads.
_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


class GGUFFile:
    """A GGUF file in a folder or a Hub repository: a whole causal language model with a chat template.

    The file alone counts: a tokenizer, template or adapter beside it may be another model's. `cached` and `save`
    write weights of the dtype in which they are to be trained; "auto" is float32.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        """Finds the file, on the Hub downloads it, and reads its header.

        Raises:
            InputError: the package gguf is missing, there is no such file, or it is none that can be de-quantised.
        """
        if find_spec("gguf") is None:
            raise InputError(f"gguf_file {name!r} needs gguf, which is not installed: pip install 'sgpo[gguf]'.")
        self.file = _find(path, name)
        self._check()

    def describe(self, dtype: str) -> str:
        """A sentence on what becomes of the weights."""
        dtype, tensors = _dtype(dtype), self.header.tensors
        types, count = sorted({tensor.tensor_type.name for tensor in tensors}), sum(one.n_elements for one in tensors)
        size = count * getattr(torch, dtype).itemsize / 2**30
        scaled = any(one.name.startswith("rope_") for one in tensors)
        lost = " Its factors of rotary positions (rope_*) are not read by transformers." if scaled else ""
        if _FLOATS.issuperset(types):
            return f"{self.file.name} ({', '.join(types)}) becomes a model in {dtype}, {size:.2f} GiB.{lost}"
        bits = 8 * sum(tensor.n_bytes for tensor in tensors) / count
        return (
            f"{self.file.name} is quantised, {bits:.1f} bits a weight ({', '.join(types)}). Its weights become "
            f"{dtype}, {size:.2f} GiB, and are trained in that; what quantisation lost stays lost, so this is not the "
            f"original model.{lost}"
        )

    def sketch(self) -> Policy:
        """The policy on the device "meta", as a plan needs it: no weights are read."""
        with self._alone() as source:
            config = AutoConfig.from_pretrained(**source)
            # llama.cpp's name of the model, under one that transformers keeps for a path.
            vars(config).pop("_model_name_or_path", None)
            tokenizer = AutoTokenizer.from_pretrained(**source)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        if tokenizer.chat_template is None:
            raise InputError(
                f"{self.file} has no chat template (tokenizer.chat_template); allowed: the GGUF of an instruct model. "
                "gguf-new-metadata --chat-template-file adds a template."
            )
        ends = config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), *map(self.value, _ENDS)} - {None}
        if len(ends) > 1:
            model.generation_config.eos_token_id = sorted(ends)
        policy = Policy(model.eval(), check_tokenizer(tokenizer, str(self.file)), str(self.file))
        check_vocabulary(policy)
        return policy

    def save(self, folder: Path, dtype: str) -> None:
        """Writes weights in safetensors, configs and the tokenizer into a new folder."""
        sketch = self.sketch()
        # transformers draws a bar that cannot be turned off.
        with self._alone() as source, redirect_stderr(io.StringIO()):
            options = {**source, "dtype": _dtype(dtype), "quantization_config": GgufConfig(dequantize=True)}
            loaded, info = AutoModelForCausalLM.from_pretrained(**options, output_loading_info=True)
        # transformers would fill them at random.
        if missing := sorted(info["missing_keys"]):
            raise InputError(f"{self.file} lacks {len(missing)} weights (first: {missing[0]}); allowed: a whole model.")
        # It stays marked as quantised, and would refuse to be saved.
        model = sketch.model.to(loaded.dtype)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.config.dtype = loaded.dtype
        model.save_pretrained(folder)
        sketch.tokenizer.save_pretrained(folder)

    def cached(self, dtype: str) -> Path:
        """The folder in Hugging Face's cache that holds the converted file, which is written if it is not there."""
        with self.file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        # Another version of transformers may read the same file otherwise.
        folder = Path(HF_HOME) / "sgpo-gguf" / f"{digest}-{_dtype(dtype)}-{transformers.__version__}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(f"{folder}.lock"):
            if not folder.is_dir():
                with replacing(folder) as partial:
                    self.save(partial, dtype)
        return folder

    @cached_property
    def header(self) -> Any:
        """The `gguf.GGUFReader` of the file."""
        from gguf import GGUFReader

        try:
            return GGUFReader(self.file)
        except Exception as error:
            raise InputError(f"{self.file} is no complete GGUF file ({first_line(error)}).") from error

    def value(self, key: str) -> Any:
        """What the file says under a key; None if it says nothing."""
        field = self.header.get_field(key)
        return None if field is None else field.contents()

    def _check(self) -> None:
        from gguf import GGML_QUANT_SIZES, dequantize

        if (parts := self.value("split.count") or 1) > 1:
            raise InputError(f"{self.file} is one of {parts} parts; allowed: one file (llama-gguf-split --merge).")
        for kind in {tensor.tensor_type for tensor in self.header.tensors}:
            try:
                dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
            except NotImplementedError as error:
                raise InputError(
                    f"{self.file} holds weights as {kind.name}, which the package gguf cannot de-quantise; allowed: a "
                    "file of another type, such as Q4_K_M, Q8_0 or F16."
                ) from error

    @contextmanager
    def _alone(self) -> Iterator[dict[str, Any]]:
        """Arguments of `from_pretrained` for the file in a folder of its own; errors in the block name the file."""
        with TemporaryDirectory() as folder:
            Path(folder, self.file.name).symlink_to(self.file.resolve())
            try:
                yield {"pretrained_model_name_or_path": folder, "gguf_file": self.file.name}
            except Exception as error:
                raise InputError(
                    f"{self.file} cannot be de-quantised: {first_line(error).replace(folder, str(self.file.parent))}; "
                    "allowed: a complete language model of an architecture that transformers reads from GGUF."
                ) from error


def _dtype(dtype: str) -> str:
    return "float32" if dtype == "auto" else dtype


def _find(path: str | Path, name: str) -> Path:
    check_exists(path, "model")
    if not Path(path).is_dir():
        with loading("model", str(path)):
            return Path(hf_hub_download(str(path), name))
    file = Path(path) / name
    if Path(name).is_absolute() or not file.is_file():
        found = ", ".join(sorted(other.name for other in Path(path).glob("*.gguf")))
        raise InputError(f"model {str(path)!r} has no file {name!r}; allowed: {found or 'a folder with a GGUF file'}.")
    return file
