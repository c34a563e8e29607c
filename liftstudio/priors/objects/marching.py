"""Volume rendering of one frustum, without gradients, on the CPU."""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.ops.threads import parallel_for
from liftstudio.priors.projections import NEAR

Floats = NDArray[np.float32]
GRAIN = 512  # least number of rays in a job
DONE = 1e-3  # transmittance below which a ray ends
EMPTY = -12.0  # density, before the softplus, below which a sample is skipped


def render_rays(
    density: Tensor, color: Tensor, frame: Tensor, first: Tensor, step: Tensor, *, reach: float, samples: int
) -> Tensor:
    """Render rays: [N, 4] colour over white and alpha, in [-1, 1]; the reference is `network.ObjectsNetwork.render`.

    density: [D, R, R] before the softplus, after which it is per plane spacing. color: [3, K, R, R] in [-1, 1].
    frame: [4, 4] of the frustum. first, step: [N, 3] each ray's first sample, and the step between samples; world
    units. reach: distance in front of and behind the world's origin that the planes span.
    """
    pixels = torch.empty(len(first), 4)
    columns = density.permute(1, 2, 0)  # neighbours along the frustum's rays are adjacent in memory
    densest = columns.amax(2)  # allows whole columns to be skipped
    colors = color.permute(2, 3, 1, 0)
    tensors = (columns, densest, colors, frame, first, step, pixels)
    arrays = [tensor.float().contiguous().numpy() for tensor in tensors]
    parallel_for(lambda begin, end: _march(*arrays, np.float32(reach), samples, begin, end), len(first), grain=GRAIN)
    return pixels


@njit(nogil=True, cache=True, fastmath=True)
def _march(
    columns: Floats, densest: Floats, colors: Floats, m: Floats, first: Floats, step: Floats, pixels: Floats,
    reach: np.float32, samples: int, begin: int, end: int,
) -> None:  # fmt: skip
    size, planes, color_planes = columns.shape[0], columns.shape[2], colors.shape[2]
    for r in range(begin, end):
        world = np.sqrt(step[r, 0] ** 2 + step[r, 1] ** 2 + step[r, 2] ** 2)
        length = world * planes / (2 * reach)  # in plane spacings
        through = np.float32(1)
        red = green = blue = np.float32(0)
        for k in range(samples):
            along = np.float32(k)
            x = first[r, 0] + along * step[r, 0]
            y = first[r, 1] + along * step[r, 1]
            z = first[r, 2] + along * step[r, 2]
            w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
            s = m[3, 0] * x + m[3, 1] * y + m[3, 2] * z
            if s < -1 or s > 1 or w < NEAR:
                continue
            u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
            v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
            if u < -1 or u > 1 or v < -1 or v > 1:
                continue
            i, a = _cell(v, size)
            j, b = _cell(u, size)
            if max(densest[i, j], densest[i, j + 1], densest[i + 1, j], densest[i + 1, j + 1]) < EMPTY:
                continue
            d, c = _cell(s, planes)
            value = np.float32(0)
            for p in range(2):
                for q in range(2):
                    share = (a if p else 1 - a) * (b if q else 1 - b)
                    column = columns[i + p, j + q]
                    value += share * ((1 - c) * column[d] + c * column[d + 1])
            if value < EMPTY:
                continue
            optical = length * (value if value > 15 else np.log1p(np.exp(value)))
            left = through * np.exp(-optical)
            weight = through - left
            through = left
            d, c = _cell(s, color_planes)
            for p in range(2):
                for q in range(2):
                    share = weight * (a if p else 1 - a) * (b if q else 1 - b)
                    near, far = colors[i + p, j + q, d], colors[i + p, j + q, d + 1]
                    red += share * ((1 - c) * near[0] + c * far[0])
                    green += share * ((1 - c) * near[1] + c * far[1])
                    blue += share * ((1 - c) * near[2] + c * far[2])
            if through < DONE:
                break
        pixels[r, 0], pixels[r, 1], pixels[r, 2] = red + through, green + through, blue + through
        pixels[r, 3] = 1 - 2 * through


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _cell(place: float, count: int) -> tuple[int, np.float32]:
    """Return the index of the lower of the two cell centres next to `place` in [-1, 1], and the upper one's weight."""
    position = min(max(np.float32(0.5) * ((place + 1) * count - 1), np.float32(0)), np.float32(count - 1))
    lower = min(int(position), count - 2)
    return lower, np.float32(position - lower)
