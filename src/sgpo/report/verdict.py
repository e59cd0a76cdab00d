"""What a run showed, in sentences that claim no more than the intervals allow."""

from sgpo.report.quantities import Estimate, Quantity, capital, find_quantities
from sgpo.report.read import RunRecord
from sgpo.stats.acceptance import describe_few, smallest_p_value
from sgpo.store.records import RoundMetrics, Shipped


def compare(one: Estimate, other: Estimate) -> str:
    """`higher` or `lower` if the intervals do not overlap, else `no clear difference`: a paired test may see more."""
    (low, high), (other_low, other_high) = one.interval, other.interval
    return "higher" if low > other_high else "lower" if high < other_low else "no clear difference"


def judge(record: RunRecord) -> list[str]:
    """A headline on the shipped round, or else on the last finished one, and the comparisons that support it: with the
    baselines of its evaluations, and with round 0."""
    if not record.rounds:
        return ["No round has finished yet, so there is nothing to evaluate."]
    judged = record.judged_round
    shown = [
        quantity
        for quantity in find_quantities(record)
        if quantity.claim and (found := quantity.read(judged)) and found.interval
    ]
    if not shown:
        return [f"{capital(judged.name)} was not evaluated: no win rate, no accuracy (evaluate, data.heldout)."]
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
    }[compare(found, Estimate(claim.even, (claim.even, claim.even)))]
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


def name_of(number: int) -> str:
    """A round by its number."""
    return f"round {number}" if number else "DPO on the seeds"


def judge_shipping(record: RunRecord) -> list[str]:
    """What to ship, why, and what to do where that is the SFT model; empty if the run does not choose."""
    shipped = record.shipped
    if shipped is None:
        return []
    few = describe_few(shipped.pairs, shipped.enough)
    if shipped.round is None:
        found, why = _why_none(record, shipped, few)
        to_do = (
            "The policies of all rounds are kept: compare them in the evaluations, and take "
            f"round-{len(shipped.rounds) - 1}/policy if they convince you (leader.accept: always ships it without a "
            "test). More human pairs, in data.seeds or by a larger data.validation_share, make the test surer."
        )
        return [f"Ship the SFT model ({shipped.path}): the validation pairs {found}.", why, to_do]
    found, later = shipped.rounds[shipped.round], len(shipped.rounds) - 1 - shipped.round
    last = " after a last DPO on all human pairs" if record.ships_final else ""
    others = f", and support no later round ({later} tested)" if later else ""
    return [
        f"Ship {name_of(shipped.round)}{last} ({shipped.path}): the {shipped.pairs} validation pairs support it "
        f"(p = {found.p_value:.2g}, below {found.threshold:.2g}){others}.",
        *([f"{capital(few)}: a later one may be better."] if few and later else []),
    ]


def _why_none(record: RunRecord, shipped: Shipped, few: str) -> tuple[str, str]:
    """What the validation pairs say where they support no round, and the numbers that show it."""
    last, name = shipped.rounds[-1], name_of(len(shipped.rounds) - 1)
    pairs = f"{shipped.pairs} validation pair{'' if shipped.pairs == 1 else 's'}"
    length = " once the length of the responses is taken into account" if record.controls_length else ""
    nothing, bound = "give no evidence for or against any round", f"below {last.threshold:.2g}"
    least, opposite = smallest_p_value(shipped.pairs), 1 - last.p_value
    if least >= last.threshold:
        return nothing, (
            f"{pairs} cannot give any: even if a round ordered all of them as people did, its p-value would be "
            f"{least:.2g}, and it has to be {bound}."
        )
    if opposite < last.threshold:
        return f"are evidence against {name}", (
            f"On {pairs} its implicit reward prefers what people rejected, more often than chance explains{length} "
            f"(p = {opposite:.2g}): self-annotation or the labels may have gone wrong."
        )
    agrees = (
        f"The implicit reward of {name} agrees with people in {last.accuracy:.0%} of {pairs} (p = {last.p_value:.2g}"
        f"{length}; {bound} would be evidence)."
    )
    if few:
        return nothing, f"{agrees} {capital(few)}."
    return "do not show that a round is better", f"{agrees} So many usually recognise one unless labels are wrong."
