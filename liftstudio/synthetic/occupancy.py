"""Occupancy grid of an object of overlapping closed parts."""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.synthetic.assembly import TexturedObject

_SHIFT = 1e-5  # world units; moves edges that lie exactly on grid lines off them


def occupancy(obj: TexturedObject, grid: int, half_side: float) -> Tensor:
    """Return which grid vertices of the cube [-half_side, half_side]^3 are inside: [G, G, G] bool, axes z, y, x.

    A point is inside if its winding number is positive, so overlapping parts form their union.
    """
    shifted = obj.vertices.astype(np.float64) + np.array([_SHIFT, 2 * _SHIFT, 0])
    vertices = (shifted + half_side) * ((grid - 1) / (2 * half_side))
    winding = np.zeros((grid, grid, grid), np.int16)
    _wind(vertices, obj.faces, winding)
    return torch.from_numpy(winding > 0)


@njit(nogil=True, cache=True)
def _wind(vertices: NDArray[np.float64], faces: NDArray[np.int32], winding: NDArray[np.int16]) -> None:
    """Add +-1 to all grid vertices below each crossing of a vertical grid line with a face."""
    grid = winding.shape[0]
    for face in range(len(faces)):
        a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        if area == 0:
            continue
        sign = 1 if area > 0 else -1
        left, right = max(0, int(np.ceil(min(a[0], b[0], c[0])))), min(grid - 1, int(max(a[0], b[0], c[0])))
        low, high = max(0, int(np.ceil(min(a[1], b[1], c[1])))), min(grid - 1, int(max(a[1], b[1], c[1])))
        for j in range(low, high + 1):
            for i in range(left, right + 1):
                u = ((b[0] - i) * (c[1] - j) - (c[0] - i) * (b[1] - j)) / area
                v = ((c[0] - i) * (a[1] - j) - (a[0] - i) * (c[1] - j)) / area
                if u >= 0 and v >= 0 and u + v <= 1:
                    top = int(np.ceil(u * a[2] + v * b[2] + (1 - u - v) * c[2]))
                    for k in range(min(top, grid)):
                        winding[k, j, i] += sign
