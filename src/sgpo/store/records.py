"""What a run's JSON files hold: the records that the loop writes and the report reads.

Keys beyond those named here are kept, so that a run of a newer version can still be read.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sgpo.errors import InputError
from sgpo.store.files import read_json, write_json


def _without_surrogates(value: Any) -> Any:
    """JSON can hold halves of surrogate pairs, which UTF-8 cannot."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, BeforeValidator(_without_surrogates)]
_Kind = TypeVar("_Kind", bound="Record")


class Record(BaseModel):
    """Part of a run's JSON: frozen; numbers are finite or null."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, protected_namespaces=())

    def write(self, path: Path) -> None:
        """Writes the values that were set, as JSON."""
        write_json(path, self.model_dump(mode="json", exclude_unset=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file.

        Raises:
            InputError: no such file, or a value that no run writes; names file and key.
        """
        return parse_record(cls, read_json(path), str(path))


def parse_record(kind: type[_Kind], content: Any, where: str) -> _Kind:
    """A record from JSON values.

    Raises:
        InputError: a value that no run writes; names the file or line `where`, and the key.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or kind.__name__
        found = "" if first["type"] == "missing" else f" is {_shorten(first['input'])}"
        raise InputError(f"{where}: {key}{found}: {first['msg']}; allowed: what sgpo run writes.") from error


class Annotation(Record):
    """Self-annotation of a round.

    Attributes:
        prompts, responses: of the round; paired: prompts that gave a pair; pairs: made of them.
        dropped: prompts without a pair, by reason.
        response_tokens: mean length of the responses; gap_mean: mean gap of the round's own pairs, in nats.
    """

    prompts: Count
    responses: Count
    pairs: Count
    paired: Count | None = None
    dropped: dict[str, Count] = {}
    response_tokens: float | None = None
    gap_mean: float | None = None


class Follower(Record):
    """The follower's answer to a round's pairs, and its settings.

    Attributes:
        value, empirical_value: robust and mean loss, in nats; price: d value / d radius.
        moved_share: share of the pairs' mass that the worst case moves; marginal: the lowest gap that stays.
        radius, window, marginal: in the unit of the gap space.
        by_source: one answer per source of pairs, where each source has its own radius.
    """

    radius: float | None = None
    value: float | None = None
    empirical_value: float | None = None
    price: float | None = None
    moved_share: float | None = None
    marginal: float | None = None
    window: tuple[float, float] | None = None
    by_source: dict[str, Self] | None = None


class Leader(Record):
    """The leader's training in a round: first and last logged loss, and mean log-probabilities at its end, in nats."""

    steps: Count | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    chosen_logps: float | None = None
    rejected_logps: float | None = None
    reference_chosen_logps: float | None = None
    reward_accuracy: float | None = None


class HeldOut(Record):
    """Share of held-out human pairs that the policy's implicit reward orders as people did, with its 95% interval."""

    accuracy: float
    low: float | None = None
    high: float | None = None
    pairs: Count | None = None


class Headline(Record):
    """One evaluation of a round in short; the whole result is in the evaluation's own folder.

    Attributes:
        kind: of the evaluation.
        value, low, high: win rate or accuracy with its 95% interval; null if the kind has none.
        count: prompts or pairs that it is taken over.
        kl: mean of log pi - log pi_ref over the policy's own answers, in nats per answer.
        agreement: share of the round's self-annotated pairs whose order the reward shares, ties counted half.
        tokens: mean length of the policy's answers.
    """

    kind: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: Count = 0
    kl: float | None = None
    agreement: float | None = None
    tokens: float | None = None


class Tried(Record):
    """One radius that was tried for a round, and whether held-out human pairs accept the policy."""

    radius: float
    accepted: bool
    reason: str
    change: float | None = None
    standard_error: float | None = None
    accuracy: float | None = None


class Decision(Record):
    """decision.json: whether a round was taken; place: index of the radius chosen, null where none was."""

    place: int | None
    radius: float
    accepted: bool
    accuracy_before: float | None = None
    pairs: Count
    tried: list[Tried]


class RoundMetrics(Record):
    """metrics.json: the numbers of a finished round.

    Attributes:
        round: its number; 0 is DPO on the seeds, and the recipe's rounds + 1 the last DPO on all human pairs.
        name: as the report has it; seconds: that its stages took.
        evaluations: by name, what the recipe's `evaluate` measured.
    """

    round: int
    name: str
    seconds: float | None = None
    annotation: Annotation | None = None
    follower: Follower | None = None
    leader: Leader | None = None
    heldout: HeldOut | None = None
    decision: Decision | None = None
    evaluations: dict[str, Headline] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_gold_as_an_evaluation(cls, content: Any) -> Any:
        """Older runs keep the reward evaluation of the embedded world in a block `gold`."""
        if not isinstance(content, dict) or content.get("gold") is None:
            return content
        content = dict(content)
        gold, evaluations = content.pop("gold"), content.get("evaluations", {})
        if isinstance(gold, dict):
            today = {"win_rate": "value", "prompts": "count", "response_tokens": "tokens"}
            gold = {today.get(key, key): value for key, value in gold.items() if value is not None}
            gold["kind"] = "reward"
        return {
            **content,
            "evaluations": {"gold": gold, **evaluations} if isinstance(evaluations, dict) else evaluations,
        }


class Evidence(Record):
    """What held-out human pairs say of a round's policy, and what its p-value had to stay below."""

    round: Count
    score: float
    p_value: float
    threshold: float
    accuracy: float


class Shipped(Record):
    """shipped.json: which policy a run ships.

    Attributes:
        round: its round; null: the SFT model.
        path: its folder in the run directory, or the SFT model.
        pairs, enough: held-out human pairs that chose, and how many it takes to say something.
        level: of the last round's test.
        rounds: the evidence for each round, in order.
    """

    round: Count | None
    path: str
    pairs: Count
    enough: Count
    level: float | None = None
    rounds: list[Evidence]

    @model_validator(mode="after")
    def _the_round_is_one_of_those_tested(self) -> Self:
        numbers = [one.round for one in self.rounds]
        if numbers != list(range(len(numbers))) or (self.round is not None and self.round >= len(numbers)):
            raise ValueError(f"round is {self.round} of {numbers}")
        return self


class StageEntry(Record):
    """A finished stage in the manifest."""

    seconds: float


class Manifest(Record):
    """manifest.json: the command and the versions that made a run, and its finished stages in order."""

    sgpo: str = "?"
    command: list[str] = []
    created: str = "at an unknown time"
    versions: dict[str, str] = {}
    stages: dict[str, StageEntry] = {}


class Sample(Record):
    """A line of samples.jsonl: a prompt with the policy's answer and the baseline's, and their rewards."""

    prompt: Text
    response: Text
    baseline: Text
    reward: float
    baseline_reward: float


def _shorten(value: Any) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
