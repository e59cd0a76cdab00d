"""The paper's claims on the finite game, as rows of numbers: value lost, regret under a growing shift, and the rate."""

import numpy as np

from sgpo.study.theory.finite_game import (
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


def games(count: int) -> list[FiniteGame]:
    """The games that the tables are made of."""
    return [random_game(TRIPLES, DIMENSIONS, bound=BOUND, seed=seed) for seed in range(count)]


def value_lost(count: int) -> list[dict[str, float]]:
    """Value that the worst law in the ball takes from a leader, beside the bound |theta| * radius.

    Rows: game, radius, leader ("dpo", "sgpo"), lost (nats), bound (nats).
    """
    rows = []
    for seed, game in enumerate(games(count)):
        dpo = best_leader(game, game.law)
        for radius in RADII:
            for name, theta in (("dpo", dpo), ("sgpo", robust_leader(game, radius))):
                lost = robust_value(game, theta, radius) - float(game.law @ game.losses(theta))
                bound = float(np.linalg.norm(theta)) * radius
                rows.append({"game": seed, "radius": radius, "leader": name, "lost": lost, "bound": bound})
    return rows


def regret_under_shift(count: int, *, starts: int = 6) -> list[dict[str, float]]:
    """The largest regret that a shift of at most delta can cause, for DPO and for SGPO with radius 0.1.

    Rows: game, shift, dpo, sgpo (nats), and bound, 2 * R * shift, which holds for both inside the ball.
    """
    rows = []
    for seed, game in enumerate(games(count)):
        dpo, sgpo = best_leader(game, game.law), robust_leader(game, RADIUS)
        for shift in SHIFTS:
            row = {"game": seed, "shift": shift, "bound": 2 * game.bound * shift}
            for name, theta in (("dpo", dpo), ("sgpo", sgpo)):
                row[name] = worst_regret(game, theta, shift, starts=starts, seed=seed)
            rows.append(row)
    return rows


def convergence(count: int) -> list[dict[str, float]]:
    """Distance to the equilibrium along two paths: proximal steps, and gradient steps of constant length.

    Rows: game, path ("proximal", "gradient"), iteration (from 1), distance.
    """
    rows = []
    for seed, game in enumerate(games(count)):
        equilibrium, start = robust_leader(game, RADIUS), np.zeros(DIMENSIONS)
        paths = {
            "proximal": proximal_path(game, RADIUS, pull=0.2, iterations=25, start=start),
            "gradient": gradient_path(game, RADIUS, step=0.5, iterations=400, start=start),
        }
        for name, path in paths.items():
            distances = np.linalg.norm(path - equilibrium, axis=1)
            rows += [
                {"game": seed, "path": name, "iteration": number, "distance": float(distance)}
                for number, distance in enumerate(distances, start=1)
            ]
    return rows
