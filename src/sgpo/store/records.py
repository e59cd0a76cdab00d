"""What a run's JSON files and worst cases hold: the records that the loop writes and the report reads.

Keys beyond those named here are kept, so that a run of a newer version can still be read. Losses, gaps and KL are in
nats, radius and window in the unit of the gap space.
"""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sgpo.errors import InputError
from sgpo.store.files import read_json, write_json


def _without_surrogates(value: Any) -> Any:
    """JSON can hold halves of surrogate pairs, which UTF-8 cannot."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, BeforeValidator(_without_surrogates)]
_Kind = TypeVar("_Kind", bound="Record")
WORST_CASE = "worst_case.parquet"


class Record(BaseModel):
    """Part of a run's JSON: frozen; numbers are finite or null."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, protected_namespaces=())

    def write(self, path: Path) -> None:
        """Writes the values that were set, as JSON."""
        write_json(path, self.model_dump(mode="json", exclude_unset=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file."""
        return parse_record(cls, read_json(path), str(path))


def parse_record(kind: type[_Kind], content: Any, where: str) -> _Kind:
    """A record from JSON values, or an InputError that names `where` and the first key with a value that no run has."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))[:100] or kind.__name__
        shown = json.dumps(first["input"], default=str)
        found = "" if first["type"] == "missing" else f" is {shown if len(shown) <= 60 else f'{shown[:60]}...'}"
        raise InputError(f"{where}: {key}{found}: {first['msg']}; allowed: what sgpo run writes.") from error


class GapTable(NamedTuple):
    """The N pairs of a round in WORST_CASE: (N,) gaps in the gap space, and the share of each that moves, in [0, 1]."""

    point: np.ndarray
    moved: np.ndarray


class Annotation(Record):
    """Self-annotation of a round: `paired` prompts gave a pair, and the others were dropped, by reason."""

    prompts: Count
    responses: Count
    pairs: Count
    paired: Count | None = None
    dropped: dict[str, Count] = {}
    response_tokens: float | None = None
    gap_mean: float | None = None


class Follower(Record):
    """The follower's answer to a round's pairs; with a radius per source, `by_source` has each source's. `price` is d
    value / d radius, `moved_share` the share of the mass that moves, `marginal` the lowest gap that stays."""

    radius: float | None = None
    value: float | None = None
    empirical_value: float | None = None
    price: float | None = None
    moved_share: float | None = None
    marginal: float | None = None
    window: tuple[float, float] | None = None
    by_source: dict[str, Self] | None = None


class Leader(Record):
    """The leader's training in a round: first and last logged loss, and mean log-probabilities at its end."""

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


class Gain(Record):
    """The mean of differences, with its 95% interval."""

    mean: float
    low: float | None = None
    high: float | None = None
    count: Count = 0


class Headline(Record):
    """One evaluation of a round in short: a win rate or accuracy with its 95% interval, over `count` prompts or pairs.
    For a reward also the KL to the SFT model and tokens per answer, its `agreement` with the round's own pairs, and its
    parts by name; for `ifeval` its rates as parts, and by level how much they gain over the baseline's."""

    kind: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: Count = 0
    kl: float | None = None
    agreement: float | None = None
    tokens: float | None = None
    parts: dict[Text, tuple[float, float]] = {}
    gain: dict[Text, Gain] = {}


class Tried(Record):
    """One radius that was tried for a round, and whether held-out human pairs accept the policy."""

    radius: float
    accepted: bool
    reason: str
    change: float | None = None
    standard_error: float | None = None
    accuracy: float | None = None


class Decision(Record):
    """decision.json: whether the round was accepted; place: index of the radius chosen, null if none was."""

    place: int | None
    radius: float
    accepted: bool
    accuracy_before: float | None = None
    pairs: Count
    tried: list[Tried]


class RoundMetrics(Record):
    """metrics.json: a finished round. 0 is DPO on the seeds, with the cross-validation of `heads` on them if they rank;
    rounds + 1 is the last DPO on all human pairs."""

    round: int
    name: str
    seconds: float | None = None
    annotation: Annotation | None = None
    follower: Follower | None = None
    leader: Leader | None = None
    heldout: HeldOut | None = None
    heads: HeldOut | None = None
    decision: Decision | None = None
    evaluations: dict[str, Headline] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_gold_as_an_evaluation(cls, content: Any) -> Any:
        """Older runs keep the reward evaluation of the embedded world in a block `gold`."""
        if not isinstance(content, dict) or content.get("gold") is None:
            return content
        gold, evaluations = content["gold"], content.get("evaluations", {})
        if isinstance(gold, dict):
            today = {"win_rate": "value", "prompts": "count", "response_tokens": "tokens"}
            gold = {today.get(key, key): value for key, value in gold.items() if value is not None} | {"kind": "reward"}
        if isinstance(evaluations, dict):
            evaluations = {"gold": gold, **evaluations}
        return {key: value for key, value in content.items() if key != "gold"} | {"evaluations": evaluations}


class Evidence(Record):
    """What held-out human pairs say of a round's policy, and what its p-value had to stay below."""

    round: Count
    score: float
    p_value: float
    threshold: float
    accuracy: float


class Shipped(Record):
    """shipped.json: the round and the folder of the policy that a run ships (null and its path: the SFT model), chosen
    by `pairs` held-out human pairs, with the evidence for each round; fewer than `enough` are a warning in the
    report."""

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
    """A finished stage in the manifest, with counts of what it made."""

    seconds: float
    finished: str | None = None


class Manifest(Record):
    """manifest.json: the command and the versions that made a run, and its finished stages in order."""

    sgpo: str = "?"
    command: list[str] = []
    created: str = "at an unknown time"
    seed: int | None = None
    versions: dict[str, str] = {}
    stages: dict[str, StageEntry] = {}


class Sample(Record):
    """A line of samples.jsonl: a prompt with the policy's answer and the baseline's, and their rewards."""

    prompt: Text
    response: Text
    baseline: Text
    reward: float
    baseline_reward: float
