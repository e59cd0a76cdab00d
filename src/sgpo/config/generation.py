"""How responses are generated."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sgpo.choices import Backend, Dialect
from sgpo.config.section import Count, Positive, Section


class GenerationConfig(Section):
    """How the policy answers the prompts of a round (in the paper: 2 responses, T = 0.7, at most 300 tokens)."""

    backend: Backend = Field(
        "transformers", description="In process, vLLM in a process of its own, or servers with the OpenAI API."
    )
    candidates: Annotated[int, Field(ge=2)] = Field(2, description="Responses per prompt.")
    temperature: Positive = Field(0.7, description="Sampling temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Nucleus sampling; 1 is off.")
    max_new_tokens: Count = Field(300, description="A response that reaches it is unfinished and dropped.")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="Texts that end a response, in addition to the policy's end-of-sequence token.",
    )
    batch_size: Count = Field(32, description="Responses generated at once in process.")
    shard_size: Count = Field(
        512, description="Prompts per shard; an interrupted run repeats at most one shard per process."
    )
    vllm: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of VLLMGenerator, such as python or tensor_parallel_size."
    )
    servers: list[str] = Field(
        default_factory=list, description="Base URLs, such as http://localhost:8000/v1, with backend `server`."
    )
    server_command: str | None = Field(
        None,
        description="Starts the servers of the policy in the folder {policy}. null: they run, and load by folder.",
    )
    server_dialect: Dialect = Field(
        "vllm", description="Extra request fields that make a server sample from the unmodified policy."
    )
    server_options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of ServerPool, such as timeout, retries, concurrency."
    )

    @model_validator(mode="after")
    def _servers_go_with_their_backend(self) -> "GenerationConfig":
        if (self.backend == "server") != bool(self.servers):
            raise ValueError(
                f"servers is {self.servers} with backend={self.backend!r}; allowed: at least one URL with backend "
                "'server', none otherwise"
            )
        if self.backend != "server" and (self.server_command or self.server_options):
            raise ValueError(f"server_command or server_options with backend={self.backend!r}; allowed: 'server'")
        if self.backend != "vllm" and self.vllm:
            raise ValueError(f"vllm is {self.vllm} with backend={self.backend!r}; allowed: backend 'vllm'")
        return self
