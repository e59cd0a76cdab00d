"""A GGUF file as a model folder: its weights are de-quantised once, and everything else reads the folder."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import WeakFileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from sgpo.errors import InputError, first_line
from sgpo.policy.load import Policy, check_tokenizer, check_vocabulary
from sgpo.policy.locate import check_exists, loading
from sgpo.store.files import replacing


class GGUFFile:
    """A GGUF file, as `file`, with its `header`: a whole causal language model with a chat template.

    The file alone counts: a tokenizer, template or adapter beside it may be another model's.
    """

    def __init__(self, path: str, name: str, dtype: str) -> None:
        """Finds the file in a folder or downloads it from the Hub, and reads its header.

        `dtype` is that of the weights that are written; "auto" is float32. InputError: the package gguf is missing,
        there is no such file, or it cannot be de-quantised.
        """
        if find_spec("gguf") is None:
            raise InputError(f"gguf_file {name!r} needs gguf, which is not installed: pip install 'sgpo[gguf]'.")
        self.file, self.dtype = _find(path, name), "float32" if dtype == "auto" else dtype
        self.header = _read_header(self.file)

    def describe(self) -> str:
        """What becomes of the weights."""
        tensors = self.header.tensors
        types, count = sorted({one.tensor_type.name for one in tensors}), sum(one.n_elements for one in tensors)
        bits, size = 8 * sum(one.n_bytes for one in tensors) / count, count * getattr(torch, self.dtype).itemsize
        said = f"{self.file.name}: {bits:.1f} bits a weight ({', '.join(types)}) become {self.dtype}"
        lost = "; what quantisation lost stays lost, so this is not the original model" if bits < 16 else ""
        scaled = " transformers does not read its rope_*." if any(one.name[:5] == "rope_" for one in tensors) else ""
        return f"{said}, {size / 2**30:.2f} GiB{lost}.{scaled}"

    def sketch(self) -> Policy:
        """The policy on the device "meta", as a plan needs it: no weights are read."""
        with self._alone() as source:
            tokenizer = AutoTokenizer.from_pretrained(**source)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source))
        if tokenizer.chat_template is None:
            raise InputError(
                f"{self.file} has no chat template; allowed: the GGUF of an instruct model "
                "(gguf-new-metadata --chat-template-file adds a template)."
            )
        # transformers reads one end token.
        ends, also = (
            model.config.eos_token_id,
            [self.value(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")],
        )
        if ends := {*(ends if isinstance(ends, list) else [ends]), *also} - {None}:
            model.generation_config.eos_token_id = sorted(ends)
        policy = Policy(model.eval(), check_tokenizer(tokenizer, str(self.file)), str(self.file))
        check_vocabulary(policy)
        return policy

    def save(self, folder: Path) -> None:
        """Writes weights in safetensors, configs and the tokenizer into a new folder."""
        sketch = self.sketch()
        # transformers draws a bar that cannot be turned off.
        with self._alone() as source, redirect_stderr(io.StringIO()):
            options = {**source, "dtype": self.dtype, "quantization_config": GgufConfig(dequantize=True)}
            loaded, info = AutoModelForCausalLM.from_pretrained(**options, output_loading_info=True)
        # transformers would fill them at random.
        if missing := sorted(info["missing_keys"]):
            raise InputError(f"{self.file} lacks {len(missing)} weights (first: {missing[0]}); allowed: a whole model.")
        # What was loaded stays marked as quantised, and would refuse to be saved.
        model = sketch.model.to(loaded.dtype)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.config.dtype = loaded.dtype
        model.save_pretrained(folder)
        sketch.tokenizer.save_pretrained(folder)

    def cached(self) -> Path:
        """The folder in Hugging Face's cache that holds the converted file, which is written if it is not there."""
        with self.file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        # Another version of transformers may read the same file otherwise.
        folder = Path(constants.HF_HOME, "sgpo-gguf", f"{digest}-{self.dtype}-{transformers.__version__}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(f"{folder}.lock"):
            if not folder.is_dir():
                with replacing(folder) as partial:
                    self.save(partial)
        return folder

    def value(self, key: str) -> Any:
        """What the header says under a key; None if it says nothing."""
        return field.contents() if (field := self.header.get_field(key)) else None

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


def _find(path: str, name: str) -> Path:
    check_exists(path, "model")
    if not Path(path).is_dir():
        with loading("model", path):
            return Path(hf_hub_download(path, name))
    file = Path(path, name)
    if Path(name).is_absolute() or not file.is_file():
        found = ", ".join(sorted(other.name for other in Path(path).glob("*.gguf")))
        raise InputError(f"model {path!r} has no file {name!r}; allowed: {found or 'a folder with a GGUF file'}.")
    return file


def _read_header(file: Path) -> Any:
    """The `gguf.GGUFReader` of a file whose weights can be de-quantised."""
    from gguf import GGML_QUANT_SIZES, GGUFReader, dequantize

    try:
        header = GGUFReader(file)
    except Exception as error:
        raise InputError(f"{file} is no complete GGUF file ({first_line(error)}).") from error
    if (parts := header.get_field("split.count")) and parts.contents() > 1:
        raise InputError(f"{file} is one of {parts.contents()} parts; allowed: one file (llama-gguf-split --merge).")
    for kind in {one.tensor_type for one in header.tensors}:
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            raise InputError(f"{file}: {first_line(error)}; allowed: such as Q4_K_M, Q8_0 or F16.") from error
    return header
