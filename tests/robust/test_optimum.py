"""What the optimum tells: curve, certificate, print."""

import numpy as np
import pytest

from robust.cases import EVERY, SQUARE, normal_gaps
from sgpo.robust import dual_value, value_curve, worst_case

every = pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)


@every
@pytest.mark.parametrize("weighted", [False, True])
def test_the_curve_passes_through_the_value_at_every_radius(options, weighted):
    gaps = normal_gaps(60)
    weights = np.random.default_rng(1).integers(0, 3, size=60) if weighted else None
    curve = value_curve(worst_case(gaps, 0.1, weights=weights, **options))
    for radius in (0, 1e-4, 0.01, 0.2, 1.0, 3.0, 50.0):
        assert curve.at(radius) == pytest.approx(worst_case(gaps, radius, weights=weights, **options).value, rel=1e-12)


@every
def test_the_curve_is_concave_rising_and_ends_where_everything_has_moved(options):
    worst = worst_case(normal_gaps(60), 0.1, **options)
    curve = value_curve(worst)
    slopes = np.diff(curve.value) / np.diff(curve.radius)
    assert curve.radius[0] == 0 and (np.diff(curve.radius) > 0).all()
    assert (slopes >= 0).all() and (np.diff(slopes) <= 1e-9 * slopes[:-1] + 1e-12).all()
    assert curve.radius[-1] == pytest.approx(worst.full_radius, rel=1e-12)


@every
def test_beyond_the_full_radius_nothing_changes(options):
    full = worst_case(normal_gaps(60), 0.0, **options).full_radius
    before, at, beyond = (worst_case(normal_gaps(60), share * full, **options) for share in (0.999, 1 + 1e-12, 2.0))
    assert before.price > 0 and at.price == beyond.price == 0
    assert at.value == pytest.approx(beyond.value, rel=1e-12) and before.value < at.value


@every
def test_price_is_the_derivative_of_the_value(options):
    step = 1e-8
    worst, further = (worst_case(normal_gaps(60), radius, **options) for radius in (0.1, 0.1 + step))
    assert worst.price == pytest.approx((further.value - worst.value) / step, rel=1e-5)


@every
def test_every_price_bounds_the_value_from_above(options):
    worst = worst_case(normal_gaps(60), 0.1, **options)
    for factor in (0.0, 0.5, 0.99, 1.01, 2.0):
        bound = dual_value(worst.points, factor * worst.price, 0.1, link=worst.link, window=worst.window)
        assert bound >= worst.value - 1e-12


def test_a_two_sided_link_sends_mass_to_both_ends():
    worst = worst_case(np.array([-2.0, 2.0]), 2.0, window=(-4, 4), link=SQUARE)
    assert worst.moved.tolist() == [1.0, 0.0]
    assert worst.raised.tolist() == [0.0, 1.0]
    assert worst.atoms.tolist() == [-4.0, 4.0]


def test_a_point_may_go_to_the_near_end_first_and_to_the_far_end_later():
    # |u| tilted down: the near end (4) pays more per unit, the far end (-6) more in all.
    near = worst_case(np.array([3.0]), 1.0, window=(-6, 4), link=SQUARE)
    far = worst_case(np.array([3.0]), 9.0, window=(-6, 4), link=SQUARE)
    assert near.raised.tolist() == [1.0] and far.moved.tolist() == [1.0] and far.raised.tolist() == [0.0]
    assert near.price == pytest.approx((far.value - near.value) / 8)


def test_print_names_what_matters():
    text = repr(worst_case(normal_gaps(60), 0.1, window=(-6, 6)))
    for part in ("value=", "nats", "price=", "moved_share=", "radius=0.1", "N=60", "-log sigma", "margin [-6, 6]"):
        assert part in text
    assert len(text) < 300


def test_atoms_start_with_the_end_that_mass_was_sent_to():
    worst = worst_case(normal_gaps(60), 0.5, window=(-6, 6))
    assert worst.atoms[0] == -6 and worst.atom_weights[0] == pytest.approx(worst.moved_share)
    assert len(worst.atoms) == 61 - (worst.moved == 1).sum()
