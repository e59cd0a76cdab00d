"""A run in words, and the small tables of its page: pairs kept and dropped, the choice of a round, time per stage."""

from collections import Counter
from typing import Any

from sgpo.report.quantities import find_quantities
from sgpo.report.read import RunRecord
from sgpo.report.table import EN_DASH, Grid
from sgpo.report.verdict import name_of


def tell_story(record: RunRecord) -> str:
    """What was run, for a reader who is new to the project."""
    config = record.config
    seeds = _count(record.seed_pairs, "human preference pair") if record.seed_pairs else "human preference pairs"
    if record.shipped:
        seeds += f" (and {record.shipped.pairs:,} validation pairs that choose the round to ship)"
    path = (config.get("model") or {}).get("path")
    start = f"Starting from {seeds}, {f'the model {path}' if path else 'a small model trained for this run'} was"
    if config["rounds"] == 0:
        return f"{start} trained with DPO, without self-annotation."
    annotator = (config.get("annotation") or {}).get("annotator", "implicit")
    rank = f"has a {annotator.replace('_', ' ')} rank the answers"
    if annotator == "implicit":
        rank = "ranks the answers by its own implicit reward"
    if annotator == "heads":
        rank = "ranks the answers by linear heads on hidden states"
        if record.rounds and (known := record.rounds[0].heads):
            rank += f" (accuracy {known.accuracy:.3f} on human pairs that they were not fitted on)"
    annotated = sum(metrics.annotation.pairs for metrics in record.rounds if metrics.annotation)
    so_far = " so far" if record.missing_rounds else ""
    counted = f" ({_count(annotated, 'annotated pair')}{so_far})" if annotated else ""
    return (
        f"{start} aligned in {_count(config['rounds'], 'round')} of self-annotation: in each round it answers new "
        f"prompts, {rank}, and trains on the ranking{counted}."
    )


def tell_method(config: dict[str, Any]) -> str:
    """The follower's and the leader's settings in words."""
    follower = config["follower"]
    beta = f"implicit rewards use beta {config['leader']['beta']:g}"
    radii = follower.get("source_radius") or {"": follower["radius"]}
    if not any(radii.values()):
        return f"The radius is 0, so every round is plain DPO; {beta}."
    unit = " nats" if follower["space"] == "margin" else ""
    loss = f"{follower['tangents']} tangents of the log loss" if follower.get("tangents") else "the exact log loss"
    size = {
        "measured": "measured in each round, between the gaps of human pairs and those of the round",
        "validated": "chosen in each round by human validation pairs",
    }.get(follower["radius"]) or " and ".join(
        f"{radius:g}{unit}" + (f" for {source} pairs" if source else "") for source, radius in radii.items()
    )
    return (
        "Each round trains against the worst case: the least favourable distribution of preference gaps in a "
        f"Wasserstein-1 ball around the annotated ones, in {follower['space']} space, with {loss}. The radius is "
        f"{size}; {beta}."
    )


def tell_missing(record: RunRecord) -> str:
    """What is missing of the run; empty if nothing is."""
    missing, end = record.missing_rounds, record.missing_end
    if not missing and not end:
        return ""
    what = f"{end} is still missing."
    if missing:
        noun, verb = ("Round", "is") if len(missing) == 1 else ("Rounds", "are")
        numbers = ", ".join(map(str, missing))
        what = f"{noun} {numbers} {verb} still missing, of 0 to {record.config['rounds']}."
    stages = list(record.manifest.stages)
    last = f"The last complete stage is {stages[-1]}." if stages else "No stage is complete yet."
    return f"{what} {last} Run the same recipe again to continue from there; this page shows what exists."


def tell_made(record: RunRecord, directory: str = "") -> str:
    """Which policies a run made, where it measured nothing that a table could show; else empty."""
    if find_quantities(record) or not record.rounds:
        return ""
    folders = ("final" if one.round > record.config["rounds"] else f"round-{one.round}" for one in record.rounds)
    policies = zip(record.rounds, folders, strict=True)
    return f"Made: {', '.join(f'{one.name} ({directory}{folder}/policy)' for one, folder in policies)}."


def shipping_evidence(record: RunRecord) -> Grid | None:
    """What the validation pairs say of each round; None if the run does not choose."""
    if record.shipped is None:
        return None
    formats = {"accuracy": ".3f", "score": ".2f", "p_value": ".2g", "threshold": ".2g"}
    rows = [
        (name_of(one.round), [format(getattr(one, field), how) for field, how in formats.items()])
        for one in record.shipped.rounds
    ]
    return Grid(["round", "accuracy", "score of the test", "p-value", "threshold"], rows)


def reward_parts(record: RunRecord) -> dict[str, Grid]:
    """Means of what the reward of an evaluation consists of, by name of the evaluation; only those that have parts."""
    grids: dict[str, Grid] = {}
    for metrics in record.rounds:
        for evaluation, headline in metrics.evaluations.items():
            own, other = ([f"{means[side]:.3f}" for means in headline.parts.values()] for side in (0, 1))
            if evaluation not in grids and headline.parts:
                titles = ["mean", *(name.replace("_", " ") for name in headline.parts)]
                grids[evaluation] = Grid(titles, [(record.baseline(evaluation) or "SFT model", other)])
            if headline.parts:
                grids[evaluation].rows.append((metrics.name, own))
    return grids


def pair_flow(record: RunRecord) -> Grid | None:
    """Prompts, responses, pairs, and prompts without a pair by reason, per round; None if nothing was annotated."""
    rounds = [(metrics.name, metrics.annotation) for metrics in record.rounds if metrics.annotation]
    reasons = list(dict.fromkeys(reason for _, one in rounds for reason, count in one.dropped.items() if count))
    rows = []
    for name, one in rounds:
        paired = one.pairs if one.paired is None else one.paired
        counts = [one.prompts, one.responses, one.pairs, paired, *(one.dropped.get(reason, 0) for reason in reasons)]
        cells = [f"{count:,}" for count in counts]
        if one.prompts:
            cells[3] += f" ({paired / one.prompts:.1%})"
        rows.append((name, cells))
    dropped = (f"dropped: {reason.replace('_', ' ')}" for reason in reasons)
    titles = ["count", "prompts", "responses", "pairs", "prompts with a pair", *dropped]
    return Grid(titles, rows).turned() if rows else None


def stage_times(record: RunRecord) -> Grid | None:
    """Seconds of each stage, a column per round; None if no stage is complete."""
    rounds: dict[str, Counter[str]] = {}
    whole: Counter[str] = Counter()
    for stage, entry in record.manifest.stages.items():
        group, _, part = stage.partition("/")
        name = _words(stage)
        if group == "final" or group.startswith("round-"):
            # All trials of a round are one row; their number is the grid's.
            name = "trials" if part.startswith("trials/") else _words(part)
            rounds.setdefault(group.replace("-", " "), Counter())[name] += entry.seconds
        whole[name] += entry.seconds
    # The round with the most stages first: a whole round shows the order of the loop.
    fullest_first = sorted(rounds.values(), key=len, reverse=True)
    stages = list(dict.fromkeys(name for parts in (*fullest_first, whole) for name in parts))
    rows = [
        (name, [*(_duration(parts.get(stage)) for stage in stages), _duration(parts.total())])
        for name, parts in {**rounds, "all": whole}.items()
    ]
    return Grid(["stage", *stages, "all"], rows).turned() if whole else None


def _words(stage: str) -> str:
    return stage.removesuffix(".json").removesuffix(".parquet").replace("_", " ").replace("/", ": ")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return EN_DASH
    if seconds < 99.95:
        return f"{seconds:.{2 if seconds < 0.95 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
