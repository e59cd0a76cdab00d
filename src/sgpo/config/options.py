"""Options of vLLM, servers, judges and models that rank, for every section of a recipe that takes them."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from sgpo.choices import Dtype, Pooling
from sgpo.config.section import Count, CountOrZero, NotNegative, Positive, PositiveShare, Section, key


class VLLMOptions(Section):
    """How vLLM is started, in a process of its own."""

    python: str | Path | None = key(None, "Interpreter of an environment that has vLLM; null: the current one.")
    dtype: Dtype | None = key(None, "Dtype of the weights, float32 as float16; null: `model.dtype`.")
    tensor_parallel_size: Count = key(1, "GPUs that share the model.")
    gpu_memory_utilization: PositiveShare = key(0.9, "Share of a GPU's memory that vLLM may use.")
    max_model_len: Annotated[int, Field(ge=2)] | None = key(
        None, "Longest prompt and response together, in tokens; null: the model's context."
    )
    trust_remote_code: bool | None = key(None, "As in `model`; null: `model.trust_remote_code`.")
    engine: dict[str, Any] = key({}, "Further arguments of `vllm.LLM`, such as enforce_eager.")
    grace: NotNegative = key(30, "Seconds between SIGTERM and SIGKILL for what does not end with the context.")

    @model_validator(mode="after")
    def _set_once(self) -> "VLLMOptions":
        if twice := sorted({"model", *VLLMOptions.model_fields} & self.engine.keys()):
            raise ValueError(f"engine has {', '.join(twice)}; allowed: arguments that are set nowhere else")
        return self


class ServerOptions(Section):
    """How servers are asked; null is the default of `ServerPool`."""

    timeout: Positive | None = key(None, "Seconds for one attempt.")
    retries: CountOrZero | None = key(None, "Further attempts of a request.")
    concurrency: Count | None = key(None, "Open requests at each server.")
    pause: Positive | None = key(None, "Seconds that a server rests after its first failure.")

    @model_validator(mode="before")
    @classmethod
    def _without_key(cls, content: Any) -> Any:
        if isinstance(content, dict) and "api_key" in content:
            raise ValueError("api_key would be stored with the recipe; allowed: the environment's OPENAI_API_KEY")
        return content

    def connection(self) -> dict[str, Any]:
        """The arguments of `ServerPool` that are set."""
        return self.model_dump(include=set(ServerOptions.model_fields), exclude_none=True)


class VerdictOptions(Section):
    """How an LLM judge is asked for a verdict."""

    max_tokens: Count = key(256, "Most tokens of a verdict in words.")
    temperature: NotNegative = key(0.0, "Sampling temperature of the judge.")
    seed: int = key(0, "Sent with every request to the judge.")
    request: dict[str, Any] = key({}, "Further fields of a request; null removes a field.")
    max_chars: Count | None = key(None, "Comparisons whose request has more characters are not asked for; null: none.")


class JudgeOptions(ServerOptions, VerdictOptions):
    """How an LLM judge and its servers are asked."""


class RankerOptions(Section):
    """How a model that ranks responses is loaded and asked."""

    batch_tokens: Count = key(8192, "Most tokens of a batch, padding included; a longer input is a batch of its own.")
    dtype: Dtype = key("float32", "Dtype of its weights.")
    device: str | None = key(None, "Device, such as cuda:1; null: CUDA if there is any.")


class HeadsOptions(RankerOptions):
    """How reward heads are fitted on the seeds and asked."""

    heads: Count = key(5, "Heads, each fitted on a bootstrap sample of the seeds.")
    penalty: NotNegative = key(0.5, "Standard deviations over the heads that are subtracted from their mean.")
    regularisation: Positive | None = key(None, "Weight of the squared norm; null: by cross-validation on the seeds.")
    pooling: Pooling | None = key(None, "State of the last token, mean over all, or null: cross-validation chooses.")


class RewardOptions(RankerOptions):
    """How a reward model is loaded and asked."""

    label: CountOrZero | None = key(None, "Which output is the reward; null: the only one.")
    max_length: Annotated[int, Field(ge=2)] | None = key(
        None, "Tokens of prompt and response that it reads; null: the lower limit of model and tokenizer."
    )
    trust_remote_code: bool = key(False, "Run model code that comes with its own Hub repository.")


class PairRankerOptions(RankerOptions):
    """How a pair ranker is loaded and asked."""

    source_max_length: Annotated[int, Field(ge=4)] = key(1224, "Tokens of a prompt, its three special tokens included.")
    candidate_max_length: Annotated[int, Field(ge=4)] = key(412, "Tokens reserved for each response.")
