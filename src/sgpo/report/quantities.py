"""What the report shows of a round: one table of quantities for its columns, figures, verdict and alerts."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sgpo.report.read import RunRecord
from sgpo.store.records import Follower, Record, RoundMetrics


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


class Estimate(NamedTuple):
    """A value, the ends of its 95% interval, and the number of prompts or pairs; empty and None: it has none."""

    value: float
    interval: tuple[float, ...] = ()
    count: int | None = None

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} (95% interval {low:.3f}\N{EN DASH}{high:.3f})"


Reader = Callable[[RoundMetrics], Estimate | None]


class Chart(NamedTuple):
    """A figure by round: title, caption, label of the axis, and of the line at 1/2; no line: the axis starts at 0."""

    title: str
    reading: str
    axis: str
    middle: str = ""


class Claim(NamedTuple):
    """What a number means if it is clearly above or below `even`, what it is compared with, and the unit it counts."""

    better: str
    worse: str
    rival: str
    counted: str
    even: float = 0.5


class Quantity(NamedTuple):
    """A number of a round: heading and explanation of its column, how it is read, and its value for the SFT model."""

    title: str
    meaning: str
    read: Reader
    chart: Chart | None = None
    claim: Claim | None = None
    sft: Estimate | None = None
    digits: int = 3


def find_quantities(record: RunRecord) -> list[Quantity]:
    """The quantities that at least one round has: win rates first, then accuracies, then what explains them."""
    kinds = _kinds(record)
    unit = "nat" if record.config["follower"]["space"] == "margin" else "unit of probability"
    price = f"increase of the robust value per unit of radius, in nats per {unit}"
    gap = "mean implicit reward of chosen minus rejected, in nats"
    everything = [
        *(_win_rate(record, name, kind) for name, kind in kinds.items() if kind in ("reward", "judge")),
        *(quantity for name, kind in kinds.items() if kind == "ifeval" for quantity in _following(record, name)),
        _accuracy("held-out accuracy", "held-out human pairs", _block("heldout", "accuracy", "pairs")),
        *(
            _accuracy(f"{name} accuracy", f"the human pairs of {name}", _evaluation(name, "value", "count"))
            for name, kind in kinds.items()
            if kind == "preferences"
        ),
        *map(_agreement, kinds),
        Quantity("mean gap", gap, _block("annotation", "gap_mean")),
        *find_lengths(record),
        *map(_divergence, kinds),
        Quantity("robust value", "worst-case mean loss in the ball, in nats", _block("follower", "value")),
        Quantity("price of radius", price, _block("follower", "price")),
        Quantity("moved share", "share of the pairs that the worst case moves", _block("follower", "moved_share")),
    ]
    return _seen(record, everything)


def find_lengths(record: RunRecord) -> list[Quantity]:
    """Mean lengths of the policy's answers in the evaluations, or else of the responses that were annotated."""
    answers = (
        _length(f"{name} tokens", f"mean length of the policy's answers in {name}", _evaluation(name, "tokens"))
        for name in _kinds(record)
    )
    meaning, read = "mean length of the responses annotated in the round", _block("annotation", "response_tokens")
    return _seen(record, answers) or _seen(record, [_length("mean tokens", meaning, read)])


def follower_answers(metrics: RoundMetrics) -> dict[str, Follower]:
    """The follower's answers in a round by source of pairs; one answer, under "", if the sources share a radius."""
    follower = metrics.follower
    return {} if follower is None else follower.by_source or {"": follower}


def _kinds(record: RunRecord) -> dict[str, str]:
    """The kinds of the evaluations by name, in the recipe's order."""
    return {name: headline.kind for metrics in record.rounds for name, headline in metrics.evaluations.items()}


def _seen(record: RunRecord, quantities: Iterable[Quantity]) -> list[Quantity]:
    return [one for one in quantities if any(one.read(metrics) is not None for metrics in record.rounds)]


def _evaluation(name: str, field: str, count: str | None = None) -> Reader:
    return lambda metrics: _estimate(metrics.evaluations.get(name), field, count)


def _block(name: str, field: str, count: str | None = None) -> Reader:
    return lambda metrics: _estimate(getattr(metrics, name), field, count)


def _estimate(block: Record | None, field: str, count: str | None) -> Estimate | None:
    """A field of a block of the metrics; where `count` is named, with its interval and that count."""
    value = getattr(block, field, None)
    if value is None or count is None:
        return None if value is None else Estimate(value)
    interval = () if None in (block.low, block.high) else (block.low, block.high)
    return Estimate(value, interval, getattr(block, count))


def _win_rate(record: RunRecord, name: str, kind: str) -> Quantity:
    baseline = record.baseline(name)
    rival = baseline or "the SFT model"
    share = f"share of prompts on which the {kind} prefers the policy to {rival}"
    reading = f"{capital(share)}. Bars are 95% intervals; rounds whose bars overlap do not differ clearly."
    chart = Chart(f"Win rate against {rival} ({name})", reading, "win rate", "baseline" if baseline else "SFT model")
    claim = Claim(f"beats {rival}", f"is worse than {rival}", rival, "prompts")
    read, sft = _evaluation(name, "value", "count"), None if baseline else Estimate(0.5)
    return Quantity(f"{name} win rate", f"{share}; ties count half", read, chart, claim, sft)


def _following(record: RunRecord, name: str) -> list[Quantity]:
    """How many prompts of IFEval are followed, and how many more of their instructions than by the baseline."""
    rival, followed = (
        record.baseline(name) or "the SFT model",
        f"share of the prompts of {name} that are followed whole",
    )
    meaning = f"share of the instructions of {name} that are followed, less that of {rival}"
    chart = Chart(f"Following instructions ({name})", f"{capital(followed)}, with 95% intervals.", "share of prompts")
    claim = Claim(f"follows more than {rival}", f"follows less than {rival}", rival, "instructions", 0.0)

    def gain(metrics: RoundMetrics) -> Estimate | None:
        headline = metrics.evaluations.get(name)
        return _estimate(headline and headline.gain.get("instructions"), "mean", "count")

    rate = Quantity(f"{name} followed", followed, _evaluation(name, "value", "count"), chart)
    return [rate, Quantity(f"{name} gain", meaning, gain, claim=claim)]


def _accuracy(title: str, pairs: str, read: Reader) -> Quantity:
    reading = (
        f"Share of {pairs} in which the policy's implicit reward prefers the response that the human preferred. The "
        "dashed line is chance; bars are 95% intervals."
    )
    chart = Chart(f"Accuracy on {pairs}", reading, "accuracy", "chance")
    better, worse = (f"orders {pairs} {sign} than chance" for sign in ("better", "worse"))
    claim = Claim(better, worse, f"chance on {pairs}", "pairs")
    return Quantity(title, f"share of {pairs} that the policy's implicit reward orders correctly", read, chart, claim)


def _agreement(name: str) -> Quantity:
    title = f"Agreement of the annotation with the reward ({name})"
    reading = "Share of self-annotated pairs whose order the reward shares. Below the dashed line the labels mislead."
    meaning = f"share of the round's self-annotated pairs whose order the reward of {name} shares"
    chart = Chart(title, reading, "agreement", "chance")
    return Quantity(f"agrees with {name}", meaning, _evaluation(name, "agreement"), chart)


def _length(title: str, meaning: str, read: Reader) -> Quantity:
    reading = f"The {meaning}. Responses that keep growing may win by length alone."
    return Quantity(title, meaning, read, Chart("Length of responses", reading, "mean length (tokens)"), digits=1)


def _divergence(name: str) -> Quantity:
    reading = (
        "How far the policy has moved from the SFT model. A divergence that grows while the win rate does not is a "
        "sign of overoptimisation."
    )
    chart = Chart(f"KL divergence from the SFT model ({name})", reading, "KL divergence (nats)")
    meaning = f"KL divergence from the SFT model in nats per response, estimated on the answers in {name}"
    return Quantity(f"{name} KL", meaning, _evaluation(name, "kl"), chart, sft=Estimate(0.0))
