"""Weighted sum of three table rows on the CPU; the backward scatters in one pass, as torch's index_add_ is slow."""

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from liftstudio.ops.threads import parallel_for

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Interpolation(torch.autograd.Function):
    """`reference.interpolate` with a compiled backward."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, corners: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums [P, C] from `table` [V, C], `corners` [P, 3] and `weights` [P, 3]."""
        arrays = (table.detach().contiguous(), corners.contiguous(), weights.detach().contiguous())
        views = [array.numpy() for array in arrays]
        out = table.new_empty(len(corners), table.shape[1])
        result = out.numpy()
        parallel_for(lambda begin, end: _gather(*views, result, begin, end), len(corners), grain=4096)
        ctx.save_for_backward(*arrays)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        """Gradients w.r.t. table [V, C] and weights [P, 3], given those w.r.t. the sums [P, C]."""
        table, corners, weights = ctx.saved_tensors
        grad_rows = grad.contiguous().numpy()
        grad_table, grad_weights = None, None
        if ctx.needs_input_grad[0]:
            grad_table = torch.zeros_like(table)
            _scatter(grad_rows, corners.numpy(), weights.numpy(), grad_table.numpy())
        if ctx.needs_input_grad[2]:
            grad_weights = torch.empty_like(weights)
            views = grad_rows, table.numpy(), corners.numpy(), grad_weights.numpy()
            parallel_for(lambda begin, end: _dot(*views, begin, end), len(corners), grain=4096)
        return grad_table, None, grad_weights


@njit(nogil=True, cache=True)
def _gather(table: Floats, corners: Ints, weights: Floats, out: Floats, begin: int, end: int) -> None:
    for n in range(begin, end):
        a, b, c = table[corners[n, 0]], table[corners[n, 1]], table[corners[n, 2]]
        for channel in range(table.shape[1]):
            out[n, channel] = weights[n, 0] * a[channel] + weights[n, 1] * b[channel] + weights[n, 2] * c[channel]


@njit(nogil=True, cache=True)
def _scatter(grad: Floats, corners: Ints, weights: Floats, grad_table: Floats) -> None:
    # One thread: a fixed order of summation keeps results bit-identical.
    for n in range(len(corners)):
        for k in range(3):
            row = grad_table[corners[n, k]]
            for channel in range(grad.shape[1]):
                row[channel] += weights[n, k] * grad[n, channel]


@njit(nogil=True, cache=True)
def _dot(grad: Floats, table: Floats, corners: Ints, grad_weights: Floats, begin: int, end: int) -> None:
    for n in range(begin, end):
        for k in range(3):
            row = table[corners[n, k]]
            total = 0.0
            for channel in range(table.shape[1]):
                total += grad[n, channel] * row[channel]
            grad_weights[n, k] = total


def interpolate(table: Tensor, corners: Tensor, weights: Tensor) -> Tensor:
    """See `reference.interpolate`."""
    return Interpolation.apply(table, corners, weights)
