"""What a run showed, in sentences that claim no more than the intervals allow."""

from typing import NamedTuple

from sgpo.report.quantities import Estimate, Quantity, find_quantities
from sgpo.report.read import RunRecord
from sgpo.store.records import RoundMetrics

_EVEN = Estimate(0.5, 0.5, 0.5)


class Verdict(NamedTuple):
    """One headline and the comparisons that support it."""

    headline: str
    sentences: tuple[str, ...]


def compare(one: Estimate, other: Estimate) -> str:
    """`higher` or `lower` if the intervals do not overlap, else `no clear difference`.

    Overlapping intervals may hide a difference that a paired test would find: this errs on the side of silence.
    """
    if one.low > other.high:
        return "higher"
    return "lower" if one.high < other.low else "no clear difference"


def judge(record: RunRecord) -> Verdict:
    """The shipped round, or the last finished one, against the baselines of its evaluations and against round 0."""
    if not record.rounds:
        return Verdict("No round has finished yet, so there is nothing to evaluate.", ())
    judged = record.judged_round
    shown = [
        quantity
        for quantity in find_quantities(record)
        if quantity.claim and (found := quantity.read(judged)) and found.has_interval
    ]
    if not shown:
        return Verdict(
            f"{capital(judged.name)} was not evaluated: it has no win rate, no held-out pairs and no accuracy.", ()
        )
    lines = [_headline(judged, quantity) for quantity in shown]
    sentences = [
        " ".join(filter(None, ("" if index == 0 else lines[index], _against_seeds(record, quantity))))
        for index, quantity in enumerate(shown)
    ]
    return Verdict(lines[0], tuple(filter(None, sentences)))


def _headline(judged: RoundMetrics, quantity: Quantity) -> str:
    found, claim = quantity.read(judged), quantity.claim
    sentence = {
        "higher": f"{judged.name} {claim.better}",
        "lower": f"{judged.name} {claim.worse}",
        "no clear difference": f"no clear difference between {judged.name} and {claim.rival}",
    }[compare(found, _EVEN)]
    over = f" over {found.count:,} {claim.counted}" if found.count else ""
    return f"{capital(sentence)}: {quantity.title} {found}{over}."


def _against_seeds(record: RunRecord, quantity: Quantity) -> str:
    first, judged = record.rounds[0], record.judged_round
    before = quantity.read(first)
    if first.round != 0 or judged.round == 0 or before is None or not before.has_interval:
        return ""
    result = compare(quantity.read(judged), before)
    overlap = "no clear difference, the intervals overlap"
    claim = overlap if result == "no clear difference" else f"{judged.name} is clearly {result}"
    return f"{first.name} reached {before}: {claim}."


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]
