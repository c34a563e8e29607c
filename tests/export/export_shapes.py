"""An asymmetric closed surface, a colour by position, and conversions from and to trimesh."""

import functools

import torch
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.ops.marching_tetrahedra import marching_tetrahedra, tet_grid


@functools.lru_cache(maxsize=4)
def lopsided(resolution: int = 24, noise: float = 0.0, seed: int = 0) -> Mesh:
    """Return a bumpy pear without any symmetry."""
    grid = tet_grid(resolution)
    x, y, z = grid.vertices.unbind(1)
    sdf = torch.sqrt((x / 0.8 - 0.1) ** 2 + (y / (0.5 + 0.2 * x)) ** 2 + ((z - 0.2 * x) / 0.4) ** 2) - 1
    sdf = 0.4 * sdf + 0.03 * torch.sin(7 * x + 3 * y)
    return marching_tetrahedra(
        grid.vertices, sdf + noise * torch.randn(sdf.shape, generator=torch.Generator().manual_seed(seed)), grid
    )


def position_color(points: Tensor) -> Tensor:
    """Return colours with x, y and z from -1 to 1 as red, green and blue."""
    return 0.5 + 0.5 * points
