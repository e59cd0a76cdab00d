"""The model of a run: which one, how it generates, and on what hardware."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from sgpo.choices import Backend, Dialect, Dtype
from sgpo.config.options import ServerOptions, VLLMOptions
from sgpo.config.section import MAX_FAILED, Count, Place, Positive, PositiveShare, Section, Share, key

# What each backend needs, and what else it takes.
_BACKENDS = {
    "transformers": (set(), set()),
    "vllm": (set(), {"vllm"}),
    "server": ({"servers"}, {"server_command", "server_options", "max_failed"}),
}


class ModelConfig(Section):
    """The SFT model, the start and the reference of the run."""

    path: Place | None = key(None, "Folder or Hub id of the SFT model.")
    gguf_file: str | None = key(None, "Name of a GGUF file in `path`; it is converted once.")
    adapter: Place | None = key(None, "PEFT adapter to merge into the model.")
    dtype: Dtype = key(
        "float32",
        "Of policy and reference; 16 bits train in mixed precision, with weights of 32.",
    )
    trust_remote_code: bool = key(False, "Run model code that comes with the policy's Hub repository.")
    parameters: Count | None = key(None, "Number of its weights, for plans without the Hub.")

    def at(self, path: str | Path) -> "ModelConfig":
        """The same settings for the policy in another folder, which is whole: no GGUF file, no adapter."""
        return self.model_copy(update={"path": str(path), "gguf_file": None, "adapter": None})


class GenerationConfig(Section):
    """How the policy answers the prompts of a round (in the paper: 2 responses, T = 0.7, at most 300 tokens)."""

    backend: Backend = key("transformers", "In process, vLLM in a process of its own, or servers with the OpenAI API.")
    candidates: Annotated[int, Field(ge=2)] = key(2, "Responses per prompt.")
    temperature: Positive = key(0.7, "Sampling temperature.")
    top_p: PositiveShare = key(1.0, "Nucleus sampling; 1 is off.")
    max_new_tokens: Count = key(300, "A response that reaches it is unfinished and dropped.")
    stop: list[Annotated[str, Field(min_length=1)]] = key(
        [], "Texts that end a response, in addition to the policy's end-of-sequence token."
    )
    batch_size: Count = key(32, "Responses generated at once in process.")
    shard_size: Count = key(512, "Prompts per shard; an interrupted run repeats at most one shard per process.")
    vllm: VLLMOptions = key(VLLMOptions(), "How vLLM is started, by the keys of generation.vllm in a recipe.")
    servers: list[str] = key([], "Base URLs, such as http://localhost:8000/v1, with backend `server`.")
    server_command: str | None = key(
        None, "Starts the servers of the policy in the folder {policy}. null: they run, and load by folder."
    )
    server_dialect: Dialect = key("vllm", "Extra request fields that make a server sample from the unmodified policy.")
    server_options: ServerOptions = key(
        ServerOptions(), "How servers are asked, by the keys of generation.server_options in a recipe."
    )

    max_failed: Share = key(0.2, MAX_FAILED)

    @model_validator(mode="after")
    def _the_backend_has_what_it_needs(self) -> "GenerationConfig":
        self.check_keys("backend", _BACKENDS)
        return self


class HardwareConfig(Section):
    """The hardware that the run is planned for; it only affects the estimates of `--dry-run`."""

    devices: Count = key(1, "Accelerators, over all nodes.")
    memory_gib: Positive = key(80.0, "Memory of one, in GiB.")
    teraflops: Positive = key(312.0, "Peak of one in the run's dtype, in 10^12 operations a second.")
    utilisation: PositiveShare = key(0.4, "Share of the peak while scoring and training.")
    generation_utilisation: PositiveShare = key(0.1, "Share of the peak while generating.")
