"""Farthest-point sampling compared with its lower bound, k matrix-vector products: one table from one run.

    python benchmarks/farthest_point.py                      # N = 20,000, d = 4,096, k = 50; a minute
    python benchmarks/farthest_point.py --points 60000 --picks 2000      # the paper's size; 1 GB, some minutes
    python benchmarks/farthest_point.py --device cuda --points 60000 --picks 2000

The bound is what the plain algorithm needs at least: `embeddings @ pick` for each of k picks; here a few of these
products are timed and multiplied. Two kinds of points: `gaussian` has no structure and nearly equal distances, which is
the hardest case; `clusters` has topics around a common mean, as hidden states do. Each ratio is that of medians over
`--repeats` runs in turn.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import numpy as np
import torch

from sgpo.preferences.farthest import farthest_points


def draw(kind: str, points: int, size: int) -> np.ndarray:
    """(N, d) float32."""
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((points, size), dtype=np.float32)
    if kind == "clusters":
        topics = random.standard_normal((300, size), dtype=np.float32)
        embeddings *= 0.5
        embeddings += topics[random.integers(300, size=points)]
        embeddings += 3 * random.standard_normal(size, dtype=np.float32)
    return embeddings


def once(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def plain(embeddings: torch.Tensor, picks: int) -> torch.Tensor:
    """The algorithm as it is usually written, on unit vectors: a product per pick over all points."""
    distance = 1 - embeddings @ embeddings[0]
    for _ in range(picks - 1):
        distance = torch.minimum(distance, 1 - embeddings @ embeddings[distance.argmax()])
    return distance


def measure(kind: str, arguments: argparse.Namespace) -> None:
    """Prints one line of the table."""
    embeddings = draw(kind, arguments.points, arguments.size)
    stored = torch.from_numpy(embeddings).to(arguments.device)
    unit = torch.nn.functional.normalize(stored)
    few = min(arguments.picks, arguments.products)
    times: dict[str, list[float]] = {"numpy": [], "torch": [], "plain": [], "ours": []}
    for _ in range(arguments.repeats):
        times["torch"].append(once(lambda: [stored @ stored[row] for row in range(few)]) / few * arguments.picks)
        if arguments.device == "cpu":
            bound = once(lambda: [embeddings @ embeddings[row] for row in range(few)]) / few * arguments.picks
            times["numpy"].append(bound)
        times["plain"].append(once(lambda: plain(unit, few)) / few * arguments.picks)
        times["ours"].append(once(lambda: farthest_points(embeddings, arguments.picks, device=arguments.device)))
    medians = {name: statistics.median(values) for name, values in times.items() if values}
    bound = min(medians[name] for name in ("numpy", "torch") if name in medians)
    shown = [f"{medians[name]:.2f}" if name in medians else "" for name in times]
    print(f"| {kind} | {' | '.join(shown)} | {medians['ours'] / bound:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--picks", type=int, default=50)
    parser.add_argument("--products", type=int, default=50, help="products timed for the bound")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", nargs="+", choices=["gaussian", "clusters"], default=["gaussian", "clusters"])
    arguments = parser.parse_args()
    print(
        f"{arguments.points:,} x {arguments.size:,} float32, {arguments.picks:,} picks, {arguments.device}, "
        f"{torch.get_num_threads()} threads; {platform.processor() or platform.machine()}, torch {torch.__version__}\n"
    )
    print("| points | bound, NumPy, s | bound, PyTorch, s | plain loop, s | farthest_points, s | ratio to the bound |")
    print("|---|---|---|---|---|---|")
    for kind in arguments.kinds:
        measure(kind, arguments)


if __name__ == "__main__":
    main()
