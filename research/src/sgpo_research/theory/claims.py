"""Rows for the paper's claims on a finite game: value lost, regret under a growing shift, convergence rate."""

import numpy as np

from sgpo_research.summary import Row
from sgpo_research.theory.finite_game import (
    FiniteGame,
    best_leader,
    gradient_path,
    proximal_path,
    random_game,
    robust_leader,
    robust_value,
    worst_regret,
)

TRIPLES, DIMENSIONS, BOUND, RADIUS = 30, 3, 3.0, 0.1
RADII = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4)
SHIFTS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)


def game_of(seed: int) -> FiniteGame:
    """A game with 30 triples, 3 features and leaders of norm at most 3."""
    return random_game(TRIPLES, DIMENSIONS, bound=BOUND, seed=seed)


def value_lost(seed: int) -> list[Row]:
    """Value that a leader loses to the worst law in the ball, and the bound |theta| * radius.

    Rows: radius, leader ("DPO", "SGPO"), lost and bound (nats).
    """
    game = game_of(seed)
    dpo = best_leader(game, game.law)
    rows = []
    for radius in RADII:
        for name, theta in (("DPO", dpo), ("SGPO", robust_leader(game, radius))):
            lost = robust_value(game, theta, radius) - float(game.law @ game.losses(theta))
            bound = float(np.linalg.norm(theta)) * radius
            rows.append({"radius": radius, "leader": name, "lost": lost, "bound": bound})
    return rows


def regret_under_shift(seed: int, *, starts: int = 6) -> list[Row]:
    """The largest regret under a shift of at most delta, for DPO and for SGPO with radius 0.1.

    Rows: shift, dpo and sgpo (nats), and bound, 2 * R * shift, which holds for both inside the ball.
    """
    game = game_of(seed)
    leaders = {"dpo": best_leader(game, game.law), "sgpo": robust_leader(game, RADIUS)}
    return [
        {
            "shift": shift,
            "bound": 2 * game.bound * shift,
            **{name: worst_regret(game, theta, shift, starts=starts, seed=seed) for name, theta in leaders.items()},
        }
        for shift in SHIFTS
    ]


def convergence(seed: int) -> list[Row]:
    """Distance to the equilibrium along two paths: proximal steps, and gradient steps of constant length.

    Rows: path ("proximal", "gradient"), iteration (from 1), distance, and its base-10 logarithm.
    """
    game, start = game_of(seed), np.zeros(DIMENSIONS)
    equilibrium = robust_leader(game, RADIUS)
    paths = {
        "proximal": proximal_path(game, RADIUS, pull=0.2, iterations=25, start=start),
        "gradient": gradient_path(game, RADIUS, step=0.5, iterations=400, start=start),
    }
    rows = []
    for name, path in paths.items():
        for number, distance in enumerate(np.linalg.norm(path - equilibrium, axis=1), start=1):
            row = {"path": name, "iteration": number, "distance": float(distance)}
            rows.append({**row, "log10_distance": float(np.log10(max(distance, 1e-300)))})
    return rows
