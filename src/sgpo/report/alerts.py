"""Signs in a run's numbers that something went wrong, each with the number that shows it."""

from collections.abc import Iterator

from sgpo.report.read import RunRecord, number
from sgpo.report.verdict import compare, interval

COLLAPSE_RATIO = 1.5  # times the log-probability that the reference gives to the same chosen responses
COLLAPSE_NATS = 5.0
LENGTH_RATIO = 1.5
IDLE_SHARE = 0.001
SATURATED_SHARE = 0.95


def find_alerts(record: RunRecord) -> list[str]:
    """One sentence or two per alert, gravest first; empty when the numbers look sound."""
    return [
        *_collapse(record),
        *_disagreement(record),
        *_decline(record),
        *_unsupported(record),
        *_turned_down(record),
        *_longer_responses(record),
        *_moved_share(record),
    ]


def _collapse(record: RunRecord) -> Iterator[str]:
    for metrics in record.rounds:
        start, end = number(metrics, "leader.reference_chosen_logps"), number(metrics, "leader.chosen_logps")
        if start is None or end is None:
            continue
        if end < COLLAPSE_RATIO * start and start - end > COLLAPSE_NATS:
            yield (
                f"Chosen log-probability collapsed in {metrics['name']}: the last chosen responses have a mean of "
                f"{end:.1f} nats, and {start:.1f} under the reference. The policy moves away from the very responses "
                "that it is told to prefer; a larger beta or a smaller learning rate holds it back."
            )


def _disagreement(record: RunRecord) -> Iterator[str]:
    for metrics in record.rounds:
        agreement = number(metrics, "gold.agreement")
        if agreement is not None and agreement < 0.5:
            yield (
                f"Self-annotation points the wrong way in {metrics['name']}: {agreement:.3f} of its pairs agree with "
                "the gold reward, which is less than a coin would reach."
            )


def _decline(record: RunRecord) -> Iterator[str]:
    for key, name in (("gold.win_rate", "win rate"), ("heldout.accuracy", "held-out accuracy")):
        judged = [metrics for metrics in record.rounds if number(metrics, key) is not None]
        if not judged:
            continue
        best, last = max(judged, key=lambda metrics: number(metrics, key)), judged[-1]
        if number(last, key) >= number(best, key):
            continue
        intervals = interval(last, key), interval(best, key)
        within = None not in intervals and compare(*intervals) == "no clear difference"
        yield (
            f"The last round, {last['name']}, is below {best['name']} in {name}: {number(last, key):.3f} against "
            f"{number(best, key):.3f}" + ("; the intervals overlap, so this may be noise." if within else ".")
        )


def _unsupported(record: RunRecord) -> Iterator[str]:
    shipped = record.shipped
    if shipped is None:
        return
    if shipped.pairs < shipped.enough:
        yield (
            f"Only {shipped.pairs} human pairs were set aside to choose the round: with fewer than {shipped.enough} a "
            "good round often goes unsupported. A larger data.validation_share or more seeds give the choice a basis; "
            "leader.accept: always does without it."
        )
    if shipped.round is None:
        length_out = record.config["leader"].get("accept") != "supported_any_length"
        beyond = ", beyond what the length of responses explains" if length_out else ""
        yield (
            f"No round is supported by the human pairs set aside{beyond}: self-annotation may have derailed, or the "
            "pairs are too few to tell. All policies are there to be looked at."
        )


def _turned_down(record: RunRecord) -> Iterator[str]:
    for metrics in record.rounds:
        decision = metrics.get("decision")
        if decision and not decision["accepted"]:
            yield (
                f"{metrics['name'].capitalize()} was not taken: {decision['pairs']} human pairs set aside say that it "
                f"does not pay ({', '.join(sorted({tried['reason'] for tried in decision['tried']}))}). Its policy is "
                "that of the round before."
            )


def _longer_responses(record: RunRecord) -> Iterator[str]:
    lengths = [length for metrics in record.rounds if (length := number(metrics, record.length_key)) is not None]
    if len(lengths) > 1 and lengths[-1] > LENGTH_RATIO * lengths[0]:
        yield (
            f"Responses grew from {lengths[0]:.1f} to {lengths[-1]:.1f} tokens over the rounds "
            f"({lengths[-1] / lengths[0]:.1f} times as long). Check that wins do not come from length alone."
        )


def _moved_share(record: RunRecord) -> Iterator[str]:
    for metrics in record.rounds:
        share, radius = number(metrics, "follower.moved_share"), number(metrics, "follower.radius")
        if share is None or not radius:
            continue
        if share < IDLE_SHARE:
            yield (
                f"The follower is idle in {metrics['name']}: it moves {share:.4f} of the pairs, so the round is nearly "
                f"plain DPO. A radius larger than {radius:g} would give it a say."
            )
        if share > SATURATED_SHARE:
            yield (
                f"The follower moves nearly everything in {metrics['name']}: a share of {share:.3f} of the pairs, so "
                f"little of the data is left to learn from. A radius smaller than {radius:g} would leave more."
            )
