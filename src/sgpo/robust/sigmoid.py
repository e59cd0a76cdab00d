"""The sigmoid for PyTorch, with a gradient that does not underflow for large margins."""

import torch
from torch import Tensor


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # torch's own s * (1 - s) is zero in float32 for every margin above 17.
        return gradient * torch.sigmoid(x) * torch.sigmoid(-x)


def torch_sigmoid(x: Tensor) -> Tensor:
    """sigma(x), elementwise, differentiable once with sigma(x) * sigma(-x)."""
    return _Sigmoid.apply(x)
