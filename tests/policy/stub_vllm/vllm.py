"""A stub of vLLM, which needs an environment of its own: the calls that sgpo makes, on top of transformers on the CPU.

Arguments that vLLM 0.33 does not have are refused as it refuses them. Like vLLM it prints to stdout, and keeps a child
that inherits its files. The environment causes failures: STUB_HANG makes `generate` wait forever, STUB_FAIL makes it
raise, STUB_DIE ends the process while the model is loaded, STUB_PIDS names a file for the process ids.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace

sys.modules["vllm.platforms"] = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: False))


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    detokenize: bool = True

    def __post_init__(self):
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")


class LLM:
    def __init__(
        self,
        model,
        *,
        dtype="auto",
        tensor_parallel_size=1,
        gpu_memory_utilization=0.92,
        max_model_len=None,
        trust_remote_code=False,
        enforce_eager=False,
    ):
        print("INFO loading", model, dtype, flush=True)
        os.write(1, b'{"context": 1}\n')
        print(json.dumps({"environment": dict(os.environ)}), file=sys.stderr, flush=True)
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
        if "STUB_PIDS" in os.environ:
            Path(os.environ["STUB_PIDS"]).write_text(f"{os.getpid()} {child}")
        if "STUB_DIE" in os.environ:
            print("torch.OutOfMemoryError: CUDA out of memory", file=sys.stderr, flush=True)
            os._exit(3)
        self._path, self._model = model, None
        context = json.loads((Path(model) / "config.json").read_text())["max_position_embeddings"]
        self.model_config = SimpleNamespace(max_model_len=max_model_len or context)

    def generate(self, prompts, sampling_params, *, use_tqdm=True):
        print("Processed prompts:", len(prompts), flush=True)
        for params in sampling_params:
            print(json.dumps({"params": asdict(params)}), file=sys.stderr, flush=True)
        if "STUB_HANG" in os.environ:
            time.sleep(600)
        if "STUB_FAIL" in os.environ:
            raise RuntimeError("the engine is dead")
        if self._model is None:
            self._load()
        pairs = zip(prompts, sampling_params, strict=True)
        return [self._write(prompt["prompt_token_ids"], params) for prompt, params in pairs]

    def _load(self):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._model = AutoModelForCausalLM.from_pretrained(self._path)
        self._tokenizer = AutoTokenizer.from_pretrained(self._path)
        ends = self._model.generation_config.eos_token_id
        self._ends = {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    def _write(self, prompt, params):
        import torch

        generator = torch.Generator().manual_seed(params.seed)
        written, reason, stopped_by = [], "length", None
        while reason == "length" and len(written) < params.max_tokens:
            with torch.no_grad():
                logits = self._model(input_ids=torch.tensor([prompt + written])).logits[0, -1]
            if params.temperature:
                law = torch.softmax(logits / params.temperature, dim=-1)
                written.append(int(torch.multinomial(law, 1, generator=generator)))
            else:
                written.append(int(logits.argmax()))
            text = self._tokenizer.decode(written, skip_special_tokens=True) if params.stop else ""
            if written[-1] in self._ends:
                reason, stopped_by = "stop", None if written[-1] == self._tokenizer.eos_token_id else written[-1]
            elif found := [stop for stop in params.stop if stop in text]:
                reason, stopped_by = "stop", found[0]
        output = SimpleNamespace(token_ids=tuple(written), finish_reason=reason, stop_reason=stopped_by)
        return SimpleNamespace(outputs=[output])
