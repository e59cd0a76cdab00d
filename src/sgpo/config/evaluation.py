"""What is measured after each round."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sgpo.config.section import Count, NotNegative, Section


class EvaluateConfig(Section):
    """One evaluation that a run makes after each round, as `sgpo eval` would."""

    kind: Literal["alpaca", "mt_bench", "judge", "reward", "preferences"] = Field(
        description="As `sgpo eval` has them."
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] | None = Field(
        None, description="Names its results and its folder; null: the kind."
    )
    instructions: str | None = Field(None, description="AlpacaEval's instructions, of `alpaca`.")
    questions: str | None = Field(None, description="FastChat's question.jsonl, of `mt_bench`.")
    prompts: str | None = Field(None, description="Prompts of `judge` and `reward`, each once.")
    pairs: str | None = Field(None, description="Held-out human pairs, of `preferences`.")
    baseline: str | None = Field(
        None, description="What `judge` and `reward` compare with: answers or a policy; null: the SFT model."
    )
    model: str | None = Field(None, description="The reward model's folder or Hub id, or the judge's name.")
    function: str | None = Field(None, description="In place of a reward model: as in `annotation`.")
    servers: list[str] = Field(default_factory=list, description="Base URLs of the judge.")
    template: str | None = Field(None, description="File with the judge's prompt; null: one that comes along.")
    logprobs: bool = Field(False, description="Weigh the judge's wins by log-probabilities.")
    certificate: bool = Field(False, description="Certify `preferences` with the round's own pairs (PAPER.md D7).")
    temperature: NotNegative = Field(0.7, description="Of the policy's answers; `mt_bench` has its own.")
    max_new_tokens: Count = Field(1024, description="Of one answer.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of PairwiseJudge and ServerPool, or of RewardModel."
    )

    @property
    def title(self) -> str:
        """What its results are filed under."""
        return self.name or self.kind

    @model_validator(mode="after")
    def _the_kind_has_what_it_needs(self) -> "EvaluateConfig":
        needs = {
            "alpaca": {"instructions"},
            "mt_bench": {"questions"},
            "judge": {"prompts", "model", "servers"},
            "reward": {"prompts"},
            "preferences": {"pairs"},
        }[self.kind]
        may = {
            "alpaca": {"temperature", "max_new_tokens"},
            "mt_bench": {"max_new_tokens"},
            "judge": {"baseline", "template", "logprobs", "options", "temperature", "max_new_tokens"},
            "reward": {"baseline", "model", "function", "options", "temperature", "max_new_tokens"},
            "preferences": {"certificate"},
        }[self.kind]
        for key, field in type(self).model_fields.items():
            value, default = getattr(self, key), field.get_default(call_default_factory=True)
            if key in needs and not value:
                raise ValueError(f"{key} is missing; kind {self.kind!r} needs it")
            if key not in needs | may | {"kind", "name"} and value != default:
                raise ValueError(f"{key} is {value!r} with kind {self.kind!r}, which takes none")
        if self.kind == "reward" and bool(self.model) == bool(self.function):
            raise ValueError("kind 'reward' needs model or function, and one of them")
        if self.function and self.options:
            raise ValueError(f"options is {self.options!r} with a function, which takes none")
        return self
