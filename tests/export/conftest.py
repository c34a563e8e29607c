"""A lopsided closed surface, and a colour that tells where on it a point lies."""

import pytest
import torch
from torch import Tensor

from liftstudio.mesh import Mesh
from liftstudio.ops.marching_tetrahedra import marching_tetrahedra, tet_grid

HALF_SIZE = 1.0


def lopsided(resolution: int = 24, noise: float = 0.0, seed: int = 0) -> Mesh:
    """No symmetry at all: three different half axes, bumps, and a pear's shift along x."""
    grid = tet_grid(resolution)
    x, y, z = grid.vertices.unbind(1)
    sdf = torch.sqrt((x / 0.8 - 0.1) ** 2 + (y / (0.5 + 0.2 * x)) ** 2 + ((z - 0.2 * x) / 0.4) ** 2) - 1
    sdf = 0.4 * sdf + 0.03 * torch.sin(7 * x + 3 * y)
    sdf = sdf + noise * torch.randn(sdf.shape, generator=torch.Generator().manual_seed(seed))
    return marching_tetrahedra(grid.vertices, sdf, grid)


def position_color(points: Tensor) -> Tensor:
    """Red, green and blue are x, y and z, from -HALF_SIZE to HALF_SIZE."""
    return 0.5 + 0.5 * points / HALF_SIZE


@pytest.fixture(scope="session")
def surface() -> Mesh:
    return lopsided()
