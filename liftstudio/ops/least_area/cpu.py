"""Numba kernels: two sweeps per iteration, parallel over slabs of the first axis."""

import functools

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.ops.threads import parallel_for

Floats = NDArray[np.float32]


def least_area(data: Tensor, iterations: int, step: float) -> Tensor:
    """See `reference.least_area`."""
    volume = data.contiguous().numpy()
    u = (volume < 0).astype(np.float32)
    extrapolated = u.copy()
    dual = np.zeros((*volume.shape, 3), np.float32)
    raise_dual = functools.partial(_raise_dual, dual, extrapolated, np.float32(step))
    lower_primal = functools.partial(_lower_primal, u, extrapolated, dual, volume, np.float32(step))
    for _ in range(iterations):
        parallel_for(raise_dual, len(volume), grain=8)
        parallel_for(lower_primal, len(volume), grain=8)
    return torch.from_numpy(u)


@njit(nogil=True, cache=True)
def _raise_dual(dual: Floats, u: Floats, step: np.float32, begin: int, end: int) -> None:
    """Update the dual: dual += step * grad u, then project onto the unit ball."""
    sx, sy, sz = u.shape
    for x in range(begin, end):
        for y in range(sy):
            for z in range(sz):
                here = u[x, y, z]
                px = dual[x, y, z, 0] + step * (u[x + 1, y, z] - here) if x + 1 < sx else np.float32(0)
                py = dual[x, y, z, 1] + step * (u[x, y + 1, z] - here) if y + 1 < sy else np.float32(0)
                pz = dual[x, y, z, 2] + step * (u[x, y, z + 1] - here) if z + 1 < sz else np.float32(0)
                scale = np.float32(1) / max(np.float32(1), np.sqrt(px * px + py * py + pz * pz))
                dual[x, y, z, 0], dual[x, y, z, 1], dual[x, y, z, 2] = px * scale, py * scale, pz * scale


@njit(nogil=True, cache=True)
def _lower_primal(
    u: Floats, extrapolated: Floats, dual: Floats, data: Floats, step: np.float32, begin: int, end: int
) -> None:
    """Update the primal: u += step * (div dual - data), clamped to [0, 1]; extrapolated = 2 u - previous u."""
    _, sy, sz = u.shape
    for x in range(begin, end):
        for y in range(sy):
            for z in range(sz):
                divergence = dual[x, y, z, 0] + dual[x, y, z, 1] + dual[x, y, z, 2]
                if x > 0:
                    divergence -= dual[x - 1, y, z, 0]
                if y > 0:
                    divergence -= dual[x, y - 1, z, 1]
                if z > 0:
                    divergence -= dual[x, y, z - 1, 2]
                before = u[x, y, z]
                after = before + step * (divergence - data[x, y, z])
                after = min(max(after, np.float32(0)), np.float32(1))
                u[x, y, z] = after
                extrapolated[x, y, z] = np.float32(2) * after - before
