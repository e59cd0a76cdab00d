from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusals import unrefused
from sgpo.preferences import farthest
from sgpo.preferences.farthest import farthest_points

# What float32 may add to a distance or take from it, whatever the processor's kernels.
ROUNDING = 5e-7


def distances(embeddings, rows):
    """After each pick: the (N,) cosine distances to the nearest of the picks so far, in float64."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = np.inf
    for row in rows:
        near = np.minimum(near, 1 - unit @ unit[row])
        yield near


def draw(count, size, *, clusters=None, seed=0):
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, size))
    if clusters:
        points = 0.3 * points + random.normal(size=(clusters, size))[random.integers(clusters, size=count)] + 1
    return points.astype(np.float32)


def draw_clear(count, size, k, *, first_of=0, dtype=np.float32, out=(), **kind):
    """Points of which the same k are picked on every processor: each is farther than the next by more than rounding.

    Args:
        first_of: the seed of the first pick.
        out: rows that are not picked.
    """
    for seed in range(100):
        points = draw(count, size, seed=seed, **kind).astype(dtype)
        left = np.delete(points, out, axis=0)
        near = distances(left, farthest_points(left, k, seed=first_of).rows[:-1])
        if min(np.diff(np.partition(one, -2)[-2:])[0] for one in near) > 2 * farthest.TIE:
            return points
    raise AssertionError("no draw is clear")


@pytest.mark.parametrize("kind", [{}, {"clusters": 12}], ids=["one cloud", "clusters"])
@pytest.mark.parametrize(("count", "size", "k"), [(40, 3, 40), (500, 8, 60), (3000, 24, 300), (3000, 3, 50)])
def test_the_picks_are_those_of_the_plain_algorithm(count, size, k, kind):
    """Each is the lowest row of those that are farthest, up to rounding, in textbook greedy k-centre."""
    points = draw(count, size, **kind)
    found = farthest_points(points, k)
    assert len(set(found.rows)) == k
    for near, radius, row in zip(distances(points, found.rows), found.radii, [*found.rows[1:], None], strict=True):
        largest = near.max()
        assert radius == pytest.approx(max(largest, 0), abs=1e-6)
        if row is not None:
            assert near[row] >= largest - farthest.TIE - ROUNDING
            assert row <= (near >= largest - farthest.TIE + ROUNDING).argmax()
    assert found.radius == found.radii[-1]


def test_most_picks_need_no_pass_over_all_points(monkeypatch):
    passes = []
    update = farthest._Points.update
    monkeypatch.setattr(farthest._Points, "update", lambda self, *rest: passes.append(update(self, *rest)))
    farthest_points(draw(3000, 24, clusters=12), 300)
    assert len(passes) < 100


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), k=st.integers(1, 4))
def test_the_radius_is_within_the_bound_of_the_best_choice(seed, k):
    points = draw(9, 3, seed=seed)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    best = min(distance[list(choice)].min(axis=0).max() for choice in combinations(range(9), k))
    found = farthest_points(points, k, seed=seed)
    assert best - 1e-6 <= found.radius <= 4 * best + 1e-6
    assert found.radius == pytest.approx(max(distance[found.rows].min(axis=0).max(), 0), abs=1e-6)


def test_the_order_of_the_rows_does_not_matter():
    points = draw_clear(800, 6, 90)
    found = farthest_points(points, 90)
    # The first pick is drawn by its row, so that row stays.
    others = np.delete(np.arange(800), found.rows[0])
    order = np.insert(np.random.default_rng(1).permutation(others), found.rows[0], found.rows[0])
    assert np.array_equal(order[farthest_points(points[order], 90).rows], found.rows)


def test_the_lengths_of_the_rows_do_not_matter():
    points = draw_clear(800, 6, 90)
    lengths = np.float32(2.0) ** np.random.default_rng(1).integers(-70, 70, size=(800, 1))
    assert np.array_equal(farthest_points(points * lengths, 90).rows, farthest_points(points, 90).rows)


def test_fewer_picks_are_the_beginning_of_more():
    points = draw_clear(1500, 6, 200, first_of=3, clusters=20)
    large, small = farthest_points(points, 200, seed=3), farthest_points(points, 37, seed=3)
    assert np.array_equal(large.rows[:37], small.rows)
    np.testing.assert_allclose(large.radii[:37], small.radii, atol=1e-6)
    assert np.all(np.diff(large.radii) <= 1e-6)


def test_of_equal_points_the_lowest_row_is_picked():
    distinct = draw(30, 5, seed=4)
    which = np.random.default_rng(2).integers(30, size=2000)
    lengths = np.random.default_rng(3).uniform(0.1, 9, size=(2000, 1)).astype(np.float32)
    found = farthest_points(distinct[which] * lengths, 60)
    lowest = [int(np.flatnonzero(which == point)[0]) for point in range(30)]
    lowest[which[found.rows[0]]] = int(found.rows[0])  # the first pick is drawn
    assert sorted(found.rows[:30]) == sorted(lowest)
    assert found.radii[29:] == pytest.approx(0, abs=1e-6)
    # All remaining points are equally close.
    rest = sorted(set(range(2000)) - set(lowest))[:30]
    assert found.rows[30:].tolist() == rest


def test_all_points_can_be_picked_and_leave_nothing_uncovered():
    found = farthest_points(draw(100, 4), 100)
    assert sorted(found.rows) == list(range(100))
    assert found.radius == 0


def test_excluded_rows_are_neither_picked_nor_covered():
    out = np.arange(0, 600, 3)
    points = draw_clear(600, 5, 70, out=out)
    left = np.setdiff1d(np.arange(600), out)
    found, alone = farthest_points(points, 70, exclude=out), farthest_points(points[left], 70)
    assert np.array_equal(found.rows, left[alone.rows])
    np.testing.assert_allclose(found.radii, alone.radii, atol=1e-6)


def test_the_seed_decides_the_first_pick():
    points = draw(600, 5)
    firsts = [farthest_points(points, 1, seed=seed).rows[0] for seed in range(20)]
    assert len(set(firsts)) > 10
    assert firsts == [farthest_points(points, 3, seed=seed).rows[0] for seed in range(20)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_read_only_map_gives_the_picks_of_the_array_in_memory(dtype, tmp_path, monkeypatch):
    points = draw_clear(1000, 8, 80, dtype=dtype)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    whole = farthest_points(points, 80)
    monkeypatch.setattr(farthest, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(farthest, "_CANDIDATE_BYTES", 640)
    in_pieces = farthest_points(mapped, 80)
    assert np.array_equal(in_pieces.rows, whole.rows)
    for near, row in zip(distances(points, whole.rows), whole.rows[1:], strict=False):
        assert row == near.argmax()


@pytest.mark.cuda
def test_the_accelerator_makes_the_picks_of_the_cpu():
    points = draw_clear(5000, 32, 300, clusters=50)
    assert np.array_equal(farthest_points(points, 300, device="cuda").rows, farthest_points(points, 300).rows)


def test_progress_counts_every_pick_once():
    counts = []
    farthest_points(draw(500, 5), 50, progress=counts.append)
    assert sum(counts) == 50


POINTS = draw(5, 2)
BAD = [
    ((POINTS, {"k": 0}), "k is 0; allowed: 1 to 5"),
    ((POINTS, {"k": 4, "exclude": np.array([0, 1])}), "k is 4; allowed: 1 to 3"),
    ((POINTS, {"seed": -1}), "seed is -1"),
    ((np.ones((3, 2), int), {}), r"embeddings is int64 of shape \(3, 2\)"),
    ((np.ones(3), {}), r"shape \(3,\)"),
    ((np.array([[1.0, 0], [0, 0]]), {}), "embeddings row 1 has the length 0.0"),
    ((np.array([[1.0, 0], [1, 1], [np.nan, 0]]), {}), "embeddings row 2 has the length nan"),
]


def test_bad_arguments_are_refused():
    assert unrefused(lambda case: farthest_points(case[0], **{"k": 1, **case[1]}), BAD) == {}
