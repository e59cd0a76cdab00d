"""Claims about every worst case, on gaps that Hypothesis chooses."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from robust.cases import EVERY, MONOTONE, WINDOW, transport_program
from sgpo.robust import certify, worst_case

every = pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
monotone = pytest.mark.parametrize("options", MONOTONE.values(), ids=MONOTONE)
# The same cases in every run; raise max_examples and drop derandomize to hunt for others.
quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)

# Ties, the ends of the window, zeros of both signs and denormals come up often, not once in a lifetime.
special = st.sampled_from([-6.0, 6.0, 0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-300, -1e-300, 2.5])
gap = st.one_of(special, st.floats(-6, 6))
gap_lists = st.lists(gap, min_size=1, max_size=8).map(np.array)
radii = st.one_of(st.sampled_from([0.0, 1e-9, 0.01, 0.1, 1.0, 20.0]), st.floats(0, 8))


@st.composite
def weighted(draw):
    gaps = draw(gap_lists)
    weights = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.3, 7.0]), min_size=len(gaps), max_size=len(gaps)))
    assume(sum(weights) > 0)
    return gaps, draw(st.sampled_from([None, np.array(weights)]))


@every
@quick
@given(data=weighted(), radius=radii)
def test_value_equals_the_transport_linear_program(options, data, radius):
    gaps, weights = data
    worst = worst_case(gaps, radius, weights=weights, **options)
    # HiGHS may overspend the radius by its feasibility tolerance of 1e-7, which the price turns into value.
    steepest = abs(worst.link.slope(np.array(worst.window))).max()
    assert worst.value == pytest.approx(transport_program(worst), abs=1e-6 * (1 + steepest))


@every
@quick
@given(data=weighted(), radius=radii)
def test_primal_equals_dual_and_the_law_fits_the_ball(options, data, radius):
    gaps, weights = data
    worst = worst_case(gaps, radius, weights=weights, **options)
    proof = certify(worst)
    scale = 1 + abs(worst.value) + worst.price * radius
    assert abs(proof.gap) <= 1e-12 * scale
    assert worst.value == pytest.approx(proof.primal, abs=1e-12 * scale)
    assert proof.transport <= radius * (1 + 1e-12) + 1e-15


@every
@quick
@given(data=weighted(), radius=radii)
def test_scipy_finds_the_worst_law_within_the_radius(options, data, radius):
    gaps, weights = data
    worst = worst_case(gaps, radius, weights=weights, **options)
    distance = wasserstein_distance(worst.points, worst.atoms, worst.weights, worst.atom_weights)
    assert distance <= radius * (1 + 1e-12) + 1e-13
    assert worst.atom_weights.sum() == pytest.approx(1, abs=1e-12)
    assert worst.atom_weights @ worst.link.value(worst.atoms) == pytest.approx(worst.value, rel=1e-12, abs=1e-12)
    assert worst.atoms.min() >= worst.window[0] and worst.atoms.max() <= worst.window[1]


@every
@quick
@given(gaps=gap_lists, first=radii, second=radii)
def test_value_is_concave_and_never_falls_with_the_radius(options, gaps, first, second):
    low, high = sorted((first, second))
    values = [worst_case(gaps, radius, **options).value for radius in (low, (low + high) / 2, high)]
    slack = 1e-12 * (1 + abs(values[-1]))
    assert values[0] <= values[1] + slack and values[1] <= values[2] + slack
    assert values[1] >= (values[0] + values[2]) / 2 - slack


@every
@quick
@given(gaps=gap_lists, radius=radii)
def test_value_rises_by_at_most_the_lipschitz_constant_times_the_radius(options, gaps, radius):
    worst = worst_case(gaps, radius, **options)
    lipschitz = abs(worst.link.slope(np.array(worst.window))).max()
    slack = 1e-12 * (1 + abs(worst.value))
    assert worst.empirical_value - slack <= worst.value <= worst.empirical_value + lipschitz * radius + slack
    assert 0 <= worst.price <= lipschitz * (1 + 1e-9)


@every
@quick
@given(gaps=gap_lists, radius=radii, seed=st.integers(0, 99))
def test_answer_does_not_depend_on_the_order_of_the_gaps(options, gaps, radius, seed):
    order = np.random.default_rng(seed).permutation(len(gaps))
    one, other = worst_case(gaps, radius, **options), worst_case(gaps[order], radius, **options)
    assert other.value == pytest.approx(one.value, rel=1e-13, abs=1e-13)
    # Compared as costs: where a gap is denormally close to the end, how much of it moves is a matter of rounding.
    a = one.window[0]
    way = one.points - a
    np.testing.assert_allclose((other.moved * way[order]), (one.moved * way)[order], rtol=1e-9, atol=1e-12)


@monotone
@quick
@given(gaps=gap_lists, radius=radii)
def test_lower_gaps_move_first(options, gaps, radius):
    worst = worst_case(gaps, radius, **options)
    moves = worst.points > worst.window[0]
    order = np.argsort(worst.points[moves], kind="stable")
    assert (np.diff(worst.moved[moves][order]) <= 0).all()


@every
@quick
@given(gap=gap, count=st.integers(1, 5), radius=radii)
def test_equal_gaps_are_one_gap(options, gap, count, radius):
    several, one = (worst_case(np.full(n, gap), radius, **options) for n in (count, 1))
    assert several.value == pytest.approx(one.value, rel=1e-12, abs=1e-12)
    assert several.moved == pytest.approx(np.full(count, one.moved[0]), abs=1e-9)


# Quantile knots follow the gaps, which repeating changes.
@pytest.mark.parametrize("options", [EVERY[name] for name in EVERY if "quantile" not in name])
@quick
@given(gaps=gap_lists, radius=radii)
def test_integer_weights_are_repeated_gaps(options, gaps, radius):
    weights = np.arange(len(gaps)) % 3
    assume(weights.sum() > 0)
    one = worst_case(gaps, radius, weights=weights, **options)
    other = worst_case(np.repeat(gaps, weights), radius, **options)
    assert one.value == pytest.approx(other.value, rel=1e-12, abs=1e-12)


huge = st.sampled_from([1e300, -1e300, 1e299, -3e299, 1e-300, -1e-300, 5e-324, 0.0, 1.0, -1.0, 700.0, -800.0])


@quick
@given(gaps=st.lists(huge, min_size=1, max_size=8).map(np.array), share=st.sampled_from([0, 1e-6, 0.3, 0.999, 1, 2]))
@pytest.mark.parametrize("link", ["logistic", "hinge"])
def test_gaps_of_1e300_keep_primal_equal_to_dual(link, gaps, share):
    window = (-1e300, 1e300)
    full = worst_case(gaps, 0, window=window, link=link).full_radius
    worst = worst_case(gaps, share * full, window=window, link=link)
    proof = certify(worst)
    assert np.isfinite([worst.value, worst.price, worst.full_radius]).all()
    assert abs(proof.gap) <= 1e-12 * max(worst.value, 1)
    assert proof.transport <= worst.radius * (1 + 1e-12)


@quick
@given(gaps=st.lists(huge, min_size=1, max_size=8).map(np.array), radius=st.sampled_from([0, 1e-300, 0.01, 0.5, 2]))
def test_margins_of_1e300_are_probabilities_like_others(gaps, radius):
    worst = worst_case(gaps, radius, space="probability", tangents=6)
    assert abs(certify(worst).gap) <= 1e-13 * (1 + worst.value + worst.price * radius)


@pytest.mark.parametrize("count", [3, 100_000])
def test_sums_beyond_float64_do_not_overflow(count):
    gaps = np.full(count, 8e307)
    gaps[::3] = -8e307
    worst = worst_case(gaps, 1e306, window=(-8.5e307, 8.5e307))
    assert abs(certify(worst).gap) <= 1e-12 * worst.value
    assert certify(worst).transport == pytest.approx(1e306, rel=1e-12)


def test_price_near_the_window_end_keeps_its_digits():
    distance = 1e-9
    worst = worst_case(np.array([-2.0 + distance]), 0.0, window=(-2.0, 2.0))
    assert worst.price == pytest.approx(1 / (1 + np.exp(-2.0)), rel=1e-8)


def test_window_ends_are_inside():
    worst = worst_case(np.array(WINDOW), 1.0, window=WINDOW)
    assert worst.moved.tolist() == [0.0, pytest.approx(1 / 6)]
