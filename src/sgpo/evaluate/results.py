"""Results of evaluations: as plain JSON values, and as small tables for the terminal."""

import math
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sgpo.evaluate.row_files import list_missing

EN_DASH = "\N{EN DASH}"


def as_plain(value: Any) -> Any:
    """Named tuples become objects, tuple keys are joined by a slash, and numbers that are not finite become null."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        names = ("/".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in value)
        return dict(zip(names, map(as_plain, value.values()), strict=True))
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def result_table(result: dict[str, Any]) -> Group:
    """The plain result of an evaluation of any kind; AlpacaEval's and MT-Bench's are those of their judgments."""
    table = {
        "alpaca": _alpaca_table,
        "mt_bench": _mt_bench_table,
        "mt_bench_pairs": _mt_bench_pairs_table,
        "judge": _judge_table,
        "reward": _reward_table,
        "ifeval": _ifeval_table,
        "preferences": _preferences_table,
    }[result["kind"]](result)
    # Below the table, which would wrap it at its own width. Text, here and in cells, because names are no markup.
    caption, table.caption = Text(table.caption or "", style="table.caption"), None
    return Group(table, caption) if caption else Group(table)


def _alpaca_table(result: dict[str, Any]) -> Table:
    title = f"{result['generator']} against {result['baseline']}, judged by {result['annotator']}"
    table = _table(title, "win rate", "%", "standard error")
    raw = result["raw"]
    rates = {"raw": raw, **{f"length-controlled ({name})": one for name, one in result["length_controlled"].items()}}
    for name, rate in rates.items():
        table.add_row(name, *(_number(rate and rate[key], 2) for key in ("win_rate", "standard_error")))
    table.caption = (
        f"{raw['wins']:,} wins, {raw['draws']:,} draws, {raw['losses']:,} losses; {raw['unjudged']:,} without a "
        f"judgment. Mean characters: {result['characters']:.0f}, the baseline's {result['baseline_characters']:.0f}."
    )
    return table


def _mt_bench_table(result: dict[str, Any]) -> Table:
    turns = result["by_turn"]
    columns = ("category", "mean", "95% interval", *(f"turn {turn}" for turn in turns), "judged")
    table = _table(f"{result['model']}, judged by {result['judge']}", *columns)
    both = result["by_category_and_turn"]
    rows = [
        (Text(category), whole, [both.get(f"{category}/{turn}") for turn in turns])
        for category, whole in result["by_category"].items()
    ]
    for name, whole, parts in [*rows, ("all", result["overall"], turns.values())]:
        cells = [_number(part["mean"] if part else None, 2) for part in parts]
        judged = f"{whole['judgments'] - whole['failed']:,} of {whole['judgments']:,}"
        table.add_row(name, _number(whole["mean"], 2), _span(whole, 2), *cells, judged)
    return table


def _mt_bench_pairs_table(result: dict[str, Any]) -> Table:
    counts, title = ("wins", "ties", "losses", "failed"), f"Against {result['baseline'] or 'each other'}"
    columns = ("model", *counts, "win rate", "ties counted half", "95% interval")
    table = _table(f"{title}, judged by {result['judge']}", *columns)
    for name, one in result["models"].items():
        rates = (_number(one[key]) for key in ("win_rate", "win_rate_adjusted"))
        table.add_row(Text(name), *(f"{one[key]:,}" for key in counts), *rates, _span(one))
    return table


def _judge_table(result: dict[str, Any]) -> Table:
    title = f"{result['policy']} against {result['baseline']}, judged by {result['judge']}"
    table = _table(title, "", "share", "95% interval", "of")
    judged = f"{result['judged']:,} of {result['prompts']:,}"
    table.add_row("win rate", _number(result["win_rate"]), _span(result), judged)
    front = {"low": result["front_low"], "high": result["front_high"]}
    verdicts = f"{result['verdicts']:,} verdicts"
    table.add_row("for the answer in front", _number(result["front_share"]), _span(front), verdicts)
    table.caption = (
        f"{result['wins']:,} wins, {result['ties']:,} ties ({result['identical']:,} between equal answers), "
        f"{result['losses']:,} losses. {result['inconsistent']:,} inconsistent{left_out(result)}."
    )
    return table


def _reward_table(result: dict[str, Any]) -> Table:
    table = _table(f"{result['policy']} against {result['baseline']}", "", "value", "95% interval")
    table.add_row("win rate", _number(result["win_rate"]), _span(result))
    for name, key in (("mean reward", "reward"), ("mean reward of the baseline", "baseline_reward")):
        table.add_row(name, _number(result[key]["mean"]), _span(result[key]))
    for name, (own, other) in result["parts"].items():
        table.add_row(Text(name), _number(own), f"baseline {_number(other)}")
    rows = (
        ("tokens per answer", "tokens", 1),
        ("KL to the reference, nats per answer", "kl", 3),
        ("agreement with the self-annotated pairs", "agreement", 3),
    )
    for name, key, digits in rows:
        if result[key] is not None:
            table.add_row(name, _number(result[key], digits), "")
    counts = "".join(f", {count:,} {name.replace('_', ' ')}" for name, count in result["counts"].items() if count)
    table.caption = (
        f"{result['prompts']:,} prompts, {result['unrewarded']:,} without a reward{counts}{left_out(result)}."
    )
    return table


def _ifeval_table(result: dict[str, Any]) -> Table:
    table = _table(result["policy"], "followed", "strict", "95% interval", "of", "loose")
    # A type comes after its family, which its id begins with.
    for name, rates in [*result["by_level"].items(), *sorted({**result["by_family"], **result["by_type"]}.items())]:
        strict, shown = rates["strict"], f"  {name.partition(':')[2]}" if ":" in name else name
        cells = _number(strict["rate"]), _span(strict), f"{strict['count']:,}", _number(rates["loose"]["rate"])
        table.add_row(Text(shown), *cells)
    for level, gain in result["gain"].items():
        table.add_row(f"{level}, less the baseline's", _number(gain["mean"]), _span(gain), f"{gain['count']:,}", "")
    errors = [f"key {key}, {name}: {why}" for key, one in result["checker_errors"].items() for name, why in one.items()]
    absent = left_out(result, lead="without an answer, which follows nothing")
    table.caption = f"{len(errors):,} checks failed and count as not followed{absent}. {list_missing(errors)}"
    return table


def _preferences_table(result: dict[str, Any]) -> Table:
    table = _table(result["policy"], "held-out pairs", "accuracy", "95% interval", "pairs")
    report, bound = result["preferences"], result["certificate"]
    parts = {"all": report["overall"]}
    parts |= {f"source {source}": accuracy for source, accuracy in report["by_source"].items()}
    for part in report["by_length"]:
        ends = dict.fromkeys(f"{part[end]:.0f}" for end in ("shortest", "longest"))
        unit = "token" if [*ends] == ["1"] else "tokens"
        parts[f"chosen minus rejected: {' to '.join(ends)} {unit}"] = part["accuracy"]
    for name, found in parts.items():
        table.add_row(Text(name), _number(found["accuracy"]), _span(found), f"{found['pairs']:,}")
    scale = report["calibration"]["temperature"]
    table.caption = (
        f"Calibration error {report['calibration']['error']:.3f}; scale of the gaps {_number(scale['scale'])} (95% "
        f"interval {_span(scale)}; 1 is calibrated)."
    )
    if bound is not None:
        table.caption += (
            f" Certificate: mean log-likelihood of these pairs at least {bound['bound']:.4f} nats at the radius "
            f"{bound['radius']:.4f} ({bound['space']} space); measured: {bound['human']:.4f} on these pairs, "
            f"{bound['own']:.4f} on the self-annotated pairs."
        )
    return table


def left_out(result: dict[str, Any], what: str = "row", lead: str = "left out of all other numbers") -> str:
    """What is missing, by reason, whose it is and row, as the end of a sentence; empty if nothing is."""
    sides = {row: f"{who}, " for who in ("baseline", "policy") for row in result.get("unanswered", {}).get(who, ())}
    rest, found = "judge, " if result["kind"] == "judge" else "", {}
    for reason, rows in result["failed"].items():
        for row in rows:
            name = " turn ".join(map(str, row)) if isinstance(row, list) else row
            found.setdefault((sides.get(name, rest), reason.replace("_", " ")), []).append(name)
    parts = [
        f"{len(rows):,} {reason} ({side}{what}{'s' if len(rows) > 1 else ''} {list_missing(rows)})"
        for (side, reason), rows in found.items()
    ]
    return f"; {lead}: {', '.join(parts)}" if parts else ""


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, title=Text(title), title_justify="left", caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return EN_DASH if value is None else f"{value:.{digits}f}"


def _span(interval: dict[str, Any], digits: int = 3) -> str:
    low, high = interval["low"], interval["high"]
    return EN_DASH if low is None and high is None else f"{_number(low, digits)} to {_number(high, digits)}"
