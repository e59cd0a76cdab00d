"""Evaluations: `evaluate` in a recipe and `sgpo eval` fill the same record."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from sgpo.choices import EvaluationKind
from sgpo.config.options import JudgeOptions, RewardOptions
from sgpo.config.section import MAX_FAILED, Count, NotNegative, PositiveShare, Section, Share, key, validate

_SAMPLED = {"temperature", "top_p", "max_new_tokens", "max_failed"}
# What each kind needs, and what else it takes.
_KINDS = {
    "alpaca": ({"instructions"}, {"split", *_SAMPLED}),
    "mt_bench": ({"questions"}, {"max_new_tokens", "max_failed"}),
    "judge": (
        {"prompts", "model", "servers"},
        {"split", "baseline", "template", "logprobs", "options", "retry_failed", *_SAMPLED},
    ),
    "reward": ({"prompts"}, {"split", "baseline", "model", "function", "options", *_SAMPLED}),
    "ifeval": ({"prompts"}, {"split", "baseline", *_SAMPLED}),
    "preferences": ({"pairs"}, {"split", "source_column", "certificate"}),
}
_OPTIONS = {"judge": JudgeOptions, "reward": RewardOptions}


class EvaluateConfig(Section):
    """One evaluation: after each round of a run, or by `sgpo eval`."""

    kind: EvaluationKind = key(..., "As `sgpo eval` has them.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] | None = key(
        None, "Name of the results and their folder; defaults to the kind."
    )
    instructions: str | None = key(None, "AlpacaEval's instructions, for `alpaca`.")
    questions: str | None = key(None, "FastChat's question.jsonl, for `mt_bench`.")
    prompts: str | None = key(None, "Prompts of `judge`, `reward` and `ifeval`, each once.")
    pairs: str | None = key(None, "Held-out human pairs, for `preferences`.")
    split: str | None = key(None, "Split of instructions, prompts or pairs; defaults to train.")
    source_column: str | None = key(None, "Column with the source of each pair; defaults to `source`, if there is one.")
    baseline: str | None = key(
        None, "What `judge`, `reward` and `ifeval` compare with: answers or a policy; defaults to the SFT model."
    )
    model: str | None = key(None, "Folder or Hub id of the reward model, or the judge's name.")
    function: str | None = key(None, "Function instead of a reward model, as in `annotation`.")
    servers: list[str] = key([], "Base URLs of the judge.")
    template: str | None = key(None, "File with the judge's prompt; defaults to a built-in one.")
    logprobs: bool = key(False, "Weight the judge's wins by log-probabilities.")
    certificate: bool = key(False, "Certify `preferences` with the round's own pairs (PAPER.md D7).")
    temperature: NotNegative = key(0.7, "Of the answers; defaults to 0 for `ifeval`, and `mt_bench` has its own.")
    top_p: PositiveShare = key(1.0, "Nucleus sampling of the answers; 1 is off.")
    max_new_tokens: Count = key(1024, "Most new tokens of an answer.")
    max_failed: Share = key(0.2, MAX_FAILED)
    retry_failed: bool = key(False, "Ask a judge again for what failed before, and the policies for missing answers.")
    options: dict[str, Any] = key(
        {},
        f"Of the judge: {', '.join(JudgeOptions.model_fields)}. "
        f"Of the reward model: {', '.join(RewardOptions.model_fields)}.",
    )

    @property
    def title(self) -> str:
        """The name of its results."""
        return self.name or self.kind

    @property
    def read_options(self) -> Section:
        """`options` in the section of the kind; one without keys if it takes none."""
        return validate(_OPTIONS.get(self.kind, Section), self.options, "options")

    @staticmethod
    def keys_of(kind: EvaluationKind) -> list[str]:
        """The keys that a kind takes, `kind` and `name` aside."""
        return [key for key in EvaluateConfig.model_fields if key in set.union(*_KINDS[kind])]

    @model_validator(mode="before")
    @classmethod
    def _ifeval_is_greedy(cls, content: Any) -> Any:
        greedy = isinstance(content, dict) and content.get("kind") == "ifeval"
        return {"temperature": 0.0, **content} if greedy else content

    @model_validator(mode="after")
    def _the_kind_has_what_it_needs(self) -> "EvaluateConfig":
        self.check_keys("kind", _KINDS)
        if self.kind == "reward" and bool(self.model) == bool(self.function):
            raise ValueError("kind 'reward' needs model or function, and one of them")
        if self.function and self.options:
            raise ValueError(f"options is {self.options!r} with a function, which takes none")
        _ = self.read_options
        return self
