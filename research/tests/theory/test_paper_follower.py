"""The error budget, against the exact differences that it bounds; and the paper's variables of an exact worst case."""

import numpy as np
import pytest

from robust.cases import MONOTONE, SQUARE, normal_gaps
from sgpo.errors import InputError
from sgpo.robust import make_link, solve_worst_case, tangent_link, worst_case
from sgpo_research.theory.paper_follower import grouping_gap, paper_variables, surrogate_gap

SURROGATES = {
    "margin": (make_link("margin", 5, window=(-6, 6)), (-6.0, 6.0)),
    "one tangent": (make_link("margin", 1, window=(-6, 6)), (-6.0, 6.0)),
    "window beyond the knots": (make_link("margin", 3, window=(-2, 2)), (-6.0, 6.0)),
    "probability": (make_link("probability", 6), (0.02, 1.0)),
    "square": (tangent_link(SQUARE, [-4.0, 0.0, 3.0]), (-6.0, 6.0)),
}
surrogates = pytest.mark.parametrize(("link", "window"), SURROGATES.values(), ids=SURROGATES)


@surrogates
def test_delta_is_the_largest_difference_on_a_fine_grid(link, window):
    grid = np.linspace(*window, 200_001)
    difference = (link.base.value(grid) - link.value(grid)).max()
    assert surrogate_gap(link, window) == pytest.approx(difference, rel=1e-4)
    assert surrogate_gap(link, window) >= difference - 1e-12


@surrogates
@pytest.mark.parametrize("radius", [0.0, 0.01, 0.2, 2.0])
def test_the_surrogates_value_lies_at_most_delta_below(link, window, radius):
    gaps = normal_gaps()
    exact = worst_case(gaps, radius, link=link.base, window=window, clip=True).value
    surrogate = worst_case(gaps, radius, link=link, window=window, clip=True).value
    assert -1e-12 <= exact - surrogate <= surrogate_gap(link, window) + 1e-12


def test_delta_falls_with_the_square_of_the_number_of_tangents():
    deltas = [surrogate_gap(make_link("margin", k, window=(-6, 6)), (-6, 6)) for k in (9, 17, 33, 65)]
    ratios = np.divide(deltas[:-1], deltas[1:])
    assert (ratios > 3).all() and ratios[-1] == pytest.approx(4, rel=0.05)


def test_delta_is_infinite_where_the_link_is():
    with np.errstate(divide="ignore"):
        assert surrogate_gap(make_link("probability", 6)) == np.inf


@pytest.mark.parametrize("options", [{"window": (-6, 6)}, {"space": "probability", "tangents": 6}])
def test_the_grouping_gap_is_the_exact_difference_to_the_linear_programs(options):
    gaps = normal_gaps(120)
    gap = grouping_gap(gaps, 0.3, group_size=20, seed=2, **options)
    solver = "highs" if "tangents" in options else "exact"
    grouped = solve_worst_case(gaps, 0.3, solver=solver, group_size=20, seed=2, **options)
    assert gap >= 0
    assert gap == pytest.approx(worst_case(gaps, 0.3, **options).value - grouped.value, abs=1e-9)


def test_larger_groups_lose_less():
    gaps = normal_gaps(6000)
    gap = {
        size: np.mean([grouping_gap(gaps, 0.1, group_size=size, seed=seed, window=(-6, 6)) for seed in range(5)])
        for size in (10, 100, 1000, 6000)
    }
    assert gap[10] > gap[100] > gap[1000] > gap[6000] == pytest.approx(0, abs=1e-14)


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(InputError, match=r"link is Link\(-log sigma.*allowed: a link of tangents"):
        surrogate_gap(make_link("margin"), (-1, 1))
    with pytest.raises(InputError, match="window is None in margin space"):
        surrogate_gap(make_link("margin", 3, window=(-1, 1)))
    with pytest.raises(InputError, match="group_size is 0"):
        grouping_gap(np.zeros(3), 0.1, group_size=0, window=(-1, 1))


@pytest.mark.parametrize("options", MONOTONE.values(), ids=MONOTONE)
@pytest.mark.parametrize("radius", [0.0, 0.05, 0.5, 50.0])
def test_the_papers_variables_are_feasible_and_reach_the_value(options, radius):
    worst = worst_case(normal_gaps(60), radius, **options)
    (a, b), u = worst.window, worst.points[:, None]
    mass, displacement = paper_variables(worst)
    np.testing.assert_allclose(mass.sum(axis=1), 1.0, atol=1e-14)
    assert (mass >= 0).all()
    assert abs(displacement).sum() / 60 <= radius + 1e-12
    assert (u * mass - displacement >= a * mass - 1e-12).all()
    assert (u * mass - displacement <= b * mass + 1e-12).all()
    used = mass > 0
    places = (np.broadcast_to(u, mass.shape) - np.divide(displacement, mass, out=np.zeros_like(mass), where=used))[used]
    assert (mass[used] @ worst.link.value(places)) / 60 == pytest.approx(worst.value, rel=1e-12)
    if hasattr(worst.link, "slopes"):
        linear = (u * mass - displacement) * worst.link.slopes + mass * worst.link.intercepts
        assert linear.sum() / 60 == pytest.approx(worst.value, rel=1e-12)


def test_a_two_sided_link_has_no_paper_variables():
    with pytest.raises(InputError, match="square, which is not monotone"):
        paper_variables(worst_case(normal_gaps(5), 0.1, window=(-6, 6), link=SQUARE))
