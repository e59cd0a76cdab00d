"""Signs in a run's numbers that something went wrong, each with the number that shows it."""

from collections.abc import Iterator

from sgpo.report.quantities import capital, find_lengths, find_quantities, follower_answers
from sgpo.report.read import RunRecord
from sgpo.report.verdict import compare
from sgpo.stats.alarms import collapsed, idle, saturated

_LENGTH_RATIO = 1.5


def find_alerts(record: RunRecord) -> list[str]:
    """One or two sentences per alert, most serious first; empty if the numbers look sound."""
    checks = (_collapse, _disagreement, _decline, _turned_down, _longer_responses, _moved_share)
    return [alert for check in checks for alert in check(record)]


def _collapse(record: RunRecord) -> Iterator[str]:
    for metrics in record.rounds:
        start = metrics.leader and metrics.leader.reference_chosen_logps
        end = metrics.leader and metrics.leader.chosen_logps
        if start is not None and end is not None and collapsed(end, start):
            yield (
                f"Chosen log-probability collapsed in {metrics.name}: the last chosen responses have a mean of "
                f"{end:.1f} nats, and {start:.1f} under the reference. The policy loses probability on the responses "
                "that it should prefer; use a larger beta or a smaller learning rate."
            )


def _disagreement(record: RunRecord) -> Iterator[str]:
    for metrics in record.rounds:
        for name, headline in metrics.evaluations.items():
            if headline.agreement is not None and headline.agreement < 0.5:
                yield (
                    f"Self-annotation is worse than chance in {metrics.name}: the reward of {name} agrees with "
                    f"{headline.agreement:.3f} of its pairs."
                )


def _decline(record: RunRecord) -> Iterator[str]:
    for quantity in (one for one in find_quantities(record) if one.claim):
        measured = [(metrics.name, found) for metrics in record.rounds if (found := quantity.read(metrics))]
        (best_name, best), (name, last) = max(measured, key=lambda one: one[1].value), measured[-1]
        if last.value < best.value:
            noise = last.interval and best.interval and compare(last, best) == "no clear difference"
            yield (
                f"The last round, {name}, is below {best_name} in {quantity.title}: {last.value:.3f} against "
                f"{best.value:.3f}" + ("; the intervals overlap, so this may be noise." if noise else ".")
            )


def _turned_down(record: RunRecord) -> Iterator[str]:
    for metrics in record.rounds:
        decision = metrics.decision
        if decision and not decision.accepted:
            reasons = ", ".join(sorted({tried.reason for tried in decision.tried}))
            yield (
                f"{capital(metrics.name)} was not accepted: {decision.pairs} validation pairs do not show that it is "
                f"better ({reasons}). It keeps the policy of the round before."
            )


def _longer_responses(record: RunRecord) -> Iterator[str]:
    for quantity in find_lengths(record):
        lengths = [found.value for metrics in record.rounds if (found := quantity.read(metrics))]
        if lengths[-1] > _LENGTH_RATIO * lengths[0]:
            yield (
                f"Responses grew from {lengths[0]:.1f} to {lengths[-1]:.1f} tokens over the rounds "
                f"({quantity.meaning}). Check that wins do not come from length alone."
            )


def _moved_share(record: RunRecord) -> Iterator[str]:
    answers = [(metrics.name, *one) for metrics in record.rounds for one in follower_answers(metrics).items()]
    for name, source, answer in answers:
        share, radius = answer.moved_share, answer.radius
        pairs = f"{source} pairs" if source else "pairs"
        if share is None or not radius:
            continue
        if idle(share):
            yield (
                f"The follower is idle in {name}: it moves {share:.4f} of the {pairs}, so the round is nearly plain "
                f"DPO. Use a radius larger than {radius:g}."
            )
        if saturated(share):
            yield (
                f"The follower moves nearly everything in {name}: {share:.3f} of the {pairs}, so little of the data is "
                f"left to learn from. Use a radius smaller than {radius:g}."
            )
