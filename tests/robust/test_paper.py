"""The program of Theorem 3.3 by independent solvers, and groups."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from robust.cases import EVERY, SQUARE, normal_gaps
from sgpo.errors import InputError
from sgpo.robust import certify, solve_worst_case, worst_case
from sgpo.robust.paper import split_groups

PIECEWISE = {name: EVERY[name] for name in EVERY if "tangents" in name or name == "hinge"}
piecewise = pytest.mark.parametrize("options", PIECEWISE.values(), ids=PIECEWISE)
PAPER = {"space": "probability", "tangents": 6}


@piecewise
@pytest.mark.parametrize("radius", [0.0, 0.004, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_worst_case_equals_the_program_of_theorem_3_3(options, radius, weighted):
    gaps = normal_gaps(60)
    weights = np.random.default_rng(1).integers(0, 4, size=60) if weighted else None
    exact, program = (
        solve_worst_case(gaps, radius, solver=solver, weights=weights, **options) for solver in ("exact", "highs")
    )
    assert exact.value == pytest.approx(program.value, rel=1e-9)
    assert exact.empirical_value == pytest.approx(program.empirical_value, rel=1e-12)


@pytest.mark.parametrize("count", [50, 200, 1000])
def test_worst_case_equals_the_program_to_rounding_in_the_papers_setting(count):
    exact, program = (solve_worst_case(normal_gaps(count), 0.01, solver=s, **PAPER) for s in ("exact", "highs"))
    assert exact.value == pytest.approx(program.value, abs=5e-14)
    assert exact.price == pytest.approx(program.price, rel=1e-9)


@piecewise
def test_the_solvers_law_fits_the_ball_and_has_its_value(options):
    program = solve_worst_case(normal_gaps(60), 0.1, solver="highs", **options)
    assert wasserstein_distance(program.points, program.atoms, None, program.atom_weights) <= 0.1 + 1e-9
    assert program.atom_weights @ program.link.value(program.atoms) == pytest.approx(program.value, rel=1e-9)


@piecewise
def test_slsqp_reaches_the_exact_value(options):
    exact, paper = (solve_worst_case(normal_gaps(10), 0.05, solver=s, **options) for s in ("exact", "slsqp"))
    assert paper.value == pytest.approx(exact.value, abs=1e-7)
    assert paper.price == pytest.approx(exact.price, rel=1e-4)


def test_groups_partition_the_gaps():
    groups = split_groups(103, 10)
    assert sorted(np.concatenate(groups).tolist()) == list(range(103))
    assert max(map(len, groups)) <= 10 and len(groups) == 11


def test_random_groups_follow_their_seed():
    one, same, other = (split_groups(50, 7, seed=seed) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_the_grouped_worst_case_is_that_of_each_group_alone():
    gaps = normal_gaps(45)
    whole = solve_worst_case(gaps, 0.02, group_size=10, seed=5, **PAPER)
    parts = split_groups(45, 10, seed=5)
    alone = [worst_case(gaps[part], 0.02, **PAPER) for part in parts]
    assert whole.value == pytest.approx(sum(len(p) * w.value for p, w in zip(parts, alone, strict=True)) / 45)
    for part, single in zip(parts, alone, strict=True):
        np.testing.assert_allclose(whole.moved[part], single.moved)
    step = 1e-7
    further = solve_worst_case(gaps, 0.02 + step, group_size=10, seed=5, **PAPER)
    assert whole.price == pytest.approx((further.value - whole.value) / step, rel=1e-5)


def test_one_group_of_everything_is_no_group():
    gaps = normal_gaps(45)
    grouped, whole = (solve_worst_case(gaps, 0.02, group_size=size, **PAPER) for size in (45, None))
    assert grouped.value == pytest.approx(whole.value, rel=1e-14)


def test_groups_without_mass_stay_as_they_are():
    weights = np.r_[np.zeros(10), np.ones(10)]
    worst = solve_worst_case(normal_gaps(20), 0.02, group_size=1, weights=weights, **PAPER)
    assert not worst.moved[:10].any() and worst.moved[10:].all()


def test_groups_of_a_two_sided_link_raise_mass_too():
    worst = solve_worst_case(normal_gaps(40), 2.0, group_size=8, window=(-4, 6), link=SQUARE)
    assert worst.raised.any() and certify(worst).transport == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "simplex"}, "solver is 'simplex'; allowed: 'exact', 'highs' or 'slsqp'"),
        ({"group_size": 0}, "group_size is 0; allowed: an integer >= 1"),
        ({"group_size": 2.5}, "group_size is 2.5; allowed: an integer >= 1"),
        ({"spase": "margin"}, "spase is no option of a ball; allowed: radius, space, window"),
        ({"solver": "highs", "tangents": None, "window": (0.01, 1)}, "link is -log p, which is not piecewise linear"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        solve_worst_case(np.array([0.0, 1.0, 2.0]), 0.1, **{**PAPER, **arguments})


def test_tensors_are_refused_by_the_reference_solvers():
    with pytest.raises(InputError, match="gaps is a Tensor with solver='highs'"):
        solve_worst_case(torch.zeros(3), 0.1, solver="highs", **PAPER)
