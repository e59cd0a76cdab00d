"""Transport and mixture steps against plain re-statements, finite differences, and the worst case they hold still."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from sgpo.robust.exact import worst_case
from sgpo.robust.losses import envelope_loss, mixture_loss, transport_loss

CASES = {
    "margin": {"window": (-6.0, 6.0)},
    "margin tangents": {"window": (-6.0, 6.0), "tangents": 5},
    "probability tangents": {"space": "probability", "tangents": 6},
    "probability": {"space": "probability", "window": (0.01, 1.0)},
}
case = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
RADIUS = {"margin": 2.0, "probability": 0.2}


def solved(options, count=30):
    """Gaps, a later policy's gaps (both float64), and what the follower said at the first."""
    generator = np.random.default_rng(0)
    gaps = torch.tensor(generator.normal(size=count))
    later = gaps + torch.tensor(generator.normal(size=count) * 0.3)
    worst = worst_case(gaps, RADIUS[options.get("space", "margin")], **options)
    assert 0.1 < worst.moved_share < 0.9
    return gaps, later, worst


def frozen(worst):
    return {"moved": worst.moved, "anchor": worst.points, "lower": worst.window[0], "link": worst.link}


def restated_link(options, u):
    """f, from its definition: the exact loss, or the largest of its tangents."""
    base = (lambda x: torch.log1p(torch.exp(-x))) if "space" not in options else (lambda x: -torch.log(x))
    count = options.get("tangents")
    if count is None:
        return base(u)
    knots = torch.linspace(-6, 6, count) if "space" not in options else torch.arange(1, count + 1) / count
    return torch.stack([tangent(base, knot, u) for knot in knots.double()]).amax(0)


def tangent(f, at, u):
    at = at.detach().requires_grad_()
    value = f(at)
    (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach() + slope * (u - at.detach())


def gradient(loss, gaps):
    return torch.autograd.grad(loss.sum(), gaps)[0]


@case
def test_transport_equals_its_plain_restatement_and_so_does_its_gradient(options):
    _, later, worst = solved(options)
    later = later.requires_grad_()
    a, m = worst.window[0], worst.moved
    u = later if "space" not in options else torch.sigmoid(later)
    target = u - (worst.points - a)
    inside = target > a
    # Below a the restatement goes on along the tangent of f at a.
    sent = torch.where(
        inside,
        restated_link(options, torch.where(inside, target, a + 1.0)),
        tangent(lambda x: restated_link(options, x), torch.full_like(u, a + 1e-9), target),
    )
    plain = (1 - m) * restated_link(options, u) + m * sent
    ours = transport_loss(later, **frozen(worst))
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient(ours, later), gradient(plain, later), rtol=1e-5, atol=1e-6)


@case
@pytest.mark.parametrize("proximal", [0.0, 0.7])
def test_mixture_equals_its_plain_restatement_and_so_does_its_gradient(options, proximal):
    _, later, worst = solved(options)
    later = later.requires_grad_()
    a, m = torch.full_like(worst.points, worst.window[0]), worst.moved
    u = later if "space" not in options else torch.sigmoid(later)

    def f(x):
        return restated_link(options, x)

    # Section 3.3, piece by piece: mass 1 - m on the piece at the anchor, m on the piece at a.
    plain = (1 - m) * tangent(f, worst.points, u) + m * tangent(f, a + 1e-9, u)
    plain = plain + proximal / 2 * ((1 - m) * (u - worst.points) ** 2 + m * (u - a) ** 2)
    ours = mixture_loss(later, **frozen(worst), proximal=proximal)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient(ours, later), gradient(plain, later), rtol=1e-5, atol=1e-6)


@case
@pytest.mark.parametrize("step", [transport_loss, mixture_loss])
def test_gradients_equal_finite_differences(options, step):
    _, later, worst = solved(options)
    torch.autograd.gradcheck(lambda g: step(g, **frozen(worst)), (later.requires_grad_(),), eps=1e-6, atol=1e-6)


@case
def test_transport_has_the_robust_value_where_the_follower_answered(options):
    gaps, _, worst = solved(options)
    torch.testing.assert_close(transport_loss(gaps, **frozen(worst)).mean(), worst.value, rtol=1e-12, atol=0)


@case
def test_without_moved_mass_transport_is_the_plain_loss(options):
    _, later, worst = solved(options)
    still = {**frozen(worst), "moved": torch.zeros_like(worst.moved)}
    torch.testing.assert_close(transport_loss(later, **still), worst.link.value(worst.link.to_space(later)))


@case
def test_every_step_pulls_unmoved_pairs_alike_at_the_answer(options):
    gaps, _, worst = solved(options)
    gaps = gaps.requires_grad_()
    unmoved = worst.moved == 0
    envelope = envelope_loss(gaps, price=worst.price, lower=worst.window[0], link=worst.link).loss
    expected = gradient(envelope, gaps)[unmoved]
    for step in (transport_loss, mixture_loss):
        torch.testing.assert_close(gradient(step(gaps, **frozen(worst)), gaps)[unmoved], expected)


@case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transport_pulls_moved_mass_by_the_slope_at_the_lower_end(options, dtype):
    gaps, _, worst = solved(options)
    gaps = gaps.to(dtype).requires_grad_()
    whole, anchor = worst.moved == 1, worst.link.to_space(gaps.detach())
    loss = transport_loss(gaps, **{**frozen(worst), "moved": worst.moved.to(dtype), "anchor": anchor})
    p = torch.sigmoid(gaps.detach()) if "space" in options else None
    rate = 1.0 if p is None else p * (1 - p)
    expected = worst.link.slope(torch.full_like(gaps, worst.window[0])) * rate
    torch.testing.assert_close(gradient(loss, gaps)[whole], expected[whole], rtol=1e-5, atol=1e-6)


@case
def test_the_proximal_pull_points_at_the_displaced_gap(options):
    _, later, worst = solved(options)
    later = later.requires_grad_()
    whole = worst.moved == 1
    plain = gradient(mixture_loss(later, **frozen(worst)), later)[whole]
    pulled = gradient(mixture_loss(later, **frozen(worst), proximal=2.0), later)[whole]
    # A positive gradient lowers the gap: moved mass was sent down to a, and is pulled there.
    assert (pulled > plain).all()


@pytest.mark.parametrize("step", [transport_loss, mixture_loss])
def test_a_step_does_not_depend_on_how_a_batch_is_cut(step):
    _, later, worst = solved(CASES["margin"])
    whole = step(later, **frozen(worst))
    rest = {"lower": worst.window[0], "link": worst.link}
    cut = zip(later.split(7), worst.moved.split(7), worst.points.split(7), strict=True)
    parts = [step(gaps, moved=moved, anchor=anchor, **rest) for gaps, moved, anchor in cut]
    # Up to the last bit: a processor's vector kernels may round the last entries of an array differently.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=4e-15, atol=4e-15)


def test_a_probability_that_displacement_would_make_negative_keeps_a_finite_pull():
    worst = worst_case(torch.tensor([0.2, 0.3, 2.0]), 0.2, space="probability", window=(0.01, 1.0))
    later = torch.tensor([-6.0, -6.0, 2.0], requires_grad=True)
    loss = transport_loss(later, **frozen(worst))
    assert torch.isfinite(loss).all()
    assert (gradient(loss, later) < 0).all()


def test_algorithm_1_read_literally_is_dpo():
    """Its weights w_i = sum_k s_ik are all one, so its loss and gradient are DPO's (PAPER.md D3)."""
    gaps, _, worst = solved(CASES["margin tangents"], count=12)
    slopes, intercepts = worst.link.slopes, worst.link.intercepts
    mass = literal_masses(gaps.numpy(), slopes, intercepts, radius=2.0, window=(-6.0, 6.0))
    assert mass.max(axis=1).min() > 0.5 and (mass > 1e-9).sum() >= 12
    weights = torch.tensor(mass.sum(axis=1))
    gaps = gaps.requires_grad_()
    literal = (weights * -torch.nn.functional.logsigmoid(gaps)).mean()
    dpo = -torch.nn.functional.logsigmoid(gaps).mean()
    torch.testing.assert_close(literal, dpo, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient(literal, gaps), gradient(dpo, gaps), rtol=1e-9, atol=0)


def literal_masses(gaps, slopes, intercepts, *, radius, window):
    """s of Theorem 3.3's program, solved as a linear program in s, q >= 0 (mass only moves down)."""
    count, pieces = len(gaps), len(slopes)
    size = count * pieces
    value = (np.outer(gaps, slopes) + intercepts).ravel()
    objective = -np.concatenate([value, np.tile(-slopes, count)]) / count
    masses = np.kron(np.eye(count), np.ones(pieces))
    budget = np.concatenate([np.zeros(size), np.ones(size) / count])[None]
    place = np.repeat(gaps, pieces)
    low = np.hstack([np.diag(window[0] - place), np.eye(size)])
    result = linprog(
        objective,
        A_ub=np.vstack([budget, low]),
        b_ub=np.concatenate([[radius], np.zeros(size)]),
        A_eq=np.hstack([masses, np.zeros((count, size))]),
        b_eq=np.ones(count),
    )
    assert result.status == 0
    worst = worst_case(gaps, radius, window=window, tangents=pieces)
    np.testing.assert_allclose(-result.fun, worst.value, rtol=1e-9)
    return result.x[:size].reshape(count, pieces)
