"""Table 4: the follower's time and value by solver, K and group size."""

import time

import numpy as np

from sgpo.robust.paper import solve_worst_case
from sgpo_research.cells import Cell
from sgpo_research.methods import METHODS, PAPER, Method
from sgpo_research.simulation.policies import annotate
from sgpo_research.simulation.rounds import Simulation
from sgpo_research.summary import Row
from sgpo_research.tuning import QUICK_TRIALS, TRIALS, trials_of, tune
from sgpo_research.worlds.noise import NO_NOISE

TANGENTS, GROUPS, RADIUS = (5, 6, 7), (100, 200, 300, None), 0.01


def groups(seed: int, quick: bool) -> list[Row]:
    """The follower's answer to the last round's gaps of a run in the benign world, by solver, K and G.

    SLSQP gets a single group of 60 gaps (20 in the quick form), since its time grows with the cube of their number.

    Rows: solver, tangents, group ("all" for one group), pairs, seconds, value (nats), price.
    """
    cell = Cell("benign", NO_NOISE)
    world = cell.draw(seed, quick=quick)
    # One trial with a moderate learning rate is enough: only its gaps are used.
    trials = trials_of(METHODS[PAPER], 3)
    simulation = Simulation(world, METHODS[PAPER], trials, cell.training, seed)
    theta = simulation.run()[-2].theta[1:2]
    pairs = annotate(
        world.pools[-1], theta, theta, responses=cell.training.responses, temperature=cell.training.temperature,
        rng=np.random.default_rng([seed, len(world.pools), 0]),
    )  # fmt: skip
    gaps = world.beta * (pairs.differences[0] @ theta[0])[pairs.kept[0] > 0].astype(np.float64)
    rows = []
    for tangents in TANGENTS:
        for size in GROUPS:
            rows.append(_solve(gaps, "exact", tangents, size, seed))
        rows.append(_solve(gaps, "highs", tangents, 100, seed))
    rows.append(_solve(gaps[: 20 if quick else 60], "slsqp", 6, None, seed))
    return rows


def tangents(seed: int, quick: bool) -> list[Row]:
    """Win rate by K in the benign and the derailing world, with the exact follower; rows: world, tangents, win_rate."""
    rows = []
    for name in ("benign", "derailing"):
        cell = Cell(name, NO_NOISE)
        world = cell.draw(seed, quick=quick)
        for count in TANGENTS:
            method = Method(f"K = {count}", {}, loss="robust", radius=RADIUS, tangents=count)
            tuned = tune(world, method, cell.training, seed, trials=QUICK_TRIALS if quick else TRIALS)
            rows.append({**cell.keys, "tangents": count, "win_rate": tuned.final["win_rate"]})
    return rows


def _solve(gaps: np.ndarray, solver: str, tangents: int, size: int | None, seed: int) -> Row:
    start = time.perf_counter()
    worst = solve_worst_case(
        gaps, RADIUS, solver=solver, group_size=size, seed=seed, space="probability", tangents=tangents
    )
    seconds = time.perf_counter() - start
    return {
        "solver": solver, "tangents": tangents, "group": "all" if size is None else str(size), "pairs": len(gaps),
        "seconds": seconds, "value": float(worst.value), "price": float(worst.price),
    }  # fmt: skip
