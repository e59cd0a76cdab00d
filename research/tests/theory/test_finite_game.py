"""The finite game is solved to optimality, and the paper's claims hold on it where they are claimed."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.sparse import block_array, csr_array, eye_array, kron

from sgpo.errors import InputError
from sgpo_research.theory.claims import BOUND, DIMENSIONS, RADIUS, convergence, regret_under_shift, value_lost
from sgpo_research.theory.finite_game import (
    FiniteGame,
    best_leader,
    random_game,
    regret,
    robust_leader,
    robust_value,
    worst_law,
)

GAMES = [random_game(12, DIMENSIONS, bound=BOUND, seed=seed) for seed in range(3)]


def wasserstein(game: FiniteGame, first: np.ndarray, second: np.ndarray) -> float:
    """W1 between two (M,) laws on the triples, by the transport program."""
    count = len(first)
    rows = kron(eye_array(count), np.ones((1, count)))
    columns = kron(np.ones((1, count)), eye_array(count))
    solution = linprog(
        game.distances.ravel(),
        A_eq=csr_array(block_array([[rows], [columns]])),
        b_eq=np.concatenate([first, second]),
        method="highs",
    )
    return float(solution.fun)


@pytest.mark.parametrize("game", GAMES)
def test_the_empirical_leader_is_dpos_optimum(game):
    """Against another solver: SciPy on the loss itself."""
    ours = best_leader(game, game.law)
    theirs = minimize(
        lambda theta: game.law @ game.losses(theta),
        np.zeros(DIMENSIONS),
        constraints={"type": "ineq", "fun": lambda theta: BOUND - np.linalg.norm(theta)},
    )
    assert game.law @ game.losses(ours) == pytest.approx(theirs.fun, abs=1e-6)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("radius", [0.05, 0.3])
def test_the_dual_leaders_value_is_the_primal_followers(game, radius):
    """No leader nearby does better against its own worst law, which another program computes."""
    theta = robust_leader(game, radius)
    value = robust_value(game, theta, radius)
    rng = np.random.default_rng(0)
    for _ in range(40):
        other = theta + 0.1 * rng.normal(size=DIMENSIONS)
        other *= min(1.0, BOUND / np.linalg.norm(other))
        assert robust_value(game, other, radius) >= value - 1e-7


@pytest.mark.parametrize("game", GAMES)
def test_the_worst_law_spends_the_radius_and_no_more(game):
    losses = game.losses(best_leader(game, game.law))
    law = worst_law(game, losses, 0.1)
    assert law.sum() == pytest.approx(1)
    assert wasserstein(game, game.law, law) == pytest.approx(0.1, abs=1e-8)


def test_a_radius_of_zero_is_dpo():
    game = GAMES[0]
    assert robust_leader(game, 0.0) == pytest.approx(best_leader(game, game.law), abs=1e-4)


def test_the_value_lost_in_the_ball_is_at_most_the_lipschitz_constant_times_the_radius():
    rows = [row for seed in range(3) for row in value_lost(seed)]
    assert all(row["lost"] <= row["bound"] + 1e-8 for row in rows)
    # Of a bound that held only because nothing is lost, nothing could be learned.
    assert max(row["lost"] / row["bound"] for row in rows if row["radius"]) > 0.5


def test_regret_inside_the_ball_is_at_most_twice_the_lipschitz_constant_times_the_radius():
    """For SGPO as the paper says; and for DPO too, by the same three lines, which the paper does not say."""
    for game in GAMES:
        leaders = {"sgpo": robust_leader(game, RADIUS), "dpo": best_leader(game, game.law)}
        rng = np.random.default_rng(1)
        for theta in leaders.values():
            for _ in range(10):
                law = worst_law(game, rng.normal(size=len(game.law)), RADIUS)
                assert regret(game, theta, law) <= 2 * BOUND * RADIUS + 1e-7


def test_dpos_regret_overtakes_sgpos_once_the_shift_is_several_radii():
    rows = [row for seed in range(3) for row in regret_under_shift(seed, starts=3)]
    by_shift = {
        shift: [np.mean([row[name] for row in rows if row["shift"] == shift]) for name in ("dpo", "sgpo")]
        for shift in sorted({row["shift"] for row in rows})
    }
    assert all(row[name] <= row["bound"] + 1e-7 for row in rows for name in ("dpo", "sgpo"))
    assert by_shift[0.02][0] < by_shift[0.02][1]
    assert by_shift[0.8][0] > 1.3 * by_shift[0.8][1]


def test_proximal_steps_converge_linearly():
    for seed in (0, 1):
        distances = np.array([row["distance"] for row in convergence(seed) if row["path"] == "proximal"])
        ratios = distances[5:20] / distances[4:19]
        assert ratios.max() < 0.85
        assert np.ptp(ratios) < 0.1


def test_what_is_no_game_is_refused():
    with pytest.raises(InputError, match="law sums to"):
        FiniteGame(np.ones((2, 1)), np.ones(2), 1.0)
    with pytest.raises(InputError, match="bound is 0"):
        FiniteGame(np.ones((2, 1)), np.full(2, 0.5), 0)
    with pytest.raises(InputError, match="features has the shape"):
        FiniteGame(np.ones((3, 1)), np.full(2, 0.5), 1.0)
