"""What a run showed, in sentences that claim no more than the intervals allow."""

from sgpo.report.quantities import Estimate, Quantity, capital, find_quantities
from sgpo.report.read import RunRecord
from sgpo.store.records import RoundMetrics

_EVEN = Estimate(0.5, (0.5, 0.5))


def compare(one: Estimate, other: Estimate) -> str:
    """`higher` or `lower` if the intervals do not overlap, else `no clear difference`: a paired test may see more."""
    (low, high), (other_low, other_high) = one.interval, other.interval
    return "higher" if low > other_high else "lower" if high < other_low else "no clear difference"


def judge(record: RunRecord) -> list[str]:
    """A headline on the shipped round, or else on the last finished one, and the comparisons that support it.

    The round is compared with the baselines of its evaluations and with round 0.
    """
    if not record.rounds:
        return ["No round has finished yet, so there is nothing to evaluate."]
    judged = record.judged_round
    shown = [
        quantity
        for quantity in find_quantities(record)
        if quantity.claim and (found := quantity.read(judged)) and found.interval
    ]
    if not shown:
        return [f"{capital(judged.name)} was not evaluated: it has no win rate, no held-out pairs and no accuracy."]
    headline, *others = (_headline(judged, quantity) for quantity in shown)
    lines = zip(["", *others], shown, strict=True)
    sentences = (f"{line} {_against_seeds(record, quantity)}".strip() for line, quantity in lines)
    return [headline, *filter(None, sentences)]


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
    if first.round != 0 or judged.round == 0 or before is None or not before.interval:
        return ""
    result = compare(quantity.read(judged), before)
    overlap = "no clear difference, the intervals overlap"
    claim = overlap if result == "no clear difference" else f"{judged.name} is clearly {result}"
    return f"{first.name} reached {before}: {claim}."
