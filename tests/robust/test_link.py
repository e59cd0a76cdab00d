"""Links: values and slopes against plain formulas, surrogates against the definition of a tangent."""

import numpy as np
import pytest
import torch

from robust.cases import SQUARE
from sgpo.errors import InputError
from sgpo.robust import make_link, tangent_link
from sgpo.robust.link import LINKS

WIDE = np.concatenate([np.linspace(-40, 40, 321), [-700.0, 700.0, 1e300, -1e300, 5e-324]])
PLAIN = {
    "logistic": (WIDE, lambda u: np.logaddexp(0, -u)),
    "neg_log": (np.array([1e-310, 1e-300, 1e-8, 0.3, 1.0]), lambda u: -np.log(u)),
    "hinge": (WIDE, lambda u: np.maximum(0, 1 - u)),
    "exponential": (np.linspace(-40, 40, 81), lambda u: np.exp(-u)),
}
SURROGATES = {
    "margin": make_link("margin", 6, window=(-5, 5)),
    "probability": make_link("probability", 6),
    "quantiles": make_link("margin", 4, knots="quantiles", gaps=np.linspace(-3, 2, 50)),
    "many": make_link("margin", 80, window=(-5, 5)),
    "hinge": make_link("margin", 5, name="hinge", window=(-3, 3)),
    "saturated": make_link("margin", 9, window=(-60, 60)),
    "square": tangent_link(SQUARE, [-2.0, 0.0, 1.0]),
}
surrogates = pytest.mark.parametrize("link", SURROGATES.values(), ids=SURROGATES)


@pytest.mark.parametrize("name", PLAIN)
def test_values_agree_with_the_plain_formula(name):
    points, plain = PLAIN[name]
    np.testing.assert_allclose(LINKS[name].value(points), plain(points), rtol=4e-16 * 4, atol=0)


@pytest.mark.parametrize("name", PLAIN)
def test_numpy_and_torch_agree(name):
    points, _ = PLAIN[name]
    link, tensor = LINKS[name], torch.tensor(points)
    for of in (link.value, link.slope):
        assert isinstance(of(tensor), torch.Tensor)
        np.testing.assert_allclose(of(tensor).numpy(), of(points), rtol=1e-14, atol=1e-300)
    ours, theirs = (link.drop(points[0], u) for u in (tensor, points))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["logistic", "neg_log", "exponential"])
def test_slopes_are_derivatives(name):
    points = np.linspace(0.05, 0.95, 19)
    link, step = LINKS[name], 1e-6
    difference = (link.value(points + step) - link.value(points - step)) / (2 * step)
    np.testing.assert_allclose(link.slope(points), difference, rtol=1e-7)


@pytest.mark.parametrize(("name", "lower"), [("logistic", -3.0), ("neg_log", 0.02), ("exponential", -3.0)])
def test_drop_keeps_its_digits_where_a_difference_would_lose_them(name, lower):
    link = LINKS[name]
    for distance in (1e-14, 1e-12, 1e-9, 1e-5):
        point = lower + distance
        # The second-order Taylor term is the next digit that could be missing.
        way = point - lower
        expected = -link.slope(np.float64(lower)) * way
        assert float(link.drop(lower, point)) == pytest.approx(expected, rel=max(60 * distance, 1e-14))


@surrogates
def test_a_surrogate_touches_at_its_knots_and_stays_below(link):
    np.testing.assert_allclose(link.value(link.knots), link.base.value(link.knots), rtol=1e-13, atol=1e-13)
    grid = np.linspace(link.knots.min() - 1, link.knots.max() + 1, 1001)
    grid = grid[grid > 0] if link.space == "probability" else grid
    assert (link.value(grid) <= link.base.value(grid) + 1e-12).all()


@surrogates
def test_a_surrogate_is_the_largest_of_its_pieces(link):
    grid = np.linspace(-6, 6, 997)
    pieces = grid[:, None] * link.slopes + link.intercepts
    np.testing.assert_allclose(link.value(grid), pieces.max(axis=1), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(pieces[np.arange(997), link.piece(grid)], pieces.max(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(link.slope(grid), link.slopes[link.piece(grid)])
    torch.testing.assert_close(link.value(torch.tensor(grid)).numpy(), link.value(grid), rtol=1e-13, atol=1e-13)


def test_the_papers_tangents_are_those_of_its_section_4():
    link, k = make_link("probability", 6), np.arange(1, 7)
    p = np.linspace(0, 1, 101)[:, None]
    expected = (-(6 / k) * (p - k / 6) - np.log(k / 6)).max(axis=1)
    np.testing.assert_allclose(link.value(p[:, 0]), expected, rtol=1e-14, atol=1e-15)
    assert link.value(0.0) == pytest.approx(1 + np.log(6))


def test_equispaced_knots_hold_both_ends_of_the_window():
    assert make_link("margin", 3, window=(-2, 4)).knots.tolist() == [-2, 1, 4]
    assert make_link("margin", 1, window=(-2, 4)).knots.tolist() == [1]


def test_quantile_knots_follow_the_gaps():
    link = make_link("margin", 2, knots="quantiles", gaps=np.arange(101.0))
    assert link.knots.tolist() == [25.0, 75.0] or link.knots.tolist() == [25.0]


def test_to_space_is_the_sigmoid_to_its_last_digits():
    link = make_link("probability", 6)
    gaps = np.array([-1e300, -700.0, -50.0, 0.0, 50.0, 1e300])
    points = link.to_space(gaps)
    np.testing.assert_allclose(points[1:3], np.exp(gaps[1:3]), rtol=1e-14)
    assert points[[0, 3, 4, 5]].tolist() == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "rank"}, "space is 'rank'; allowed: 'margin' or 'probability'"),
        ({"name": "ramp"}, "link is 'ramp'.*allowed: 'logistic', 'hinge', 'exponential'"),
        ({"space": "probability", "name": "hinge"}, "link is 'hinge' with space='probability'; allowed: 'neg_log'"),
        ({"tangents": 0, "window": (0, 1)}, "tangents is 0; allowed: an integer >= 1"),
        ({"tangents": 2.5, "window": (0, 1)}, "tangents is 2.5; allowed: an integer >= 1"),
        ({"tangents": 3}, "window is None with tangents in margin space"),
        ({"tangents": 3, "knots": "paper"}, "knots is 'paper'.*margin"),
        ({"tangents": 3, "knots": "random", "window": (0, 1)}, "knots is 'random'; allowed: 'equispaced'"),
        ({"tangents": 3, "knots": "quantiles"}, "gaps is None with knots='quantiles'"),
        ({"knots": "quantiles"}, "knots is 'quantiles' without tangents"),
        ({"space": "probability", "tangents": 3, "knots": "equispaced"}, "knots holds 0.0, where -log p is not finite"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        make_link(**arguments)
