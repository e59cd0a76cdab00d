"""A GGUF file as a model folder: its weights are de-quantised once, and everything else reads the folder."""

import hashlib
import io
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import transformers
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import WeakFileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from sgpo.errors import InputError
from sgpo.policy.load import Policy, check_tokenizer, check_vocabulary
from sgpo.policy.locate import check_exists, loading
from sgpo.store.files import replacing

# transformers looks for a tokenizer, template or adapter beside a file, which may be another model's, but not here.
_EMPTY = str(Path(__file__).parent)


class GGUFFile:
    """A GGUF file of a folder or Hub repository, and its header; its weights become `dtype` ("auto": float32)."""

    def __init__(self, path: str, name: str, dtype: str, revision: str | None = None) -> None:
        if find_spec("gguf") is None:
            raise InputError(f"gguf_file {name!r} needs gguf, which is not installed: pip install 'sgpo[gguf]'.")
        from gguf import GGML_QUANT_SIZES, GGUFReader, dequantize

        check_exists(path, "model")
        self.file, self.dtype = Path(path, name).absolute(), "float32" if dtype == "auto" else dtype
        if not Path(path).is_dir():
            with loading("model", path):
                self.file = Path(hf_hub_download(path, name, revision=revision))
        elif not self.file.is_file():
            found = ", ".join(sorted(other.name for other in Path(path).glob("*.gguf"))) or "a folder with a GGUF file"
            raise InputError(f"model {path!r} has no file {name!r}; allowed: {found}.")
        self._named = {"gguf_file": str(self.file)}
        with loading("GGUF file", str(self.file)):
            self.header = GGUFReader(self.file)
            if not self.header.tensors:
                raise InputError(f"{self.file} holds no weights; allowed: a whole model.")
            for kind in {tensor.tensor_type for tensor in self.header.tensors}:
                dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)

    def describe(self) -> str:
        """What becomes of the weights."""
        tensors = self.header.tensors
        bits = 8 * sum(tensor.n_bytes for tensor in tensors) / sum(tensor.n_elements for tensor in tensors)
        lost = "; what quantisation lost stays lost, so this is not the original model" if bits < 16 else ""
        scaled = " Its rope_* are not read by transformers." if any(one.name[:5] == "rope_" for one in tensors) else ""
        return f"{self.file.name}: {bits:.1f} bits a weight become {self.dtype} in a model folder{lost}.{scaled}"

    def sketch(self) -> Policy:
        """The policy on the device "meta", without weights; InputError as from `load_policy`."""
        with loading("GGUF file", str(self.file)), torch.device("meta"):
            tokenizer = check_tokenizer(AutoTokenizer.from_pretrained(_EMPTY, **self._named), str(self.file))
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(_EMPTY, **self._named)).eval()
        # transformers reads one end token.
        fields = [self.header.get_field(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")]
        ends = model.config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), *(field.contents() for field in fields if field)}
        model.generation_config.eos_token_id = sorted(ends - {None})
        check_vocabulary(policy := Policy(model, tokenizer, str(self.file)))
        return policy

    def save(self, folder: Path) -> None:
        """Writes weights in safetensors, configs and the tokenizer into a new folder."""
        sketch = self.sketch()
        # transformers draws a bar that cannot be turned off, and fills missing weights at random.
        with loading("GGUF file", str(self.file)), redirect_stderr(io.StringIO()):
            options = {"dtype": self.dtype, "quantization_config": GgufConfig(dequantize=True), **self._named}
            loaded, info = AutoModelForCausalLM.from_pretrained(_EMPTY, output_loading_info=True, **options)
            if missing := sorted(info["missing_keys"]):
                raise InputError(f"{self.file} lacks {len(missing)} weights ({missing[0]}); allowed: a whole model.")
        # What was loaded stays marked as quantised, and would refuse to be saved.
        model = sketch.model.to(loaded.dtype)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.config.dtype = loaded.dtype
        model.save_pretrained(folder)
        sketch.tokenizer.save_pretrained(folder)

    def cached(self) -> Path:
        """The folder of Hugging Face's cache that it is converted into, unless it was before; says what that means."""
        print(f"Note: {self.describe()}", file=sys.stderr)
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
