"""The differentiable robust value and the envelope step: gradients, bounds, and the split at the marginal gap."""

import numpy as np
import pytest
import torch

from sgpo.errors import InputError
from sgpo.robust import envelope_loss, make_link, marginal_split, robust_value, worst_case

CASES = {
    "margin": {"window": (-6.0, 6.0)},
    "margin tangents": {"window": (-6.0, 6.0), "tangents": 5},
    "probability tangents": {"space": "probability", "tangents": 6},
    "probability": {"space": "probability", "window": (0.01, 1.0), "clip": True},
    "exponential": {"window": (-6.0, 6.0), "link": "exponential"},
    "hinge": {"window": (-6.0, 6.0), "link": "hinge"},
}
case = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def some_gaps(count=40, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=count), dtype=torch.float64)


@case
@pytest.mark.parametrize("radius", [0.0, 0.003, 0.05, 100.0])
def test_envelope_gradient_equals_finite_differences(options, radius):
    gaps = some_gaps().requires_grad_()
    torch.autograd.gradcheck(lambda g: robust_value(g, radius, **options), (gaps,), eps=1e-6, atol=1e-6)


@case
def test_weighted_envelope_gradient_equals_finite_differences(options):
    gaps = some_gaps().requires_grad_()
    weights = np.random.default_rng(1).uniform(size=40)
    torch.autograd.gradcheck(lambda g: robust_value(g, 0.02, weights=weights, **options), (gaps,), eps=1e-6, atol=1e-6)


def test_zero_radius_is_the_dpo_loss_and_gradient():
    gaps = some_gaps().requires_grad_()
    robust = robust_value(gaps, 0.0, window=(-6, 6))
    plain = -torch.nn.functional.logsigmoid(gaps).mean()
    assert robust.item() == pytest.approx(plain.item(), abs=1e-15)
    ours, theirs = torch.autograd.grad(robust, gaps)[0], torch.autograd.grad(plain, gaps)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_moved_pairs_are_pulled_by_the_price():
    gaps = some_gaps().requires_grad_()
    worst = worst_case(gaps.detach(), 0.5, window=(-6, 6))
    (gradient,) = torch.autograd.grad(robust_value(gaps, 0.5, window=(-6, 6)), gaps)
    whole = worst.moved == 1
    assert whole.any()
    torch.testing.assert_close(gradient[whole], (-worst.price / 40).expand(int(whole.sum())))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_gaps_are_computed_in_float32(dtype):
    gaps = some_gaps().to(dtype)
    value = robust_value(gaps, 0.05, window=(-6, 6))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(worst_case(gaps.double().numpy(), 0.05, window=(-6, 6)).value, rel=1e-6)


def test_gradient_survives_a_probability_that_rounds_to_one():
    gaps = torch.tensor([20.0, 25.0, -1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(robust_value(gaps, 0.0, space="probability", window=(1e-6, 1.0)), gaps)
    expected = -torch.sigmoid(-gaps.detach()) / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=0)


@case
@pytest.mark.parametrize("radius", [0.0, 0.003, 0.05, 100.0])
def test_envelope_loss_equals_the_robust_value_where_its_price_was_solved(options, radius):
    gaps = some_gaps()
    worst = worst_case(gaps, radius, **options)
    priced = envelope_loss(gaps, price=worst.price, lower=worst.window[0], link=worst.link)
    assert (priced.loss.mean() + worst.price * radius).item() == pytest.approx(worst.value.item(), rel=1e-12)


@case
def test_envelope_loss_bounds_the_robust_value_at_every_other_price_and_gap(options):
    worst = worst_case(some_gaps(), 0.02, **options)
    for seed, factor in [(0, 0.0), (0, 0.5), (0, 3.0), (1, 1.0), (2, 1.0)]:
        gaps, price = some_gaps(seed=seed), factor * worst.price
        priced = envelope_loss(gaps, price=price, lower=worst.window[0], link=worst.link)
        bound = priced.loss.mean() + price * 0.02
        assert bound.item() >= worst_case(gaps, 0.02, **options).value.item() - 1e-12


@case
def test_envelope_loss_has_the_envelope_gradient_except_at_the_marginal_pair(options):
    gaps = some_gaps().requires_grad_()
    worst = worst_case(gaps.detach(), 0.02, **options)
    priced = envelope_loss(gaps, price=worst.price, lower=worst.window[0], link=worst.link)
    (ours,) = torch.autograd.grad(priced.loss.mean(), gaps)
    (envelope,) = torch.autograd.grad(robust_value(gaps, 0.02, **options), gaps)
    whole = worst.points != worst.marginal
    torch.testing.assert_close(ours[whole], envelope[whole], rtol=1e-12, atol=1e-15)


def test_envelope_loss_does_not_depend_on_how_a_batch_is_split():
    gaps, link = some_gaps(), make_link("margin")
    whole = envelope_loss(gaps, price=0.9, lower=-6.0, link=link).loss
    parts = [envelope_loss(part, price=0.9, lower=-6.0, link=link).loss for part in gaps.split(7)]
    # Up to the last bit: vector kernels may round the last entries of an array differently.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=4e-15, atol=4e-15)


def test_envelope_loss_reports_the_share_that_the_follower_moves():
    gaps = some_gaps()
    worst = worst_case(gaps, 0.02, window=(-6, 6))
    answer = {"price": worst.price, "lower": -6.0, "link": worst.link}
    off = worst.points != worst.marginal
    assert torch.equal(envelope_loss(gaps, **answer).moved[off], worst.moved[off])
    split = envelope_loss(gaps, **answer, marginal=float(worst.marginal), split=marginal_split(worst))
    torch.testing.assert_close(split.moved, worst.moved)


@case
@pytest.mark.parametrize("radius", [0.003, 0.05])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_at_ties_the_split_envelope_has_the_robust_values_loss_and_gradient(options, radius, value):
    """With all gaps equal every pair is marginal; without the split, rounding decides whether all of them move."""
    gaps = torch.full((8,), value, dtype=torch.float64, requires_grad=True)
    worst = worst_case(gaps.detach(), radius, **options)
    split = marginal_split(worst)
    assert 0 < split < 1
    answer = {"price": worst.price, "lower": worst.window[0], "link": worst.link}
    ours = envelope_loss(gaps, **answer, marginal=float(worst.marginal), split=split)
    total = ours.loss.mean() + worst.price * radius
    robust = robust_value(gaps, radius, **options)
    assert total.item() == pytest.approx(robust.item(), rel=1e-12)
    slopes = [torch.autograd.grad(loss, gaps)[0] for loss in (total, robust)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-15)
    # Tensors that broadcast, as several trials at once pass them, give the same.
    one = torch.ones(1, 1, dtype=torch.float64)
    many = envelope_loss(
        gaps.expand(3, 8),
        price=worst.price * one,
        lower=worst.window[0],
        link=worst.link,
        marginal=worst.marginal * one,
        split=split * one,
    )
    torch.testing.assert_close(many.loss, ours.loss.expand(3, 8))


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, np.float64, torch.tensor])
def test_price_marginal_gap_and_split_are_numbers_of_any_kind(kind):
    gaps, answer = (
        torch.tensor([0.0, -1.0, 3.0, 2.0], dtype=torch.float64),
        {"lower": -6.0, "link": make_link("margin")},
    )
    for marginal in (0, 2):
        for split in (0, 0.5, 1):
            number = kind if split in (0, 1) or kind not in (int, np.int64) else float
            given = {"price": kind(1), "marginal": kind(marginal), "split": number(split)}
            ours = envelope_loss(gaps, **answer, **given)
            expected = envelope_loss(gaps, **answer, price=1.0, marginal=float(marginal), split=float(split))
            assert torch.equal(ours.loss, expected.loss) and torch.equal(ours.moved, expected.moved)
            assert ours.moved[gaps == marginal].item() == split


def test_once_everything_has_moved_there_is_no_marginal_gap():
    assert marginal_split(worst_case(some_gaps(), 100.0, window=(-6, 6))) is None


def test_bad_gaps_are_refused_by_name():
    with pytest.raises(InputError, match=r"gaps\[1\] is nan"):
        robust_value(torch.tensor([0.0, float("nan")]), 0.1, window=(-1, 1))
