"""The exact follower beside what a user would pick instead: one table from one run.

    python benchmarks/follower.py                    # N = 100 to 10 million; a few minutes, most of them SLSQP's
    python benchmarks/follower.py --slsqp-groups 0   # without SLSQP
    python benchmarks/follower.py --device cuda --sizes 60000 1000000 100000000
    python benchmarks/follower.py --device cuda --device-only --references 0 --sizes 10000000 100000000

Times are medians in milliseconds, ratios medians of ratios taken side by side. The floor is one pass of
numpy.logaddexp over the same array: every gap's loss must be read once. `worst_case` is timed whole: checks, value,
price and the moved share of every gap. `--device-only` takes the pass and the sort on the device too, and leaves out
the columns of NumPy, whose sort of 10^8 numbers takes longer than everything else.
"""

import argparse
import os
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from sgpo.robust import solve_worst_case, worst_case
from sgpo_research.theory.price_tracker import PriceTracker, price_regret

MARGIN = {"window": (-8.0, 8.0)}
PAPER = {"space": "probability", "tangents": 6}
RADIUS = 0.01


def measure(call: Callable[[], object], budget: float = 1.5) -> float:
    """Median seconds of a call, repeated 3 to 15 times within a budget of seconds."""
    return compare([call], budget)[0][0]


def compare(calls: list[Callable[[], object]], budget: float = 5.0) -> list[tuple[float, float]]:
    """Median seconds of each call, and its median ratio to the first: all in turn, so that a busy moment hits all."""
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < 3 or (len(rounds) < 15 and time.perf_counter() - start < budget):
        rounds.append([once(call) for call in calls])
    return [
        (statistics.median(times), statistics.median(t / r[0] for t, r in zip(times, rounds, strict=True)))
        for times in zip(*rounds, strict=True)
    ]


def once(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def draw(count: int) -> np.ndarray:
    """Standard normal gaps inside the margin window."""
    return np.random.default_rng(0).normal(size=count).clip(*MARGIN["window"])


SETTINGS = [
    ("margin, radius 0.01", MARGIN, 0.01),
    ("margin, half the mass moves", MARGIN, 3.6),
    ("paper (K = 6), radius 0.01", PAPER, 0.01),
    ("paper (K = 6), radius 0.1", PAPER, 0.1),
]


def time_exact(sizes: list[int], device: str, device_only: bool) -> None:
    """The exact follower, as a multiple of the pass over the losses."""
    name = "torch " + device
    columns = [f"{name} f64", f"{name} f32"] if device_only else ["NumPy", f"{name} f64", f"{name} f32"]
    floor, sort = ("softplus", "torch.sort") if device_only else ("logaddexp", "numpy.sort")
    print(f"\n| N | setting | {floor}, ms | {columns[0]}, ms | {' | '.join(columns)} | {sort} |")
    print("|---" * (len(columns) + 5) + "|")
    for count in sizes:
        gaps = draw(count)
        double = torch.from_numpy(gaps).to(device)
        inputs = [double, double.float()] if device_only else [gaps, double, double.float()]
        passes = [lambda g=gaps: np.logaddexp(0.0, -g), lambda g=gaps: np.sort(g)]
        if device_only:
            passes = [lambda g=double: torch.nn.functional.softplus(-g), lambda g=double: torch.sort(g)]
        for label, options, radius in SETTINGS:
            calls = [lambda x=x, o=options, r=radius: worst_case(x, r, **o) for x in inputs]
            once_each, sorting, *ours = compare([*passes, *calls])
            times = f"{once_each[0] * 1e3:.3f} | {ours[0][0] * 1e3:.3f}"
            ratios = " | ".join(f"{ratio:.2f}" for _, ratio in ours)
            print(f"| {count:,} | {label} | {times} | {ratios} | {sorting[1]:.2f} |", flush=True)


def time_references(count: int, slsqp_groups: int) -> None:
    """General solvers on the paper's setting, as multiples of the exact follower."""
    gaps = draw(count)
    exact = measure(lambda: worst_case(gaps, RADIUS, **PAPER))
    print(f"\n| solver, N = {count:,}, paper's setting | seconds | times the exact follower | value - exact value |")
    print("|---|---|---|---|")
    value = worst_case(gaps, RADIUS, **PAPER).value
    print(f"| exact | {exact:.6f} | 1 | 0 |")
    solved = []
    highs = once(lambda: solved.append(solve_worst_case(gaps, RADIUS, solver="highs", **PAPER)))
    print(f"| HiGHS, all gaps | {highs:.3f} | {highs / exact:,.0f} | {solved[0].value - value:.1e} |", flush=True)
    try:
        clarabel, reached = time_clarabel(gaps)
        print(f"| cvxpy + Clarabel, all gaps | {clarabel:.3f} | {clarabel / exact:,.0f} | {reached - value:.1e} |")
    except ImportError:
        print("| cvxpy + Clarabel | not installed | | |")
    groups = count // 100
    grouped = measure(lambda: solve_worst_case(gaps, RADIUS, group_size=100, **PAPER))
    difference = solve_worst_case(gaps, RADIUS, group_size=100, **PAPER).value - value
    print(f"| exact in groups of 100 | {grouped:.4f} | {grouped / exact:,.0f} | {difference:.1e} |", flush=True)
    if slsqp_groups:
        part = gaps[: 100 * slsqp_groups]
        slow = []
        seconds = once(lambda: slow.append(solve_worst_case(part, RADIUS, solver="slsqp", group_size=100, **PAPER)))
        same = solve_worst_case(part, RADIUS, group_size=100, **PAPER).value
        print(
            f"| SLSQP in groups of 100: {seconds:.1f} s for {slsqp_groups}, extrapolated to {groups} "
            f"| {seconds / slsqp_groups * groups:,.0f} | {seconds / slsqp_groups * groups / exact:,.0f} "
            f"| {slow[0].value - same:.1e} to the same groups |",
            flush=True,
        )


def time_clarabel(gaps: np.ndarray) -> tuple[float, float]:
    """Theorem 3.3's program as a user of cvxpy would write it: seconds, and the value reached."""
    import cvxpy as cp

    link = worst_case(gaps, RADIUS, **PAPER).link
    u = link.to_space(gaps)[:, None]
    mass = cp.Variable((len(gaps), len(link.slopes)), nonneg=True)
    down = cp.Variable(mass.shape, nonneg=True)
    gain = cp.multiply(u * link.slopes + link.intercepts, mass) - cp.multiply(down, np.ones_like(u) * link.slopes)
    limits = [cp.sum(mass, axis=1) == 1, cp.sum(down) / len(gaps) <= RADIUS, down <= cp.multiply(u, mass)]
    problem = cp.Problem(cp.Maximize(cp.sum(gain) / len(gaps)), limits)
    seconds = once(lambda: problem.solve(solver=cp.CLARABEL))
    return seconds, float(problem.value)


def measure_memory(count: int) -> None:
    """Peak of what one call allocates, in arrays of N float64, the input not counted."""
    gaps = draw(count)
    print(f"\n| peak memory, N = {count:,} | arrays of N |\n|---|---|")
    for label, options, radius in (("margin", MARGIN, 3.6), ("paper's setting", PAPER, 0.1)):
        tracemalloc.start()
        worst_case(gaps, radius, **options)
        print(f"| {label} | {tracemalloc.get_traced_memory()[1] / gaps.nbytes:.2f} |")
        tracemalloc.stop()


def measure_regret(count: int) -> None:
    """Regret of the tracked price to the exact value, beside what the radius is worth."""
    gaps = draw(count)
    worst = worst_case(gaps, RADIUS, **PAPER)
    rng = np.random.default_rng(1)
    tracker = PriceTracker(RADIUS, **PAPER)
    print(
        f"\nPrice tracked from minibatches of 32 (paper's setting, V - E = {worst.value - worst.empirical_value:.4f}):"
    )
    print("\n| minibatches | regret of the average price, nats |\n|---|---|")
    for stop in (10, 100, 1000, 10_000):
        while tracker.batches < stop:
            tracker.update(rng.choice(gaps, 32))
        print(f"| {stop:,} | {price_regret(tracker.average_price, gaps, RADIUS, **PAPER):.2e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 60_000, 1_000_000, 10_000_000])
    parser.add_argument("--references", type=int, default=10_000, help="N for the general solvers; 0 leaves them out")
    parser.add_argument("--slsqp-groups", type=int, default=1, help="groups of 100 that SLSQP solves; 0 leaves it out")
    parser.add_argument("--device", default="cpu", help="where the PyTorch columns run")
    parser.add_argument("--device-only", action="store_true", help="leave out the columns of NumPy")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}"
    print(f"`{' '.join(['python', *sys.argv])}`: {versions}, {os.cpu_count()} cores, one thread.")
    time_exact(arguments.sizes, arguments.device, arguments.device_only)
    measure_memory(max(min(max(arguments.sizes), 1_000_000), 1000))
    measure_regret(10_000)
    if arguments.references:
        time_references(arguments.references, arguments.slsqp_groups)


if __name__ == "__main__":
    main()
