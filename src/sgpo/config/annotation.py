"""How the responses of a round become pairs."""

from typing import Any

from pydantic import Field, model_validator

from sgpo.choices import AnnotatorName, PairChoice
from sgpo.config.section import NotNegative, Section


class AnnotationConfig(Section):
    """The annotator that ranks the responses of a prompt, and which of them make a pair."""

    annotator: AnnotatorName = Field(
        "implicit", description="The policy's own implicit reward (the paper), a model, an LLM judge, or a function."
    )
    model: str | None = Field(
        None, description="Folder or Hub id of the reward model or pair ranker, or the judge's model name."
    )
    function: str | None = Field(None, description="`package.module:function` or `file.py:function`.")
    servers: list[str] = Field(default_factory=list, description="Base URLs of the judge.")
    template: str | None = Field(None, description="File with the judge's prompt; null: the built-in one.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the annotator.")
    choice: PairChoice = Field(
        "best_worst", description="Pairs of a prompt: best and worst, best and a random worse one, or all."
    )
    min_margin: NotNegative = Field(0.0, description="Pairs whose rewards differ by no more than this are dropped.")
    per_token: bool = Field(False, description="Rank by the reward per token.")
    length_penalty: NotNegative = Field(0.0, description="Subtracted from the reward for each token, before ranking.")

    @model_validator(mode="after")
    def _the_annotator_has_what_it_needs(self) -> "AnnotationConfig":
        needs = {
            "implicit": set(),
            "reward_model": {"model"},
            "pair_ranker": {"model"},
            "judge": {"model", "servers"},
            "function": {"function"},
        }[self.annotator]
        may = needs | ({"template"} if self.annotator == "judge" else set())
        may |= {"options"} if self.annotator != "implicit" else set()
        for key in ("model", "function", "servers", "template", "options"):
            value = getattr(self, key)
            if key in needs and not value:
                raise ValueError(f"{key} is missing; annotator {self.annotator!r} needs it")
            if key not in may and value:
                raise ValueError(f"{key} is {value!r} with annotator {self.annotator!r}, which takes none")
        return self
