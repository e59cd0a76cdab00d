"""How the responses of a round become pairs."""

from typing import Any

from pydantic import model_validator

from sgpo.choices import AnnotatorName, PairChoice
from sgpo.config.options import HeadsOptions, JudgeOptions, PairRankerOptions, RewardOptions
from sgpo.config.section import MAX_FAILED, NotNegative, Section, Share, key, validate

# What each annotator needs, and what else it takes.
_ANNOTATORS = {
    "implicit": (set(), set()),
    "heads": (set(), {"model", "options", "max_failed"}),
    "reward_model": ({"model"}, {"options", "max_failed"}),
    "pair_ranker": ({"model"}, {"options", "max_failed"}),
    "judge": ({"model", "servers"}, {"template", "options", "max_failed", "retry_failed"}),
    "function": ({"function"}, set()),
}
_OPTIONS = {
    "heads": HeadsOptions, "reward_model": RewardOptions, "pair_ranker": PairRankerOptions, "judge": JudgeOptions,
}  # fmt: skip


class AnnotationConfig(Section):
    """The annotator that ranks the responses of a prompt, and which of them make a pair."""

    annotator: AnnotatorName = key(
        "implicit", "The policy's implicit reward (the paper), heads fitted on seeds, a model, judge, or function."
    )
    model: str | None = key(None, "Folder or Hub id of what ranks, or what heads read (null: SFT), or a judge's name.")
    function: str | None = key(None, "`package.module:function` or `file.py:function`.")
    servers: list[str] = key([], "Base URLs of the judge.")
    template: str | None = key(None, "File with the judge's prompt; null: the built-in one.")
    options: dict[str, Any] = key(
        {}, " ".join(f"Of `{name}`: {', '.join(section.model_fields)}." for name, section in _OPTIONS.items())
    )
    choice: PairChoice = key("best_worst", "Pairs of a prompt: best and worst, best and a random worse one, or all.")
    min_margin: NotNegative = key(0.0, "Pairs whose rewards differ by no more than this are dropped.")
    max_failed: Share = key(0.2, MAX_FAILED)
    retry_failed: bool = key(False, "Ask a judge again for what failed before.")
    per_token: bool = key(False, "Rank by the reward per token.")
    length_penalty: NotNegative = key(0.0, "Subtracted from the reward for each token, before ranking.")

    @property
    def read_options(self) -> Section:
        """`options` in the section of the annotator; one without keys if it takes none."""
        return validate(_OPTIONS.get(self.annotator, Section), self.options, "options")

    @model_validator(mode="after")
    def _the_annotator_has_what_it_needs(self) -> "AnnotationConfig":
        self.check_keys("annotator", _ANNOTATORS)
        _ = self.read_options
        if self.per_token and self.length_penalty:
            raise ValueError(f"per_token is true with length_penalty {self.length_penalty}; allowed: one of the two")
        return self
