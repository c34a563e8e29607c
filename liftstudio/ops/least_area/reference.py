"""The primal-dual algorithm in plain torch."""

import torch
from torch import Tensor


def least_area(data: Tensor, iterations: int, step: float) -> Tensor:
    """See `ops.least_area`; `step` is both step sizes of the algorithm, at most 12 ** -0.5."""
    u = (data < 0).to(data.dtype)
    extrapolated = u.clone()
    dual = data.new_zeros(3, *data.shape)
    for _ in range(iterations):
        dual += step * _gradient(extrapolated)
        dual /= dual.norm(dim=0).clamp_min(1)
        previous = u
        u = (u + step * (_divergence(dual) - data)).clamp(0, 1)
        extrapolated = 2 * u - previous
    return u


def _gradient(u: Tensor) -> Tensor:
    """Forward differences [3, X, Y, Z]; zero at the last cell of each axis."""
    gradient = torch.zeros(3, *u.shape, dtype=u.dtype, device=u.device)
    gradient[0, :-1] = u[1:] - u[:-1]
    gradient[1, :, :-1] = u[:, 1:] - u[:, :-1]
    gradient[2, :, :, :-1] = u[:, :, 1:] - u[:, :, :-1]
    return gradient


def _divergence(dual: Tensor) -> Tensor:
    """Negated adjoint of `_gradient`; `dual` is zero at the last cell of each axis."""
    divergence = dual.sum(0)
    divergence[1:] -= dual[0, :-1]
    divergence[:, 1:] -= dual[1, :, :-1]
    divergence[:, :, 1:] -= dual[2, :, :, :-1]
    return divergence
