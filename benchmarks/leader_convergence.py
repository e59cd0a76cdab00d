"""The envelope leader against a convex solver, on a log-linear policy: does it reach the optimum, and how fast?

    python benchmarks/leader_convergence.py --output docs/leader_convergence.svg

A log-linear policy pi(y | x) ~ exp(theta . phi(x, y)) has gaps that are linear in theta, so for a fixed price of radius
the leader's problem is convex, and the robust optimum is the best of a one-dimensional family of convex programs:

    min over lambda >= 0 of  min over theta of  lambda * radius + mean_i max(f(u_i), f(a) - lambda * (u_i - a)).

Source: arXiv:2502.18099, Theorem 2.3 (linear rate of alternating best responses) and Theorem 3.3.
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import NamedTuple

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar

from sgpo.leader.config import SGPOConfig
from sgpo.leader.follower import Follower
from sgpo.leader.pairs import Pairs, PairTags

RADIUS, WINDOW = 0.2, (-8.0, 8.0)


class Optimum(NamedTuple):
    """The robust optimum: value in nats, parameters (D,), price of radius."""

    value: float
    theta: np.ndarray
    price: float


def make_features(count: int = 80, size: int = 4, seed: int = 0) -> np.ndarray:
    """Differences phi(x, y_w) - phi(x, y_l), (N, D), of noisy labels, so that the optimum is finite."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, size))
    truth = np.linspace(1.0, -1.0, size)
    agrees = features @ truth + generator.logistic(size=count) > 0
    return np.where(agrees[:, None], features, -features)


def solve_robust(features: np.ndarray) -> Optimum:
    """The optimum by convex programs alone: Clarabel through CVXPY where they are installed, else SLSQP."""
    solve = _program(features)
    found = minimize_scalar(
        lambda price: solve(price)[0], bounds=(0.05, 1.0), method="bounded", options={"xatol": 1e-7}
    )
    value, theta = solve(found.x)
    return Optimum(value, theta, float(found.x))


def _program(features: np.ndarray):
    low = np.logaddexp(0, -WINDOW[0])
    try:
        import cvxpy
    except ImportError:
        return lambda price: _solve_by_scipy(features, price, low)
    theta, price = cvxpy.Variable(features.shape[1]), cvxpy.Parameter(nonneg=True)
    gaps = features @ theta
    loss = cvxpy.sum(cvxpy.maximum(cvxpy.logistic(-gaps), low - price * (gaps - WINDOW[0]))) / len(features)
    problem = cvxpy.Problem(cvxpy.Minimize(loss))

    def solve(value: float):
        price.value = value
        problem.solve(solver="CLARABEL", ignore_dpp=True)
        return problem.value + value * RADIUS, theta.value

    return solve


def _solve_by_scipy(features: np.ndarray, price: float, low: float):
    """The same program in epigraph form: mean of t with t_i above both branches."""
    count, size = features.shape
    start = np.concatenate([np.zeros(size), np.full(count, low)])
    constraints = [
        {"type": "ineq", "fun": lambda z: z[size:] - np.logaddexp(0, -features @ z[:size]),
         "jac": lambda z: np.hstack([features / (1 + np.exp(features @ z[:size]))[:, None], np.eye(count)])},
        {"type": "ineq", "fun": lambda z: z[size:] - low + price * (features @ z[:size] - WINDOW[0]),
         "jac": lambda z: np.hstack([price * features, np.eye(count)])},
    ]  # fmt: skip
    gradient = np.concatenate([np.zeros(size), np.full(count, 1 / count)])
    found = minimize(lambda z: z[size:].mean(), start, jac=lambda z: gradient, constraints=constraints, method="SLSQP",
                     options={"maxiter": 500, "ftol": 1e-12})  # fmt: skip
    return found.fun + price * RADIUS, found.x[:size]


def train_leader(
    features: np.ndarray, *, steps: int = 400, learning_rate: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient steps of the envelope leader, the follower answering exactly after each.

    Returns: parameters (steps + 1, D) and robust values (steps + 1,), in nats.
    """
    args = SGPOConfig(output_dir="unused", report_to="none", use_cpu=True, bf16=False, radius=RADIUS, space="margin",
                      tangents=0, window=list(WINDOW), schedule="step")  # fmt: skip
    rows = np.arange(len(features))
    matrix = torch.tensor(features)
    theta = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    follower = Follower(args, Pairs(rows), features @ theta.detach().numpy())
    follower.answer()
    tags = PairTags(row=torch.tensor(rows))
    path, values = [theta.detach().numpy().copy()], [follower.worst_cases["all"].value]
    for _ in range(steps):
        follower.loss(matrix @ theta, tags, training=True).loss.mean().backward()
        with torch.no_grad():
            theta -= learning_rate * theta.grad
            theta.grad = None
        follower.see(rows, (matrix @ theta).detach().numpy())
        path.append(theta.detach().numpy().copy())
        values.append(follower.worst_cases["all"].value)
    return np.array(path), np.array(values)


def plot_rate(path: np.ndarray, values: np.ndarray, best: Optimum, output: Path) -> None:
    """Distance to the optimum over steps, on a logarithmic scale: a straight line is a linear rate."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "sgpo"
    figure, axes = plt.subplots(figsize=(6, 3.4))
    axes.semilogy(np.linalg.norm(path - best.theta, axis=1), label="distance of the parameters")
    # Below this the convex solver's own tolerance is what one would see.
    above = np.where(values - best.value > 1e-10, values - best.value, np.nan)
    axes.semilogy(above, label="robust value above the optimum (nats)")
    axes.set_xlabel("leader step (the follower answers after each)")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(output, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("leader_convergence.svg"))
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    # TRL 1.16 calls transformers 5.23 by names that it has just deprecated.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
    features = make_features()
    best = solve_robust(features)
    path, values = train_leader(features, steps=arguments.steps)
    distance = np.linalg.norm(path - best.theta, axis=1)
    print(f"convex solver: value {best.value:.8f} nats, price {best.price:.6f}")
    print(f"leader after {arguments.steps} steps: value {values[-1]:.8f}, distance {distance[-1]:.2e}")
    plot_rate(path, values, best, arguments.output)


if __name__ == "__main__":
    main()
