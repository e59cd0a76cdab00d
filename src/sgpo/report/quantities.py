"""What the report shows of a round: one table of quantities for its columns, figures, verdict and alerts."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sgpo.report.read import RunRecord
from sgpo.store.records import Follower, Record, RoundMetrics


class Estimate(NamedTuple):
    """A value, its 95% interval, and the number of prompts or pairs it is taken over; None: it has none."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None

    @property
    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None

    def __str__(self) -> str:
        return f"{self.value:.3f} (95% interval {self.low:.3f}\N{EN DASH}{self.high:.3f})"


Reader = Callable[[RoundMetrics], Estimate | None]


class Chart(NamedTuple):
    """A figure by round: title, caption, label of the axis, and of the line at 1/2; no line: the axis starts at 0."""

    title: str
    reading: str
    axis: str
    middle: str = ""


class Claim(NamedTuple):
    """What a share says of a round if it is clearly above or below 1/2, what it cannot be told from, what it counts."""

    better: str
    worse: str
    rival: str
    counted: str


class Quantity(NamedTuple):
    """A number of a round.

    Attributes:
        title: heading of its column; meaning: a phrase that explains it.
        read: its estimate in the metrics of a round, None where the round has none.
        sft: its value for the SFT model, where that is known without measuring.
    """

    title: str
    meaning: str
    read: Reader
    chart: Chart | None = None
    claim: Claim | None = None
    sft: float | None = None
    digits: int = 3


def find_quantities(record: RunRecord) -> list[Quantity]:
    """The quantities that at least one round has: win rates first, then accuracies, then what explains them."""
    kinds = _kinds(record)
    win_rates = (_win_rate(record, name, kind) for name, kind in kinds.items() if kind in ("reward", "judge"))
    accuracies = (
        _accuracy(f"{name} accuracy", f"the human pairs of {name}", _evaluation(name, "value", "count"))
        for name, kind in kinds.items()
        if kind == "preferences"
    )
    everything = [
        *win_rates,
        _accuracy("held-out accuracy", "held-out human pairs", _held_out),
        *accuracies,
        *map(_agreement, kinds),
        Quantity("mean gap", "mean implicit reward of chosen minus rejected, in nats", _mean_gap),
        *find_lengths(record),
        *map(_divergence, kinds),
        *_follower_quantities(record),
    ]
    return _seen(record, everything)


def find_lengths(record: RunRecord) -> list[Quantity]:
    """Mean lengths of the policy's answers in the evaluations, or else of the responses that were annotated."""
    answers = (
        _length(f"{name} tokens", f"mean length of the policy's answers in {name}", _evaluation(name, "tokens"))
        for name in _kinds(record)
    )
    return _seen(record, answers) or _seen(
        record, [_length("mean tokens", "mean length of the responses annotated in the round", _annotated_tokens)]
    )


def follower_answers(metrics: RoundMetrics) -> dict[str, Follower]:
    """The follower's answers in a round by source of pairs; one answer, under "", if the sources share a radius."""
    follower = metrics.follower
    return {} if follower is None else follower.by_source or {"": follower}


def _kinds(record: RunRecord) -> dict[str, str]:
    """The kinds of the evaluations by name, in the recipe's order."""
    return {name: headline.kind for metrics in record.rounds for name, headline in metrics.evaluations.items()}


def _seen(record: RunRecord, quantities: Iterable[Quantity]) -> list[Quantity]:
    return [one for one in quantities if any(one.read(metrics) is not None for metrics in record.rounds)]


def _estimate(block: Record | None, field: str, count: str | None = None) -> Estimate | None:
    """A field of a block of the metrics; where `count` is named, with its interval and that count."""
    value = getattr(block, field, None)
    if value is None or count is None:
        return None if value is None else Estimate(value)
    return Estimate(value, block.low, block.high, getattr(block, count))


def _evaluation(name: str, field: str, count: str | None = None) -> Reader:
    return lambda metrics: _estimate(metrics.evaluations.get(name), field, count)


def _win_rate(record: RunRecord, name: str, kind: str) -> Quantity:
    baseline = record.baseline(name)
    rival = baseline or "the SFT model"
    return Quantity(
        f"{name} win rate",
        f"share of prompts on which the {kind} prefers the policy to {rival}; ties count half",
        _evaluation(name, "value", "count"),
        Chart(
            f"Win rate against {rival} ({name})",
            f"Share of prompts on which the {kind} prefers the policy to {rival}. Bars are 95% intervals; rounds whose "
            "bars overlap do not differ clearly.",
            "win rate",
            "baseline" if baseline else "SFT model",
        ),
        Claim(f"beats {rival}", f"is worse than {rival}", rival, "prompts"),
        sft=None if baseline else 0.5,
    )


def _accuracy(title: str, pairs: str, read: Reader) -> Quantity:
    return Quantity(
        title,
        f"share of {pairs} that the policy's implicit reward orders correctly",
        read,
        Chart(
            f"Accuracy on {pairs}",
            f"Share of {pairs} in which the policy's implicit reward prefers the response that the human preferred. "
            "The dashed line is chance; bars are 95% intervals.",
            "accuracy",
            "chance",
        ),
        Claim(f"orders {pairs} better than chance", f"orders {pairs} worse than chance", f"chance on {pairs}", "pairs"),
    )


def _agreement(name: str) -> Quantity:
    return Quantity(
        f"agrees with {name}",
        f"share of the round's self-annotated pairs whose order the reward of {name} shares",
        _evaluation(name, "agreement"),
        Chart(
            f"Agreement of the annotation with the reward ({name})",
            "Share of self-annotated pairs whose order the reward shares. Below the dashed line the labels mislead.",
            "agreement",
            "chance",
        ),
    )


def _length(title: str, meaning: str, read: Reader) -> Quantity:
    reading = f"The {meaning}. Responses that keep growing may win by length alone."
    return Quantity(title, meaning, read, Chart("Length of responses", reading, "mean length (tokens)"), digits=1)


def _divergence(name: str) -> Quantity:
    return Quantity(
        f"{name} KL",
        f"KL divergence from the SFT model in nats per response, estimated on the answers in {name}",
        _evaluation(name, "kl"),
        Chart(
            f"KL divergence from the SFT model ({name})",
            "How far the policy has moved from the SFT model. A divergence that grows while the win rate does not is a "
            "sign of overoptimisation.",
            "KL divergence (nats)",
        ),
        sft=0.0,
    )


def _follower_quantities(record: RunRecord) -> list[Quantity]:
    unit = "nat" if record.config["follower"]["space"] == "margin" else "unit of probability"
    meanings = {
        "value": ("robust value", "worst-case mean loss in the ball, in nats"),
        "price": ("price of radius", f"increase of the robust value per unit of radius, in nats per {unit}"),
        "moved_share": ("moved share", "share of the pairs that the worst case moves"),
    }
    return [
        Quantity(title, meaning, lambda metrics, field=field: _estimate(metrics.follower, field))
        for field, (title, meaning) in meanings.items()
    ]


def _held_out(metrics: RoundMetrics) -> Estimate | None:
    return _estimate(metrics.heldout, "accuracy", "pairs")


def _mean_gap(metrics: RoundMetrics) -> Estimate | None:
    return _estimate(metrics.annotation, "gap_mean")


def _annotated_tokens(metrics: RoundMetrics) -> Estimate | None:
    return _estimate(metrics.annotation, "response_tokens")
