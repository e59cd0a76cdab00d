"""What a run showed, in sentences that claim no more than its intervals allow."""

from typing import Any, NamedTuple

from sgpo.report.read import RunRecord, number

_NAMES = {"gold.win_rate": "Win rate against the SFT model", "heldout.accuracy": "Accuracy on held-out human pairs"}


class Interval(NamedTuple):
    """A share and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} (95% interval {self.low:.3f}\N{EN DASH}{self.high:.3f})"


class Verdict(NamedTuple):
    """One headline and the comparisons that stand behind it."""

    headline: str
    sentences: tuple[str, ...]


def interval(metrics: dict[str, Any], key: str) -> Interval | None:
    """The number at `key` (`gold.win_rate`) with the bounds beside it; None unless all three are there."""
    block = key.partition(".")[0]
    values = [number(metrics, name) for name in (key, f"{block}.low", f"{block}.high")]
    return None if None in values else Interval(*values)


def compare(one: Interval, other: Interval) -> str:
    """`higher` or `lower` where the intervals are apart, else `no clear difference`.

    Intervals that touch may hide a difference that a paired test would find, so this errs on the side of silence.
    """
    if one.low > other.high:
        return "higher"
    return "lower" if one.high < other.low else "no clear difference"


def judge(record: RunRecord) -> Verdict:
    """The last finished round against the SFT model (or chance) and against DPO on the seeds."""
    if not record.rounds:
        return Verdict("No round has finished yet, so there is nothing to judge.", ())
    last = record.rounds[-1]
    shown = [key for key in _NAMES if interval(last, key)]
    if not shown:
        return Verdict(f"{last['name'].capitalize()} was not judged: it has no gold reward and no held-out pairs.", ())
    sentences = [sentence for key in shown for sentence in _sentences(record, key)]
    return Verdict(_headline(last, shown[0]), tuple(sentences))


def _headline(last: dict[str, Any], key: str) -> str:
    measured = interval(last, key)
    name = last["name"][0].upper() + last["name"][1:]
    result = compare(measured, Interval(0.5, 0.5, 0.5))
    if key == "gold.win_rate":
        claim = {
            "higher": f"{name} beats the SFT model",
            "lower": f"{name} is worse than the SFT model",
            "no clear difference": f"No clear difference between {last['name']} and the SFT model",
        }[result]
        return f"{claim}: win rate {measured}."
    claim = {
        "higher": f"{name} orders held-out human pairs better than chance",
        "lower": f"{name} orders held-out human pairs worse than chance",
        "no clear difference": f"No clear difference between {last['name']} and chance on held-out human pairs",
    }[result]
    return f"{claim}: accuracy {measured}."


def _sentences(record: RunRecord, key: str) -> list[str]:
    first, last = record.rounds[0], record.rounds[-1]
    before, after = interval(first, key), interval(last, key)
    if first["round"] != 0 or last["round"] == 0 or before is None:
        return [f"{_NAMES[key]}: {after}."]
    result = compare(after, before)
    claim = f"{result}, the intervals overlap" if result == "no clear difference" else f"clearly {result}"
    return [
        f"{_NAMES[key]}: {after} after {last['name']}, {before} after {first['name']}, the baseline: {claim}.",
    ]
