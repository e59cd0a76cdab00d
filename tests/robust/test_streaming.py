"""Chunks and processes: the same answer as all gaps at once, to the tolerance."""

import multiprocessing

import numpy as np
import pytest
import torch

from robust.cases import MONOTONE, SQUARE, normal_gaps
from sgpo.errors import InputError
from sgpo.robust import Ball, solve_stream, worst_case
from sgpo.robust.device import solve_on_device

BALL = {"window": (-12, 12)}
WHOLE = {name: MONOTONE[name] for name in MONOTONE if "quantile" not in name}
monotone = pytest.mark.parametrize("options", WHOLE.values(), ids=WHOLE)


@monotone
@pytest.mark.parametrize("radius", [0.0, 0.004, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-12])
def test_a_stream_is_solved_to_its_tolerance(options, radius, tolerance):
    gaps = normal_gaps(3000)
    exact = worst_case(gaps, radius, **options)
    stream = solve_stream(np.array_split(gaps, 7), radius, tolerance=tolerance, **options)
    rounding = 1e-14 * (1 + exact.value)
    assert stream.upper - stream.value <= tolerance + rounding
    assert stream.value - rounding <= exact.value <= stream.upper + rounding
    assert stream.count == 3000
    assert stream.full_radius == pytest.approx(exact.full_radius)
    if tolerance == 1e-12:
        assert stream.price == pytest.approx(exact.price, rel=1e-6)


@monotone
@pytest.mark.parametrize("tolerance", [1e-3, 1e-10])
def test_the_shares_of_a_stream_describe_a_law_in_the_ball_with_its_value(options, tolerance):
    gaps = normal_gaps(1000)
    chunks = np.array_split(gaps, 3)
    stream = solve_stream(chunks, 0.05, tolerance=tolerance, **options)
    shares = np.concatenate([stream.shares(chunk) for chunk in chunks])
    points = np.clip(stream.link.to_space(gaps), *stream.window)
    a = stream.window[0]
    assert (shares * (points - a)).mean() <= 0.05 * (1 + 1e-12)
    losses = stream.link.value(points)
    value = (losses + shares * (stream.link.value(np.float64(a)) - losses)).mean()
    assert value == pytest.approx(stream.value, rel=1e-12)


def at_radius(gaps, weights, radius):
    """(price, value, tolerance) of each way to solve for the worst case."""
    chunks = list(zip(np.array_split(gaps, 3), np.array_split(weights, 3), strict=True))
    solved = [(solve_stream(chunks, radius, tolerance=least, **BALL), least) for least in (1e-3, 1e-9, 1e-300)]
    solved.append((solve_on_device(torch.tensor(gaps), Ball(radius, **BALL), weights), 0.0))
    solved.append((worst_case(gaps, radius, weights=weights, **BALL), 0.0))
    return [(float(one.price), float(one.value), least) for one, least in solved]


def test_every_solver_has_a_price_at_the_radius_that_moves_everything():
    """There rounding decides whether any mass stays: the price is 0 or that of the last gaps to move."""
    generator, wrong = np.random.default_rng(0), []
    for case in range(60):
        count = int(generator.integers(1, 300))
        gaps = generator.normal(size=count).round(int(generator.integers(1, 12)))
        weights = np.append(generator.integers(0, 3, count - 1), 1.0) if case % 2 else np.ones(count)
        whole = worst_case(gaps, 1e6, weights=weights, **BALL)
        least = (whole.link.drop(-12, whole.points) / (whole.points + 12))[whole.mass > 0].min()
        for factor in (1 - 1e-12, 1 - 2**-53, 1.0, 1 + 2**-52, 1 + 1e-12):
            for price, value, tolerance in at_radius(gaps, weights, whole.full_radius * factor):
                sound = price == 0 or price >= least - 1e-12
                if not sound or abs(value - whole.value) > tolerance + 1e-9:
                    wrong.append((case, factor, price, value - whole.value, tolerance))
    assert wrong == []


def test_weights_and_a_restartable_function_are_read():
    gaps, weights = normal_gaps(100), np.arange(100) % 3
    stream = solve_stream(lambda: iter([(gaps[:60], weights[:60]), (gaps[60:], weights[60:])]), 0.1, window=(-6, 6))
    assert stream.value == pytest.approx(worst_case(gaps, 0.1, window=(-6, 6), weights=weights).value, abs=1e-9)


def test_tensor_chunks_are_read():
    gaps = torch.tensor(normal_gaps(100), dtype=torch.float32)
    stream = solve_stream(gaps.split(30), 0.1, window=(-6, 6))
    assert stream.value == pytest.approx(worst_case(gaps.double().numpy(), 0.1, window=(-6, 6)).value, abs=1e-9)


def test_ties_at_one_place_end_the_bisection():
    stream = solve_stream([np.full(10, 0.1), np.full(5, 3.0)], 0.2, window=(-1, 5), tolerance=1e-300)
    assert stream.value == pytest.approx(worst_case(np.r_[[0.1] * 10, [3.0] * 5], 0.2, window=(-1, 5)).value, rel=1e-14)
    assert stream.passes < 12


@pytest.mark.parametrize(
    ("chunks", "options", "message"),
    [
        ([np.array([0.0, np.nan])], {}, "chunks holds gaps nan; allowed: finite"),
        ([np.array([9.0])], {}, r"chunks holds the gap 9.0 .* outside the window \[-6.0, 6.0\]"),
        ([], {}, "chunks hold 0 gaps"),
        ([np.zeros((2, 2))], {}, r"chunks holds gaps of shape \(2, 2\)"),
        ([(np.zeros(2), -np.ones(2))], {}, "chunks holds weights -1.0; allowed: finite and >= 0"),
        (iter([np.zeros(2)]), {}, "chunks is an iterator"),
        ([np.zeros(2)], {"tolerance": 0}, "tolerance is 0; allowed: a number > 0"),
        ([np.zeros(2)], {"tangents": 3, "knots": "quantiles"}, "knots is 'quantiles' for a stream"),
        ([np.zeros(2)], {"link": SQUARE}, "square, which is not monotone"),
    ],
)
def test_bad_streams_are_refused_by_name(chunks, options, message):
    with pytest.raises(InputError, match=message):
        solve_stream(chunks, 0.1, window=(-6, 6), **options)


def _worker(rank, store, parts, queue):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    answers = []
    for chunks in parts:
        try:
            solved = solve_stream(chunks[rank], 0.05, window=(-6, 6), tolerance=1e-11)
            answers.append((solved.value, solved.price, solved.count))
        except InputError as error:
            answers.append(str(error))
    queue.put((rank, answers))
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    gaps = normal_gaps(1000)
    parts = [
        ([gaps[:300], gaps[300:700]], [gaps[700:]]),
        ([gaps], []),
        ([gaps[:500]], [np.array([np.nan])]),
    ]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(rank, tmp_path / "store", parts, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    answers = dict(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(timeout=30)
        assert worker.exitcode == 0
    exact = worst_case(gaps, 0.05, window=(-6, 6))
    for rank in range(2):
        for value, price, count in answers[rank][:2]:
            assert value == pytest.approx(exact.value, abs=1e-11) and count == 1000
            assert price == pytest.approx(exact.price, rel=1e-6)
    assert "1 other processes found invalid gaps" in answers[0][2]
    assert "chunks holds gaps nan" in answers[1][2]
