"""Evaluations: `evaluate` in a recipe and `sgpo eval` fill the same record."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sgpo.choices import Dtype, EvaluationKind
from sgpo.config.check import validate
from sgpo.config.section import Count, NotNegative, Positive, Section
from sgpo.errors import InputError

_SAMPLED = frozenset({"temperature", "top_p", "max_new_tokens"})
_NEEDS = {
    "alpaca": {"instructions"},
    "mt_bench": {"questions"},
    "judge": {"prompts", "model", "servers"},
    "reward": {"prompts"},
    "preferences": {"pairs"},
}
_MAY_HAVE = {
    "alpaca": {"split", *_SAMPLED},
    "mt_bench": {"max_new_tokens"},
    "judge": {"split", "baseline", "template", "logprobs", "options", *_SAMPLED},
    "reward": {"split", "baseline", "model", "function", "options", *_SAMPLED},
    "preferences": {"split", "source_column", "certificate"},
}


class ServerOptions(Section):
    """How servers are asked; null is the default of `ServerPool`."""

    timeout: Positive | None = Field(None, description="Seconds for one attempt.")
    retries: Annotated[int, Field(ge=0)] | None = Field(None, description="Further attempts of a request.")
    concurrency: Count | None = Field(None, description="Open requests at each server.")
    pause: Positive | None = Field(None, description="Seconds that a server rests after its first failure.")

    def connection(self) -> dict[str, Any]:
        """The arguments of `ServerPool` that are set."""
        values = {name: getattr(self, name) for name in ServerOptions.model_fields}
        return {name: value for name, value in values.items() if value is not None}


class VerdictOptions(Section):
    """How an LLM judge is asked for a verdict."""

    max_tokens: Count = Field(256, description="Most tokens of a verdict in words.")
    temperature: NotNegative = Field(0.0, description="Sampling temperature of the judge.")
    seed: int = Field(0, description="Sent with every request to the judge.")
    request: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of a request; null removes a field."
    )


class JudgeOptions(ServerOptions, VerdictOptions):
    """How an LLM judge and its servers are asked."""


class RewardOptions(Section):
    """How a reward model is loaded; null is the default of `RewardModel`."""

    label: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Which output is the reward, if there are several."
    )
    max_length: Count | None = Field(None, description="Tokens of prompt and response that it reads.")
    batch_tokens: Count | None = Field(None, description="Most tokens of a batch, padding included.")
    dtype: Dtype | None = Field(None, description="Dtype of its weights.")
    device: str | None = Field(None, description="Device, such as cuda:1.")
    trust_remote_code: bool | None = Field(None, description="Run model code that comes with a Hub repository.")


class EvaluateConfig(Section):
    """One evaluation: after each round of a run, or by `sgpo eval`."""

    kind: EvaluationKind = Field(description="As `sgpo eval` has them.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] | None = Field(
        None, description="Name of the results and their folder; defaults to the kind."
    )
    instructions: str | None = Field(None, description="AlpacaEval's instructions, for `alpaca`.")
    questions: str | None = Field(None, description="FastChat's question.jsonl, for `mt_bench`.")
    prompts: str | None = Field(None, description="Prompts of `judge` and `reward`, each once.")
    pairs: str | None = Field(None, description="Held-out human pairs, for `preferences`.")
    split: str | None = Field(None, description="Split of instructions, prompts or pairs; defaults to train.")
    source_column: str | None = Field(
        None, description="Column with the source of each pair; defaults to `source`, if there is one."
    )
    baseline: str | None = Field(
        None, description="What `judge` and `reward` compare with: answers or a policy; defaults to the SFT model."
    )
    model: str | None = Field(None, description="Folder or Hub id of the reward model, or the judge's name.")
    function: str | None = Field(None, description="Function instead of a reward model, as in `annotation`.")
    servers: list[str] = Field(default_factory=list, description="Base URLs of the judge.")
    template: str | None = Field(None, description="File with the judge's prompt; defaults to a built-in one.")
    logprobs: bool = Field(False, description="Weight the judge's wins by log-probabilities.")
    certificate: bool = Field(False, description="Certify `preferences` with the round's own pairs (PAPER.md D7).")
    temperature: NotNegative = Field(0.7, description="Sampling temperature of the answers; `mt_bench` has its own.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Nucleus sampling of the answers; 1 is off.")
    max_new_tokens: Count = Field(1024, description="Most new tokens of an answer.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description=f"Of the judge: {', '.join(JudgeOptions.model_fields)}. "
        f"Of the reward model: {', '.join(RewardOptions.model_fields)}.",
    )

    @property
    def title(self) -> str:
        """The name of its results."""
        return self.name or self.kind

    @property
    def judge_options(self) -> JudgeOptions:
        """`options` of kind `judge`."""
        return validate(JudgeOptions, self.options, "options")

    @property
    def reward_options(self) -> RewardOptions:
        """`options` of kind `reward`."""
        return validate(RewardOptions, self.options, "options")

    @staticmethod
    def keys_of(kind: EvaluationKind) -> list[str]:
        """The keys that a kind takes, `kind` and `name` aside."""
        return [key for key in EvaluateConfig.model_fields if key in _NEEDS[kind] | _MAY_HAVE[kind]]

    @model_validator(mode="after")
    def _the_kind_has_what_it_needs(self) -> "EvaluateConfig":
        for key, field in type(self).model_fields.items():
            value, default = getattr(self, key), field.get_default(call_default_factory=True)
            if key in _NEEDS[self.kind] and not value:
                raise ValueError(f"{key} is missing; kind {self.kind!r} needs it")
            if key not in {"kind", "name", *self.keys_of(self.kind)} and value != default:
                raise ValueError(f"{key} is {value!r} with kind {self.kind!r}, which takes none")
        if self.kind == "reward" and bool(self.model) == bool(self.function):
            raise ValueError("kind 'reward' needs model or function, and one of them")
        if self.function and self.options:
            raise ValueError(f"options is {self.options!r} with a function, which takes none")
        try:
            _ = self.judge_options if self.kind == "judge" else self.reward_options
        except InputError as error:
            raise ValueError(str(error).removesuffix(".")) from error
        return self
