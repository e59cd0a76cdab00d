"""The price tracked from minibatches, against the exact one."""

import numpy as np
import pytest
import torch

from robust.cases import MONOTONE, SQUARE, normal_gaps
from sgpo.errors import InputError
from sgpo.robust import worst_case
from sgpo_research.theory.price_tracker import PriceTracker, price_regret

TRACKED = {name: MONOTONE[name] for name in ("logistic", "exponential", "-log p", "-log p, the paper's tangents")}
tracked = pytest.mark.parametrize("options", TRACKED.values(), ids=TRACKED)


def play(tracker, gaps, batches, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(batches):
        tracker.update(rng.choice(gaps, 32))
    return tracker


@tracked
def test_the_exact_price_has_no_regret_and_every_other_has_some(options):
    gaps = normal_gaps(500)
    exact = worst_case(gaps, 0.05, **options).price
    assert price_regret(exact, gaps, 0.05, **options) == pytest.approx(0, abs=1e-12)
    assert price_regret(1.5 * exact, gaps, 0.05, **options) > 1e-6
    assert price_regret(0.0, gaps, 0.05, **options) > 1e-3


@tracked
def test_regret_of_the_average_price_falls_with_the_square_root_of_the_batches(options):
    gaps = normal_gaps(2000)
    exact = worst_case(gaps, 0.05, **options)
    gain = exact.value - exact.empirical_value
    few, many = (play(PriceTracker(0.05, **options), gaps, batches) for batches in (100, 2500))
    regrets = [price_regret(t.average_price, gaps, 0.05, **options) for t in (few, many)]
    # 25 times the batches: five times less, with a factor of two for luck; and little beside what the radius buys.
    assert regrets[1] <= max(regrets[0] / 2.5, 1e-3 * gain)
    assert regrets[1] <= 0.02 * gain


def test_the_first_price_is_the_first_batchs_own():
    tracker, batch = PriceTracker(0.5, window=(-6, 6)), normal_gaps(64)
    tracker.update(batch)
    assert tracker.average_price == worst_case(batch, 0.5, window=(-6, 6)).price and tracker.batches == 1


def test_with_memory_the_price_follows_gaps_that_drift():
    before, after = normal_gaps(2000), normal_gaps(2000) * 0.2 - 3.0
    options = {"window": (-6.0, 6.0), "link": "exponential"}
    start = worst_case(before, 0.3, **options).price
    goal = worst_case(after, 0.3, **options).price
    tracker = PriceTracker(0.3, memory=50, **options)
    play(tracker, before, 500)
    regret = price_regret(tracker.price, after, 0.3, **options)
    play(tracker, after, 500, seed=1)
    assert abs(goal - start) > 0.3 * start
    assert price_regret(tracker.price, after, 0.3, **options) < 0.1 * regret


def test_tensors_and_arrays_give_the_same_price():
    ours, theirs = (PriceTracker(0.1, space="probability", tangents=6) for _ in range(2))
    for seed in range(5):
        gaps = normal_gaps(32, seed)
        assert ours.update(torch.tensor(gaps)) == theirs.update(gaps)


def test_the_price_never_falls_below_zero():
    tracker = PriceTracker(100.0, window=(-6, 6))
    for seed in range(20):
        assert tracker.update(normal_gaps(16, seed)) >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": -1}, "radius is -1; allowed"),
        ({"memory": 0.5}, "memory is 0.5; allowed: a finite number of minibatches >= 1"),
        ({"link": SQUARE}, "square, which is not monotone"),
        ({"window": None}, "window is None"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        PriceTracker(**{"radius": 0.1, "window": (-6, 6), **arguments})


def test_bad_batches_and_prices_are_refused_by_name():
    with pytest.raises(InputError, match=r"gaps\[0\] is nan"):
        PriceTracker(0.1, window=(-6, 6)).update(np.array([np.nan]))
    with pytest.raises(InputError, match="price is -1; allowed"):
        price_regret(-1, np.zeros(2), 0.1, window=(-6, 6))
