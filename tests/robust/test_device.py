"""PyTorch in, PyTorch out: by way of NumPy on the CPU, and by tensor operations alone elsewhere."""

import numpy as np
import pytest
import torch

from robust.cases import EVERY, MONOTONE, normal_gaps
from sgpo.errors import InputError
from sgpo.robust import Ball, certify, worst_case
from sgpo.robust.device import solve_on_device

FIELDS = ("value", "empirical_value", "price", "moved_share", "marginal", "full_radius")
monotone = pytest.mark.parametrize("options", MONOTONE.values(), ids=MONOTONE)


def compare(ours, numpy, rtol, arrays=("moved", "points")):
    for field in FIELDS:
        assert getattr(ours, field).shape == ()
        assert getattr(ours, field).item() == pytest.approx(getattr(numpy, field), rel=rtol, abs=rtol), field
    for field in arrays:
        np.testing.assert_allclose(getattr(ours, field).numpy(), getattr(numpy, field), rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
def test_a_tensor_is_answered_like_an_array(options):
    gaps = torch.tensor(normal_gaps())
    ours, numpy = worst_case(gaps, 0.05, **options), worst_case(gaps.numpy(), 0.05, **options)
    compare(ours, numpy, 1e-15)
    assert certify(ours).gap == certify(numpy).gap
    torch.testing.assert_close(ours.atoms.numpy(), numpy.atoms)
    assert float(ours.atom_weights.sum()) == pytest.approx(1)
    assert "WorstCase(value=" in repr(ours)


@monotone
@pytest.mark.parametrize("radius", [0.0, 0.003, 0.05, 0.7, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_tensor_operations_alone_agree_with_numpy(options, radius, weighted):
    gaps = torch.tensor(normal_gaps())
    weights = torch.rand(200, generator=torch.Generator().manual_seed(0)) if weighted else None
    ours = solve_on_device(gaps, Ball(radius, **options), weights)
    compare(ours, worst_case(gaps.numpy(), radius, weights=weights, **options), 1e-10)


@monotone
def test_ties_and_window_ends_agree_with_numpy(options):
    gaps = torch.tensor([-6.0, -6.0, 1.0, 1.0, 1.0, 2.0, 6.0], dtype=torch.float64)
    for radius in (0.0, 0.01, 0.1, 2.0, 20.0):
        ours = solve_on_device(gaps, Ball(radius, **options))
        compare(ours, worst_case(gaps.numpy(), radius, **options), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "solve", [worst_case, lambda gaps, radius, **options: solve_on_device(gaps, Ball(radius, **options))]
)
def test_low_precision_is_computed_in_float32(dtype, solve):
    gaps = torch.tensor(normal_gaps()).to(dtype)
    ours = solve(gaps, 0.05, window=(-6, 6))
    assert ours.value.dtype == ours.moved.dtype == ours.points.dtype == torch.float32
    compare(ours, worst_case(gaps.double().numpy(), 0.05, window=(-6, 6)), 1e-5)


def test_float32_sums_do_not_drift_over_a_million_gaps():
    gaps = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).clamp(-5, 5)
    ours = solve_on_device(gaps, Ball(0.01, window=(-5, 5)))
    assert ours.value.item() == pytest.approx(worst_case(gaps.double().numpy(), 0.01, window=(-5, 5)).value, rel=1e-6)


@pytest.mark.parametrize(
    ("gaps", "message"),
    [([0.0, float("nan")], r"gaps\[1\] is nan"), ([0.0, float("inf")], r"gaps\[1\] is inf"), ([0.0, 7.0], r"outside")],
)
def test_bad_gaps_are_refused_as_numpy_refuses_them(gaps, message):
    with pytest.raises(InputError, match=message):
        solve_on_device(torch.tensor(gaps), Ball(0.1, window=(-6.0, 6.0)))


def test_no_gradient_is_recorded():
    worst = worst_case(torch.zeros(3, requires_grad=True), 0.1, window=(-1, 1))
    assert not worst.value.requires_grad and not worst.points.requires_grad


@pytest.mark.cuda
def test_cuda_agrees_with_numpy():
    gaps = torch.tensor(normal_gaps(), device="cuda")
    for name, options in MONOTONE.items():
        ours, numpy = worst_case(gaps, 0.05, **options), worst_case(gaps.cpu().numpy(), 0.05, **options)
        assert ours.value.device.type == ours.moved.device.type == "cuda"
        for field in FIELDS:
            assert getattr(ours, field).item() == pytest.approx(getattr(numpy, field), rel=1e-10, abs=1e-10), name
