"""Work in several processes: the seeds of a table, each of which is a file of its own, or runs."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from sgpo_research.registry import study_tables
from sgpo_research.tables import check_folder, compute_seed


def compute_seeds(
    name: str,
    output: Path,
    seeds: range,
    *,
    quick: bool,
    data: Path | None,
    jobs: int,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Computes the seeds of a table that are not on disk yet; an error in one of them is raised here.

    Args:
        name: of the table.
        output: the folder of `run_table`.
        seeds: the seeds.
        quick: the small form.
        data: as in `study_tables`.
        jobs: number of processes, each with one thread.
        progress: called with the number of newly computed seeds.
    """
    check_folder(output)
    side_by_side(jobs, _compute, [(name, output, seed, quick, data) for seed in seeds], progress)


def side_by_side(
    jobs: int,
    work: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Calls `work` with each of the tuples, in `jobs` processes with one thread each.

    The first error, or an interrupt, ends all processes and is raised here: other calls may take hours. `progress` is
    called with the number of calls that have ended.
    """
    before = set(active_children())
    # Spawned, since torch's threads do not survive a fork.
    with one_thread_each(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(work, *call) for call in calls]
        try:
            for future in as_completed(futures):
                future.result()
                progress(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - before:
                process.terminate()
            raise


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Child processes started inside use one thread; NumPy and PyTorch read the setting when they are imported."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _compute(name: str, output: Path, seed: int, quick: bool, data: Path | None) -> None:
    compute_seed(study_tables(data)[name], output, seed, quick=quick)
