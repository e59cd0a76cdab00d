"""A run in words, and the small tables of its page: pairs kept and dropped, time per stage."""

from typing import Any, NamedTuple

from sgpo.report.read import RunRecord, number
from sgpo.report.shipping import name_of
from sgpo.report.table import EN_DASH


class Story(NamedTuple):
    """What was run, how, and what is still missing (empty when nothing is)."""

    what: str
    how: str
    unfinished: str


class Grid(NamedTuple):
    """Headings, and rows of a name and formatted cells, one per heading after the first."""

    titles: list[str]
    rows: list[tuple[str, list[str]]]


def tell_story(record: RunRecord) -> Story:
    """The run in a sentence or two, for a reader who has never seen the project."""
    config, follower = record.config, record.config["follower"]
    seeds = f"{_count(record.seed_pairs, 'human preference pair')}" if record.seed_pairs else "human preference pairs"
    if record.shipped:
        seeds += f" (and {record.shipped.pairs:,} set aside to say which round to ship)"
    model = (config.get("model") or {}).get("path")
    model = f"the model {model}" if model else "a small model trained for this run"
    annotated = sum(int(number(metrics, "annotation.pairs") or 0) for metrics in record.rounds)
    what = (
        f"Starting from {seeds}, {model} was aligned in {_count(config['rounds'], 'round')} of self-annotation: in "
        "each round it answers new prompts, ranks its own answers, and trains on the ranking"
    )
    so_far = " so far" if record.missing_rounds else ""
    what += f" ({_count(annotated, 'self-annotated pair')}{so_far})." if annotated else "."
    if config["rounds"] == 0:
        what = f"Starting from {seeds}, {model} was trained with DPO, without self-annotation."
    return Story(what, _how(record, follower), _unfinished(record))


def _how(record: RunRecord, follower: dict[str, Any]) -> str:
    beta = f"implicit rewards use beta {record.config['leader']['beta']:g}"
    if not follower["radius"]:
        return f"The radius is 0, so every round is plain DPO; {beta}."
    unit = " nats" if follower["space"] == "margin" else ""
    loss = f"{follower['tangents']} tangents of the log loss" if follower.get("tangents") else "the exact log loss"
    size = {
        "measured": "(the radius) that is measured in each round between held-out human gaps and its own",
        "validated": "(the radius) that held-out human pairs choose in each round",
    }.get(follower["radius"]) or f"(the radius) of {follower['radius']:g}{unit}"
    return (
        "Each round trains against the worst case: the least favourable distribution of preference gaps within a "
        f"Wasserstein-1 distance {size} from the annotated ones, in {follower['space']} space, with {loss}; {beta}."
    )


def _unfinished(record: RunRecord) -> str:
    if record.missing_rounds:
        rounds = ", ".join(map(str, record.missing_rounds))
        noun = f"Rounds {rounds} are" if len(record.missing_rounds) > 1 else f"Round {rounds} is"
        what = f"{noun} still missing, of 0 to {record.config['rounds']}."
    elif record.missing_end:
        what = f"{record.missing_end} is still missing."
    else:
        return ""
    stages = record.manifest["stages"]
    last = f"The last whole stage is {list(stages)[-1]}." if stages else "No stage is whole yet."
    return f"{what} {last} Running the same recipe again goes on from there; this page shows what exists."


def pair_flow(record: RunRecord) -> Grid | None:
    """Prompts, responses, pairs kept and prompts dropped by reason, per round; None where nothing was annotated."""
    rounds = [metrics for metrics in record.rounds if metrics.get("annotation")]
    reasons = list(dict.fromkeys(reason for m in rounds for reason in m["annotation"].get("dropped") or {}))
    rows = []
    for metrics in rounds:
        prompts, kept = (number(metrics, f"annotation.{key}") for key in ("prompts", "pairs"))
        dropped = metrics["annotation"].get("dropped") or {}
        paired = number(metrics, "annotation.paired")
        paired = kept if paired is None else paired
        share = f" ({paired / prompts:.1%})" if prompts and kept is not None else ""
        cells = [_whole(prompts), _whole(number(metrics, "annotation.responses")), _whole(kept) + share]
        rows.append((metrics["name"], cells + [_whole(dropped.get(reason)) for reason in reasons]))
    titles = ["Round", "Prompts", "Responses", "Pairs kept", *(f"Dropped: {reason}" for reason in reasons)]
    return Grid(titles, rows) if rows else None


def shipping_evidence(record: RunRecord) -> Grid | None:
    """What the human pairs set aside say of each round; None where no round is chosen by them."""
    if record.shipped is None:
        return None
    rows = [
        (
            name_of(one.round),
            [f"{one.accuracy:.3f}", f"{one.score:.2f}", f"{one.p_value:.2g}", f"{one.threshold:.2g}"],
        )
        for one in record.shipped.evidence
    ]
    return Grid(["Round", "Pairs ordered as people did", "Score of the test", "p-value", "Must be below"], rows)


def stage_times(record: RunRecord) -> Grid | None:
    """Seconds per stage, a row per round; None where the manifest has no stage."""
    groups: dict[str, dict[str, float]] = {}
    for stage, entry in record.manifest["stages"].items():
        group, _, part = stage.partition("/")
        # All trials of a round are one column; their number is the grid's.
        part = "trials" if part.startswith("trials/") else part.partition(".")[0].replace("_", " ").replace("/", " by ")
        parts = groups.setdefault(group.partition(".")[0].replace("-", " "), {})
        parts[part] = parts.get(part, 0.0) + entry["seconds"]
    # The group with the most stages first: a whole round shows the order of the loop.
    fullest_first = sorted(groups.values(), key=len, reverse=True)
    columns = list(dict.fromkeys(part for parts in fullest_first for part in parts))
    rows = [
        (name, [*(_duration(parts.get(part)) for part in columns), _duration(sum(parts.values()))])
        for name, parts in groups.items()
    ]
    whole = [sum(parts.get(part, 0.0) for parts in groups.values()) for part in columns]
    rows.append(("all", [_duration(seconds) for seconds in (*whole, sum(whole))]))
    return Grid(["Stage", *columns, "together"], rows) if groups else None


def _count(number_: int, noun: str) -> str:
    return f"{number_:,} {noun}{'' if number_ == 1 else 's'}"


def _whole(value: float | None) -> str:
    return EN_DASH if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return EN_DASH
    if seconds < 0.95:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
