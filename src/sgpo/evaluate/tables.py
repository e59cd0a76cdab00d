"""Results as small tables for the terminal."""

import math
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sgpo.evaluate.alpaca import Annotations
from sgpo.evaluate.length_control import LengthControlled, RawWinRate
from sgpo.evaluate.mt_judgments import Average, Judgments, MTBench
from sgpo.stats.ranking import RankingAccuracy

EN_DASH = "\N{EN DASH}"


def alpaca_table(read: Annotations, raw: RawWinRate, controlled: list[LengthControlled]) -> Table:
    """AlpacaEval's win rates in percent, with standard errors."""
    title = f"{read.generator} against {read.baseline}, judged by {read.annotator}"
    table = _table(title, "win rate", "%", "standard error")
    table.add_row("raw", _number(raw.win_rate, 2), _number(raw.standard_error, 2))
    for one in controlled:
        table.add_row(f"length-controlled ({one.model})", _number(one.win_rate, 2), _number(one.standard_error, 2))
    table.caption = (
        f"{raw.wins:,} wins, {raw.draws:,} draws, {raw.losses:,} losses; {raw.unjudged:,} without a judgment. Mean "
        f"characters: {read.lengths.mean():.0f}, the baseline's {read.baseline_lengths.mean():.0f}."
    )
    return table


def mt_bench_table(read: Judgments, averages: MTBench) -> Table:
    """MT-Bench's averages by category and turn, with 95% intervals of the averages over turns."""
    turns = list(averages.by_turn)
    columns = ("category", "mean", "95% interval", *(f"turn {turn}" for turn in turns), "judged")
    table = _table(f"{read.model}, judged by {read.judge}", *columns)

    def add(name: str, whole: Average, parts: list[Average | None]) -> None:
        cells = [EN_DASH if part is None else _number(part.mean, 2) for part in parts]
        judged = f"{whole.judgments - whole.failed:,} of {whole.judgments:,}"
        table.add_row(name, _number(whole.mean, 2), _span(whole.low, whole.high, 2), *cells, judged)

    for category, whole in averages.by_category.items():
        add(escape(category), whole, [averages.by_category_and_turn.get((category, turn)) for turn in turns])
    add("all", averages.overall, [averages.by_turn[turn] for turn in turns])
    return table


def result_table(result: dict[str, Any]) -> Table:
    """The result of `judge`, `reward` or `preferences`, as `sgpo.evaluate.runner.run_evaluation` returns it."""
    return {"judge": _judge_table, "reward": _reward_table, "preferences": _preferences_table}[result["kind"]](result)


def _judge_table(result: dict[str, Any]) -> Table:
    title = f"{result['policy']} against {result['baseline']}, judged by {result['judge']}"
    table = _table(title, "", "share", "95% interval", "of")
    judged = f"{result['judged']:,} of {result['prompts']:,}"
    table.add_row("win rate", _number(result["win_rate"]), _span(result["low"], result["high"]), judged)
    front = _span(result["front_low"], result["front_high"])
    table.add_row("for the answer in front", _number(result["front_share"]), front, f"{result['verdicts']:,} verdicts")
    table.caption = (
        f"{result['wins']:,} wins, {result['ties']:,} ties ({result['identical']:,} between equal answers), "
        f"{result['losses']:,} losses. {result['inconsistent']:,} inconsistent; {result['unparsed']:,} unparsed and "
        "left out of all other numbers."
    )
    return table


def _reward_table(result: dict[str, Any]) -> Table:
    table = _table(f"{result['policy']} against {result['baseline']}", "", "value", "95% interval")
    table.add_row("win rate", _number(result["win_rate"]), _span(result["low"], result["high"]))
    for name, key in (("mean reward", "reward"), ("mean reward of the baseline", "baseline_reward")):
        mean = result[key]
        table.add_row(name, _number(mean.mean), _span(mean.low, mean.high))
    rows = (
        ("tokens per answer", "tokens", 1),
        ("KL to the reference, nats per answer", "kl", 3),
        ("agreement with the self-annotated pairs", "agreement", 3),
    )
    for name, key, digits in rows:
        if result[key] is not None:
            table.add_row(name, _number(result[key], digits), "")
    counts = "".join(f", {count:,} {name.replace('_', ' ')}" for name, count in result["counts"].items() if count)
    table.caption = f"{result['prompts']:,} prompts, {result['unrewarded']:,} without a reward{counts}."
    return table


def _preferences_table(result: dict[str, Any]) -> Table:
    table = _table(result["policy"], "held-out pairs", "accuracy", "95% interval", "pairs")

    def add(part: str, found: RankingAccuracy) -> None:
        table.add_row(part, _number(found.accuracy), _span(found.low, found.high), f"{found.pairs:,}")

    report = result["preferences"]
    add("all", report.overall)
    for source, accuracy in report.by_source.items():
        add(escape(f"source {source}"), accuracy)
    for part in report.by_length:
        add(f"chosen longer by {part.shortest:.0f} to {part.longest:.0f} tokens", part.accuracy)
    scale = report.calibration.temperature
    table.caption = (
        f"Calibration error {report.calibration.error:.3f}; the gaps fit best times {scale.scale:.3g} "
        f"({_span(scale.low, scale.high)}), where 1 is calibrated."
    )
    if (bound := result["certificate"]) is not None:
        table.caption += (
            f" Certificate: mean log-likelihood of these pairs at least {bound.bound:.4f} nats at the radius "
            f"{bound.radius:.4f} ({bound.space} space); it is {bound.human:.4f}, and {bound.own:.4f} on the "
            "self-annotated pairs."
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, title=Text(title), title_justify="left", caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else EN_DASH


def _span(low: float, high: float, digits: int = 3) -> str:
    return EN_DASH if math.isnan(low) or math.isnan(high) else f"{low:.{digits}f} to {high:.{digits}f}"
