r"""A finite game over preference triples, solved by convex programs (PAPER.md D6).

Triples z_1..z_M = (prompt, chosen, rejected) have features d_j = phi(chosen) - phi(rejected). A leader theta with
|theta| <= R gives each the gap theta . d_j and the loss l_j(theta) = log(1 + exp(-theta . d_j)). The ground metric is
|d_i - d_j|, so every leader's loss is R-Lipschitz in it. The follower picks a law on the same triples within
1-Wasserstein distance `radius` of the empirical law.

The follower chooses a law on triples, not on gaps, while the leader's choice changes the losses. So regret is not
trivial here, as it is for laws of gaps.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, kron

from sgpo.errors import InputError


@dataclass(frozen=True)
class FiniteGame:
    """A game.

    Attributes:
        features: (M, p) d_j.
        law: (M,) empirical probabilities.
        bound: R, the largest norm of a leader; the Lipschitz constant of its losses.

    Raises:
        InputError: the law is not a probability vector, the bound is not positive, or shapes differ.
    """

    features: np.ndarray
    law: np.ndarray
    bound: float

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.law.shape != self.features.shape[:1]:
            raise InputError(
                f"features has the shape {self.features.shape} and law {self.law.shape}; allowed: (M, p) and (M,)."
            )
        if (self.law < 0).any() or not np.isclose(self.law.sum(), 1):
            raise InputError(f"law sums to {self.law.sum()}; allowed: probabilities that sum to 1.")
        if not self.bound > 0:
            raise InputError(f"bound is {self.bound}; allowed: a number > 0.")

    @property
    def distances(self) -> np.ndarray:
        """(M, M) ground metric."""
        return np.linalg.norm(self.features[:, None] - self.features[None], axis=-1)

    def losses(self, theta: np.ndarray) -> np.ndarray:
        """(M,) losses of a leader, in nats."""
        return np.logaddexp(0.0, -self.features @ theta)


def random_game(triples: int, dimensions: int, *, bound: float, seed: int) -> FiniteGame:
    """A game with normal features, labelled by a Bradley-Terry annotator with a linear reward."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(triples, dimensions))
    direction = rng.normal(size=dimensions)
    features[rng.random(triples) > 1 / (1 + np.exp(-2 * features @ direction))] *= -1
    return FiniteGame(features, np.full(triples, 1 / triples), bound)


def worst_law(game: FiniteGame, losses: np.ndarray, radius: float) -> np.ndarray:
    """The follower's best response: the law in the ball with the largest mean of (M,) losses, by a linear program.

    Returns: (M,) probabilities.
    """
    count = len(losses)
    sends_all = kron(eye_array(count), np.ones((1, count)))
    distances = game.distances.ravel()
    solution = linprog(
        -np.tile(losses, count),
        A_eq=csr_array(sends_all),
        b_eq=game.law,
        A_ub=csr_array(distances[None]),
        b_ub=[radius],
        method="highs",
    )
    if not solution.success:
        raise RuntimeError(f"the follower's program was not solved: {solution.message}")
    return solution.x.reshape(count, count).sum(axis=0)


def best_leader(game: FiniteGame, law: np.ndarray) -> np.ndarray:
    """The leader with the smallest mean loss under a law, (p,); DPO's for the empirical law."""
    import cvxpy as cp

    theta = cp.Variable(game.features.shape[1])
    objective = law @ cp.logistic(-game.features @ theta)
    return _solve(objective, [cp.norm(theta) <= game.bound], theta)


def robust_leader(
    game: FiniteGame, radius: float, *, pull: float = 0.0, anchor: np.ndarray | None = None
) -> np.ndarray:
    r"""The leader's part of an equilibrium, (p,), by the dual of the follower's program.

    min over theta and lambda >= 0 of  lambda * radius + sum_i law_i * max_j [l_j(theta) - lambda * |d_i - d_j|],
    plus pull / 2 * |theta - anchor|^2, a proximal step from the anchor, if there is one.

    Source: Mohajerin Esfahani and Kuhn, arXiv:1505.05116, Theorem 4.2, on a finite support.
    """
    import cvxpy as cp

    count, dimensions = game.features.shape
    theta, price = cp.Variable(dimensions), cp.Variable(nonneg=True)
    losses, worst = cp.Variable(count), cp.Variable(count)
    constraints = [
        cp.norm(theta) <= game.bound,
        losses >= cp.logistic(-game.features @ theta),
        cp.reshape(worst, (count, 1), order="C") @ np.ones((1, count))
        >= np.ones((count, 1)) @ cp.reshape(losses, (1, count), order="C") - price * game.distances,
    ]
    objective = price * radius + game.law @ worst
    if anchor is not None:
        objective += pull / 2 * cp.sum_squares(theta - anchor)
    return _solve(objective, constraints, theta)


def _solve(objective, constraints, theta) -> np.ndarray:
    import cvxpy as cp

    problem = cp.Problem(cp.Minimize(objective), constraints)
    # The tightest tolerance sometimes fails numerically on logistic terms that are nearly flat.
    for tolerance in (1e-8, 1e-7, 1e-6):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Solution may be inaccurate", UserWarning)
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance)
        if problem.status == "optimal":
            break
    else:
        raise RuntimeError(f"the leader's program was not solved: {problem.status}")
    return np.asarray(theta.value)


def robust_value(game: FiniteGame, theta: np.ndarray, radius: float) -> float:
    """The largest mean loss of a leader in the ball, in nats."""
    losses = game.losses(theta)
    return float(losses @ worst_law(game, losses, radius))


def regret(game: FiniteGame, theta: np.ndarray, law: np.ndarray) -> float:
    """Mean loss of a leader under a law minus that of the best leader for this law, in nats."""
    return float(law @ (game.losses(theta) - game.losses(best_leader(game, law))))


def worst_regret(game: FiniteGame, theta: np.ndarray, radius: float, *, starts: int, seed: int) -> float:
    """A lower bound of a leader's largest regret over the ball, by alternating maximisation.

    Regret is the maximum over laws and rivals theta' of the mean of l(theta) - l(theta'). Each maximisation is a linear
    or convex program, the joint one is not; hence several starts.
    """
    rng = np.random.default_rng(seed)
    largest = 0.0
    for _ in range(starts):
        rival = rng.normal(size=theta.shape)
        rival *= game.bound / np.linalg.norm(rival)
        found = -np.inf
        while True:
            law = worst_law(game, game.losses(theta) - game.losses(rival), radius)
            rival = best_leader(game, law)
            value = float(law @ (game.losses(theta) - game.losses(rival)))
            if value <= found + 1e-9:
                break
            found = value
        largest = max(largest, found)
    return largest


def proximal_path(game: FiniteGame, radius: float, *, pull: float, iterations: int, start: np.ndarray) -> np.ndarray:
    """Proximal steps of the leader on the robust value, which contains the follower's answer: (iterations, p)."""
    path = [start]
    for _ in range(iterations):
        path.append(robust_leader(game, radius, pull=pull, anchor=path[-1]))
    return np.array(path[1:])


def gradient_path(game: FiniteGame, radius: float, *, step: float, iterations: int, start: np.ndarray) -> np.ndarray:
    """Projected gradient steps against the follower's answer to every step (Danskin): (iterations, p)."""
    theta, path = start, []
    for _ in range(iterations):
        law = worst_law(game, game.losses(theta), radius)
        gradient = -(law / (1 + np.exp(game.features @ theta))) @ game.features
        theta = theta - step * gradient
        theta = theta * min(1.0, game.bound / max(np.linalg.norm(theta), 1e-300))
        path.append(theta)
    return np.array(path)
