"""What a run showed, in sentences that claim no more than its intervals allow."""

from typing import Any, NamedTuple

from sgpo.report.read import RunRecord, number


class _Claim(NamedTuple):
    """What a number in a round's metrics says against 1/2: its name, what it counts, and a sentence by result."""

    key: str
    quantity: str
    count_key: str
    counted: str
    sentences: dict[str, str]


_CLAIMS = (
    _Claim(
        "gold.win_rate",
        "win rate",
        "gold.prompts",
        "test prompts",
        {
            "higher": "{} beats the SFT model",
            "lower": "{} is worse than the SFT model",
            "no clear difference": "no clear difference between {} and the SFT model",
        },
    ),
    _Claim(
        "heldout.accuracy",
        "accuracy",
        "heldout.pairs",
        "pairs",
        {
            "higher": "{} orders held-out human pairs better than chance",
            "lower": "{} orders held-out human pairs worse than chance",
            "no clear difference": "no clear difference between {} and chance on held-out human pairs",
        },
    ),
)


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
    """The round that is shipped, or the last finished one, against the SFT model (or chance) and DPO on the seeds."""
    if not record.rounds:
        return Verdict("No round has finished yet, so there is nothing to judge.", ())
    last = record.judged_round
    evaluations = (
        _Claim(one.key, one.quantity, one.key.replace(".value", ".count"), one.counted, one.claims)
        for one in record.measured
    )
    shown = [claim for claim in (*_CLAIMS, *evaluations) if interval(last, claim.key)]
    if not shown:
        return Verdict(
            f"{_capital(last['name'])} was not judged: it has no gold reward, no held-out pairs and no evaluation.", ()
        )
    lines = [_headline(last, claim) for claim in shown]
    sentences = [
        " ".join(filter(None, ("" if index == 0 else lines[index], _against_baseline(record, claim.key))))
        for index, claim in enumerate(shown)
    ]
    return Verdict(lines[0], tuple(filter(None, sentences)))


def _headline(last: dict[str, Any], claim: _Claim) -> str:
    measured = interval(last, claim.key)
    sentence = claim.sentences[compare(measured, Interval(0.5, 0.5, 0.5))].format(last["name"])
    count = number(last, claim.count_key)
    over = f" over {count:,.0f} {claim.counted}" if count else ""
    return f"{_capital(sentence)}: {claim.quantity} {measured}{over}."


def _against_baseline(record: RunRecord, key: str) -> str:
    first, last = record.rounds[0], record.judged_round
    before = interval(first, key)
    if first["round"] != 0 or last["round"] == 0 or before is None:
        return ""
    result = compare(interval(last, key), before)
    claim = "no clear difference, the intervals overlap" if result == "no clear difference" else f"clearly {result}"
    return f"Against the baseline, {first['name']}, with {before}: {claim}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
