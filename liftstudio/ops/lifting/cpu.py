"""Lifting in one pass over points and views, without arrays of size points x views."""

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from liftstudio.ops.lifting.reference import NEAR
from liftstudio.ops.threads import parallel_for

Floats = NDArray[np.float32]
GRAIN = 1024  # minimum points per job


class Lifting(torch.autograd.Function):
    """`reference.lift` with the forward parallel over points and the backward over views."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, projections: Tensor, points: Tensor) -> Tensor:
        """Mean and variance [B, N, 2 C]; see `ops.lifting.lift`."""
        inputs = tuple(tensor.detach().float().contiguous() for tensor in (features, projections, points))
        out = inputs[0].new_zeros(len(features), len(points), 2 * features.shape[-1])
        arrays = [tensor.numpy() for tensor in (*inputs, out)]
        for b in range(len(features)):
            one = arrays[0][b], arrays[1][b], arrays[2], arrays[3][b]
            parallel_for(lambda begin, end, one=one: _gather(*one, begin, end), len(points), grain=GRAIN)  # type: ignore[misc]
        ctx.save_for_backward(*inputs, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient w.r.t. the features [B, T, H, W, C], given that w.r.t. the result [B, N, 2 C]."""
        features, projections, points, out = ctx.saved_tensors
        b, t = features.shape[:2]
        result = torch.zeros_like(features)
        arrays = [tensor.numpy() for tensor in (features, projections, points, out, grad.contiguous(), result)]
        parallel_for(lambda begin, end: _scatter(*arrays, begin, end), b * t)
        return result, None, None


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _taps(
    projection: Floats, point: Floats, height: int, width: int
) -> tuple[int, int, int, int, np.float32, np.float32]:
    """Rows i, k and columns j, m around the projection of a point, and the weights of k and m."""
    p, px, py, pz = projection, point[0], point[1], point[2]
    w = max(p[2, 0] * px + p[2, 1] * py + p[2, 2] * pz + p[2, 3], np.float32(NEAR))
    u = (p[0, 0] * px + p[0, 1] * py + p[0, 2] * pz + p[0, 3]) / w
    v = (p[1, 0] * px + p[1, 1] * py + p[1, 2] * pz + p[1, 3]) / w
    x = ((u + np.float32(1)) * width - np.float32(1)) * np.float32(0.5)
    y = ((v + np.float32(1)) * height - np.float32(1)) * np.float32(0.5)
    x, y = min(max(x, np.float32(0)), np.float32(width - 1)), min(max(y, np.float32(0)), np.float32(height - 1))
    i, j = int(y), int(x)
    return i, min(i + 1, height - 1), j, min(j + 1, width - 1), np.float32(y - i), np.float32(x - j)


@njit(nogil=True, cache=True, fastmath=True)
def _gather(features: Floats, projections: Floats, points: Floats, out: Floats, begin: int, end: int) -> None:
    """Fill out[begin:end] of one object; `out` [N, 2 C] is initially zero."""
    views, height, width, channels = features.shape
    share = np.float32(1) / np.float32(views)
    for n in range(begin, end):
        mean, square = out[n, :channels], out[n, channels:]
        for t in range(views):
            i, k, j, m, v, u = _taps(projections[t], points[n], height, width)
            a, b, c, d = features[t, i, j], features[t, i, m], features[t, k, j], features[t, k, m]
            wa, wb = (np.float32(1) - v) * (np.float32(1) - u), (np.float32(1) - v) * u
            wc, wd = v * (np.float32(1) - u), v * u
            for channel in range(channels):
                f = wa * a[channel] + wb * b[channel] + wc * c[channel] + wd * d[channel]
                mean[channel] += f
                square[channel] += f * f
        for channel in range(channels):
            mean[channel] *= share
            square[channel] = max(square[channel] * share - mean[channel] * mean[channel], np.float32(0))


@njit(nogil=True, cache=True, fastmath=True)
def _scatter(
    features: Floats, projections: Floats, points: Floats, out: Floats, grad: Floats, result: Floats,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Add the gradients of views [begin, end), counted over all objects, to `result` [B, T, H, W, C]."""
    views, height, width, channels = features.shape[1:]
    share = np.float32(1) / np.float32(views)
    for index in range(begin, end):
        o, t = index // views, index % views
        image, target = features[o, t], result[o, t]
        for n in range(len(points)):
            i, k, j, m, v, u = _taps(projections[o, t], points[n], height, width)
            a, b, c, d = image[i, j], image[i, m], image[k, j], image[k, m]
            ga, gb, gc, gd = target[i, j], target[i, m], target[k, j], target[k, m]
            wa, wb = (np.float32(1) - v) * (np.float32(1) - u), (np.float32(1) - v) * u
            wc, wd = v * (np.float32(1) - u), v * u
            mean, to_mean, to_variance = out[o, n], grad[o, n, :channels], grad[o, n, channels:]
            for channel in range(channels):
                f = wa * a[channel] + wb * b[channel] + wc * c[channel] + wd * d[channel]
                g = share * (to_mean[channel] + np.float32(2) * to_variance[channel] * (f - mean[channel]))
                ga[channel] += wa * g
                gb[channel] += wb * g
                gc[channel] += wc * g
                gd[channel] += wd * g


def lift(features: Tensor, projections: Tensor, points: Tensor) -> Tensor:
    """See `ops.lifting.lift`."""
    if not (torch.isfinite(projections).all() and torch.isfinite(points).all()):  # they determine memory addresses
        raise ValueError("projections and points: expected finite numbers")
    return Lifting.apply(features, projections, points)
