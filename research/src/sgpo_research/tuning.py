"""Tuning with the same budget for every method: trials are compared on held-out human pairs."""

from typing import Any, Literal, NamedTuple

import numpy as np

from sgpo.choices import check_choice
from sgpo.errors import InputError
from sgpo.stats.acceptance import latest_supported
from sgpo.stats.ranking import ranking_accuracy
from sgpo.stats.temperature import fit_temperature
from sgpo_research.methods import Method
from sgpo_research.simulation.leader import Training, Trials
from sgpo_research.simulation.rounds import Simulation, Stage
from sgpo_research.summary import Row
from sgpo_research.worlds.arrays import ArrayWorld, judge

TRIALS, QUICK_TRIALS = 8, 4
LOWEST_RATE, HIGHEST_RATE = 0.006, 0.2
Criterion = Literal["deflated", "likelihood"]


class Tuned(NamedTuple):
    """The results of a tuned method in a world.

    Attributes:
        final: one row for what the chosen trial ships.
        rounds: a row per stage of the chosen trial, shipped or not, and one more for a final DPO.
    """

    final: Row
    rounds: list[Row]


def trials_of(method: Method, count: int = TRIALS) -> Trials:
    """Geometrically spaced learning rates from 0.006 to 0.2, each with every value of the method's own parameter.

    Raises:
        InputError: the values do not divide the number of trials.
    """
    values = np.array(method.own_values or (np.nan,), dtype=np.float64)
    if count % len(values):
        raise InputError(f"{method.name} has {len(values)} values for {count} trials; allowed: a divisor.")
    rates = np.geomspace(LOWEST_RATE, HIGHEST_RATE, count // len(values))
    return Trials(np.repeat(rates, len(values)), np.tile(values, len(rates)))


def tune(
    world: ArrayWorld,
    method: Method,
    training: Training,
    seed: int,
    *,
    trials: int = TRIALS,
    criterion: Criterion = "deflated",
) -> Tuned:
    """Runs all trials of a method and keeps the one whose shipped policy fits held-out human pairs best.

    Args:
        world: the world.
        method: the method.
        training: the settings that all methods share.
        seed: of sampling and of the order of pairs.
        trials: number of trials.
        criterion: "deflated": held-out log-likelihood at a fitted temperature below 1 (`deflated_loss`), which does not
            punish gaps that self-annotation inflated; "likelihood": at temperature 1. Gold is never used.

    Raises:
        InputError: an unknown criterion.
    """
    check_choice("criterion", criterion, Criterion)
    simulation = Simulation(world, method, trials_of(method, trials), training, seed)
    stages = simulation.run()
    gaps = np.stack([simulation.gaps(stage.theta) for stage in stages])
    places = _shipped(method, gaps, world.held_out.length)
    shipped = np.stack([
        stages[place].theta[trial] if place is not None else np.zeros(world.dimensions)
        for trial, place in enumerate(places)
    ])  # fmt: skip
    own = simulation.gaps(shipped)
    losses = [deflated_loss(row) for row in own] if criterion == "deflated" else np.logaddexp(0, -own).mean(1)
    best = int(np.argmin(losses))
    settings = {"learning_rate": float(simulation.trials.learning_rates[best])}
    settings["own"] = float(simulation.trials.own[best]) if method.own else None
    final_theta = shipped[best]
    if method.human_last and places[best] is not None:
        final_theta = simulation.finish(final_theta, best)
    gold = _measure(world, final_theta)
    final = {"method": method.name, **gold, **settings, "shipped": -1 if places[best] is None else int(places[best])}
    final["held_out_accuracy"] = ranking_accuracy(own[best]).accuracy
    rounds = [
        {"method": method.name, "round": number, **_measure(world, stage.theta[best]), **_stage(stage, best)}
        for number, stage in enumerate(stages)
    ]
    if method.human_last:
        rounds.append({**rounds[-1], "round": len(stages), **gold, "agreement": None, "radius": None, "kept": None})
    return Tuned(final, rounds)


def deflated_loss(gaps: np.ndarray) -> float:
    """Mean of -log sigma(c * gap) over gaps (N,), in nats, at the fitted temperature c, held to [0, 1].

    Gaps that are too large are corrected, gaps that are too small are not.
    """
    scale = min(max(fit_temperature(gaps).scale, 0.0), 1.0)
    return float(np.logaddexp(0.0, -scale * gaps).mean())


def _shipped(method: Method, gaps: np.ndarray, length: np.ndarray) -> list[int | None]:
    """The stage that each trial ships; None: the SFT policy."""
    if method.accept not in ("supported", "supported_any_length"):
        return [len(gaps) - 1] * gaps.shape[1]
    control = length if method.accept == "supported" else None
    return [latest_supported(gaps[:, trial], control=control).place for trial in range(gaps.shape[1])]


def _measure(world: ArrayWorld, theta: np.ndarray) -> dict[str, float]:
    gold = judge(world.test, theta[None])
    return {name: float(values[0]) for name, values in gold._asdict().items()}


def _stage(stage: Stage, trial: int) -> dict[str, Any]:
    radius = float(stage.radius[trial])
    return {
        "radius": None if np.isnan(radius) else radius,
        "agreement": float(np.broadcast_to(stage.agreement, len(stage.theta))[trial]),
        "kept": float(np.broadcast_to(stage.kept, len(stage.theta))[trial]),
        "taken": bool(stage.accepted[trial]),
    }
