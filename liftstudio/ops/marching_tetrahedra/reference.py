"""Textbook marching tetrahedra, which finds the unique crossed edges at every call: slow, the reference for tests."""

import torch
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.ops.marching_tetrahedra.grid import TET_EDGES, TetGrid

# Faces as edges (corner pairs), by the number of inside corners. The corners of the tetrahedron are permuted evenly so
# that the inside ones come first.
FACES = {
    1: [[(0, 1), (0, 2), (0, 3)]],
    2: [[(0, 2), (0, 3), (1, 3)], [(0, 2), (1, 3), (1, 2)]],
    3: [[(0, 3), (1, 3), (2, 3)]],
}


def marching_tetrahedra(positions: Tensor, sdf: Tensor, grid: TetGrid, smallest_value: float = 1e-6) -> Mesh:
    """See `liftstudio.ops.marching_tetrahedra`; works in any precision, vertices and faces are in a different order."""
    corners, inside_count = _inside_first(sdf, grid.tets.long())
    faces = [corners[inside_count == count][:, torch.tensor(FACES[count])].view(-1, 3, 2) for count in FACES]
    ends, face_vertices = torch.unique(torch.cat(faces).view(-1, 2).sort(1).values, dim=0, return_inverse=True)
    side = torch.where(sdf < 0, -1.0, 1.0)
    sdf = sdf + (side * sdf.abs().clamp(min=smallest_value) - sdf).detach()
    (a, b), (value_a, value_b) = positions[ends].unbind(1), sdf[ends][..., None].unbind(1)
    return Mesh((a * value_b - b * value_a) / (value_b - value_a), face_vertices.view(-1, 3))


def _inside_first(sdf: Tensor, tets: Tensor) -> tuple[Tensor, Tensor]:
    """Corners [C, 4] of the crossed tetrahedra, evenly permuted so that inside ones are first; their count [C]."""
    inside = sdf[tets] < 0
    crossed = inside.any(1) & ~inside.all(1)
    tets, inside = tets[crossed], inside[crossed]
    count = inside.sum(1)
    order = (~inside).int().argsort(dim=1, stable=True)
    inversions = torch.stack([order[:, i] > order[:, j] for i, j in TET_EDGES]).sum(0)
    swapped = torch.where((count == 3)[:, None], order[:, [1, 0, 2, 3]], order[:, [0, 1, 3, 2]])
    order = torch.where((inversions % 2 == 1)[:, None], swapped, order)
    return tets.gather(1, order), count
