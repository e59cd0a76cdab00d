"""Rows of the study's fast tables for one seed: functions for `StudyTable.run`.

Seeds from 1000 were used to develop worlds and methods; tables report seeds from 0.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from sgpo_research.cells import REAL, Cell, cells
from sgpo_research.methods import DECISION, DEFAULT, METHODS, MORE_LABELS, PAPER, PLAIN, Method
from sgpo_research.summary import Row, summarise
from sgpo_research.tuning import QUICK_TRIALS, TRIALS, Criterion, tune
from sgpo_research.worlds.loglinear import loglinear_world, settings_of
from sgpo_research.worlds.noise import NO_NOISE, LabelNoise
from sgpo_research.worlds.real_preferences import RealSettings, load_candidates, real_world
from sgpo_research.worlds.seed_choice import SeedChoice

FLIPPED = LabelNoise("symmetric", 0.25)
RADIUS_GRID = (0.0, 0.01, 0.03, 0.05, 0.1, 0.3, 0.6)
HELD_OUT = (50, 100, 200, 400, 800)
TABLE_WORLDS = ("benign", "derailing")
FOLLOWED = (PLAIN, "SPA", PAPER, "SSAPO, validated", DECISION, DEFAULT)
# The methods of the quick forms, which CI runs without looking at results.
QUICK_METHODS = ("DPO on seeds", PLAIN, PAPER, DEFAULT)


def main_results(seed: int, quick: bool, data: Path | None = None) -> list[Row]:
    """Tables 1 and 2: every method, without label noise (but Bradley-Terry's own randomness).

    Rows: world, noise, method; win_rate (gold, against the SFT policy), reward and kl (nats), learning_rate, own,
    shipped (the round whose policy is shipped, -1: the SFT policy), held_out_accuracy.
    """
    return _final_rows(main_cells(data), _methods(quick), seed, quick)


def main_cells(data: Path | None) -> list[Cell]:
    """The cells of `main_results`."""
    return cells(noises=(NO_NOISE,), data=data)


def worst_case_over_worlds(seed: int, quick: bool, data: Path | None = None) -> list[Row]:
    """Every method in every world with every noise; rows as `main_results`, summarised by `worst_cells`."""
    return _final_rows(cells(data=data), _methods(quick), seed, quick)


def flipped_seeds(seed: int, quick: bool, data: Path | None = None) -> list[Row]:
    """Table 5: a quarter of the labels flipped; rows as `main_results`."""
    return _final_rows(flipped_cells(data), _methods(quick), seed, quick)


def flipped_cells(data: Path | None) -> list[Cell]:
    """The cells of `flipped_seeds`."""
    return cells(worlds=TABLE_WORLDS, noises=(NO_NOISE, FLIPPED), data=data)


def part_of_worst_case(rows: list[Row], where: list[Cell]) -> list[Row] | None:
    """The rows of some cells from those of `worst_case_over_worlds` for a seed; None where a cell is missing."""
    wanted = [(cell.keys["world"], cell.keys["noise"]) for cell in where]
    found = [row for row in rows if (row["world"], row["noise"]) in wanted]
    return found if {(row["world"], row["noise"]) for row in found} == set(wanted) else None


def worst_cells_as_markdown(rows: list[Row]) -> str:
    """`worst_cells` as a Markdown table."""
    lines = [
        "The worst cell of each method:",
        "",
        "| method | world | noise | win_rate | 95% |",
        "|" + "---|" * 5,
    ]
    for row in worst_cells(rows):
        more = " (with more labels)" if row["more_labels"] else ""
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(
            f"| {row['method']}{more} | {row['world']} | {row['noise']} | {row['win_rate']:.3f} | {interval} |"
        )
    return "\n".join(lines)


def rounds(seed: int, quick: bool, data: Path | None = None) -> list[Row]:
    """Figure 2: gold after each round, shipped or not.

    Rows: world, noise, method, round; win_rate, reward, kl, radius, agreement (of its pairs with gold), kept, taken.
    """
    names = QUICK_METHODS if quick else FOLLOWED
    rows = []
    for cell in cells(worlds=TABLE_WORLDS, noises=(NO_NOISE,), data=data):
        world = cell.draw(seed, quick=quick)
        for name in names:
            tuned = tune(world, METHODS[name], cell.training, seed, trials=_trials(quick))
            rows += [{**cell.keys, **row} for row in tuned.rounds]
    return rows


def radius(seed: int, quick: bool, data: Path | None = None) -> list[Row]:
    """Table 3: fixed radii in probability space under two leader steps, and rules that find the radius.

    Rows: world, noise, step, rule ("0.01", ..., "measured", "validated"); win_rate, and radius_used, its mean over
    rounds.
    """
    grid = (0.0, 0.01, 0.1) if quick else RADIUS_GRID
    fixed = [
        (step, f"{value:g}", replace(METHODS[PAPER], step=step, radius=value))
        for step in ("envelope", "transport")
        for value in grid
    ]
    rules = [
        ("envelope", name.removeprefix("SSAPO, "), METHODS[name]) for name in ("SSAPO, measured", "SSAPO, validated")
    ]
    rows = []
    for cell in cells(worlds=TABLE_WORLDS, noises=(NO_NOISE,), data=data):
        world = cell.draw(seed, quick=quick)
        for step, rule, method in [*fixed, *rules]:
            tuned = tune(world, method, cell.training, seed, trials=_trials(quick))
            used = [row["radius"] for row in tuned.rounds if row["radius"] is not None]
            mean = sum(used) / len(used) if used else 0.0
            rows.append(
                {**cell.keys, "step": step, "rule": rule, "win_rate": tuned.final["win_rate"], "radius_used": mean}
            )
    return rows


def seed_choice(seed: int, quick: bool, data: Path | None = None) -> list[Row]:
    """Seeds by farthest points of the prompts' embedding against random ones, everything else fixed.

    The world is that of seed 0 in every row, so that the spread over seeds is due to the choice only.

    Rows: world, noise, choice, method; win_rate.
    """
    candidates = None if data is None else load_candidates(data)
    rows = []
    for cell in cells(worlds=("benign",), noises=(NO_NOISE,), data=data):
        for rule in ("random", "farthest"):
            choice = SeedChoice(rule, seed)
            if cell.world == REAL:
                world = real_world(candidates, RealSettings(), 0, choice=choice)
            else:
                world = loglinear_world(settings_of(cell.world, quick=quick), 0, choice=choice)
            for name in ("DPO on seeds", PLAIN, DEFAULT):
                tuned = tune(world, METHODS[name], cell.training, 0, trials=_trials(quick))
                rows.append({**cell.keys, "choice": rule, "method": name, "win_rate": tuned.final["win_rate"]})
    return rows


def held_out_size(seed: int, quick: bool) -> list[Row]:
    """How many held-out pairs the decision needs, under either tuning criterion.

    Rows: world, noise, pairs, criterion, method; win_rate, and sft, whether the SFT policy was shipped.
    """
    rows = []
    for cell in cells(worlds=TABLE_WORLDS, noises=(NO_NOISE, FLIPPED)):
        for pairs in HELD_OUT[:1] if quick else HELD_OUT:
            settings = replace(settings_of(cell.world, cell.noise, quick=quick), held_out=pairs)
            world = loglinear_world(settings, seed)
            for criterion in get_args(Criterion):
                for name in ("DPO on seeds", PLAIN, DECISION, DEFAULT):
                    tuned = tune(
                        world, METHODS[name], cell.training, seed, trials=_trials(quick), criterion=criterion
                    ).final  # fmt: skip
                    found = {"pairs": pairs, "criterion": criterion, "method": name, "win_rate": tuned["win_rate"]}
                    rows.append({**cell.keys, **found, "sft": float(tuned["shipped"] == -1)})
    return rows


def worst_cells(rows: Iterable[Row]) -> list[Row]:
    """The worst cell of each method, by its mean over seeds, best method first.

    Args:
        rows: of `worst_case_over_worlds`, with their seeds.

    Returns: rows of method, world, noise, win_rate, low, high (95%), seeds, and more_labels (whether the method uses
        more labels than the others).
    """
    means = summarise(rows, by=("method", "world", "noise"), measure="win_rate")
    worst: dict[str, Row] = {}
    for (method, world, noise), mean in means.items():
        if method not in worst or mean.mean < worst[method]["win_rate"]:
            worst[method] = {
                "method": method, "world": world, "noise": noise, "win_rate": mean.mean, "low": mean.low,
                "high": mean.high, "seeds": mean.seeds, "more_labels": method in MORE_LABELS,
            }  # fmt: skip
    return sorted(worst.values(), key=lambda row: -row["win_rate"])


def _methods(quick: bool) -> list[Method]:
    return [METHODS[name] for name in QUICK_METHODS] if quick else list(METHODS.values())


def _trials(quick: bool) -> int:
    return QUICK_TRIALS if quick else TRIALS


def _final_rows(where: list[Cell], methods: list[Method], seed: int, quick: bool) -> list[Row]:
    rows = []
    for cell in where:
        world = cell.draw(seed, quick=quick)
        rows += [
            {**cell.keys, **tune(world, method, cell.training, seed, trials=_trials(quick)).final} for method in methods
        ]
    return rows
