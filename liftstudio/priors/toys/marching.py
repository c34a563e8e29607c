"""Compositing weights of samples along rays through a small density grid, without gradients, on the CPU."""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.ops.threads import parallel_for

Floats = NDArray[np.float32]
GRAIN = 512  # least number of rays in a job
DONE = 1e-3  # transmittance below which a ray ends


def ray_weights(raw: Tensor, half_side: float, first: Tensor, step: Tensor, samples: int) -> Tensor:
    """Return the compositing weight of each sample, [R, samples]; the reference is `network.ToysNetwork.weights`.

    raw: [G, G, G] float32 (axes z, y, x) on the cube [-half_side, half_side]^3, before the softplus, after which it is
    density per voxel. first: [R, 3] each ray's first sample; step: [R, 3] the step between samples; world units.
    """
    weights = torch.zeros(len(first), samples)
    arrays = [tensor.contiguous().numpy() for tensor in (raw, first, step, weights)]
    parallel_for(lambda begin, end: _march(*arrays, np.float32(half_side), begin, end), len(first), grain=GRAIN)
    return weights


@njit(nogil=True, cache=True, fastmath=True)
def _march(
    raw: Floats, first: Floats, step: Floats, weights: Floats, half_side: np.float32, begin: int, end: int
) -> None:
    last = raw.shape[0] - 1
    scale = np.float32(last) / (np.float32(2) * half_side)
    for r in range(begin, end):
        dx, dy, dz = step[r, 0] * scale, step[r, 1] * scale, step[r, 2] * scale
        length = np.sqrt(dx * dx + dy * dy + dz * dz)  # in voxels
        through = np.float32(1)
        for s in range(weights.shape[1]):
            x = (first[r, 0] + half_side) * scale + s * dx
            y = (first[r, 1] + half_side) * scale + s * dy
            z = (first[r, 2] + half_side) * scale + s * dz
            if x < 0 or y < 0 or z < 0 or x > last or y > last or z > last:
                continue
            i, j, k = min(int(x), last - 1), min(int(y), last - 1), min(int(z), last - 1)
            u, v, w = x - i, y - j, z - k
            value = np.float32(0)
            for c in range(2):
                for b in range(2):
                    row = raw[k + c, j + b]
                    share = (w if c else 1 - w) * (v if b else 1 - v)
                    value += share * ((1 - u) * row[i] + u * row[i + 1])
            if value < -15:
                continue
            optical = length * (value if value > 15 else np.log1p(np.exp(value)))
            left = through * np.exp(-optical)
            weights[r, s] = through - left
            through = left
            if through < DONE:
                break
