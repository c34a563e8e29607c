"""Isosurface of values on a tetrahedral grid, differentiable w.r.t. values and positions.

Marching tetrahedra (Doi and Koide 1991) as used by DMTet (Shen et al. 2021, section 3.1). The grid's edges are listed
once when it is built, so extraction needs no sorting: each crossed edge owns one vertex and the tetrahedra look it up.
"""

import functools
import itertools

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.data.mesh import Mesh
from liftstudio.ops.backends import backend_for
from liftstudio.ops.marching_tetrahedra.grid import TET_EDGES, TetGrid, subdivide, subdivided_resolution, tet_grid

__all__ = ["TetGrid", "marching_tetrahedra", "subdivide", "subdivided_resolution", "tet_grid"]

# Smaller magnitudes are raised to this (zero counts as positive): vertices stay distinct, faces keep an area, and the
# gradient of a crossing, 1 / (difference of the values at the edge's ends), stays finite.
SMALLEST_VALUE = 1e-6


def marching_tetrahedra(positions: Tensor, sdf: Tensor, grid: TetGrid) -> Mesh:
    """The surface where `sdf` changes sign, linearly interpolated along the grid's edges.

    positions: [V, 3] float, current positions of the grid's vertices (deformed, scaled), world units.
    sdf:       [V] float, negative inside, positive outside.

    Returns a mesh whose vertices are differentiable w.r.t. `positions` and `sdf`. Faces wind counter-clockwise seen
    from outside, every vertex is used, and the mesh is closed unless the surface leaves the grid. Without a sign change
    it is empty. The result is bit-identical on repeat.

    Raises:
        ValueError: for wrong shapes.
    """
    check_shape("positions", positions, (len(grid.vertices), 3))
    check_shape("sdf", sdf, (len(grid.vertices),))
    corner_edges = _face_edges(sdf < 0, grid)
    is_crossed = torch.zeros(len(grid.edges), dtype=torch.bool, device=sdf.device)
    is_crossed[corner_edges] = True
    crossed = is_crossed.nonzero().squeeze(1)
    vertex_of_edge = torch.empty(len(grid.edges), dtype=torch.int64, device=sdf.device)
    vertex_of_edge[crossed] = torch.arange(len(crossed), device=sdf.device)
    return Mesh(_crossings(positions, sdf, grid.edges.index_select(0, crossed)), vertex_of_edge.take(corner_edges))


def _face_edges(inside: Tensor, grid: TetGrid) -> Tensor:
    """Grid edges [M, 3] on which the corners of the faces lie; `inside` [V] bool marks the grid vertices inside."""
    states, table = inside.to(torch.uint8), _face_table(inside.device)
    if backend_for("marching_tetrahedra", inside) == "numba":
        from liftstudio.ops.marching_tetrahedra import cpu

        return cpu.face_edges(states, grid.tets, grid.tet_edges, table)
    return face_edges(states, grid.tets, grid.tet_edges, table)


def face_edges(states: Tensor, tets: Tensor, tet_edges: Tensor, table: Tensor) -> Tensor:
    """Grid edges [M, 3] int64 on which the corners of the faces lie, ordered by tetrahedron.

    states: [V] uint8, 1 inside. tets [T, 4], tet_edges [T, 6]: of the grid. table: [16, 2, 3] from `_face_table`.
    """
    corners = states.index_select(0, tets.flatten()).view(-1, 4)
    four_at_once = corners.view(torch.int32)
    crossed = ((four_at_once != 0) & (four_at_once != 0x01010101)).nonzero()[:, 0]
    local_edges = table[(corners[crossed] * _corner_bits(states.device)).sum(1)]  # [crossed tetrahedra, 2, 3]
    tet, face = (local_edges[..., 0] >= 0).nonzero(as_tuple=True)
    return tet_edges[crossed[tet][:, None], local_edges[tet, face]].long()


def _crossings(positions: Tensor, sdf: Tensor, edges: Tensor) -> Tensor:
    """Points [N, 3] where `sdf` is zero on edges [N, 2] whose ends differ in sign."""
    values = sdf.index_select(0, edges.flatten()).view(-1, 2)
    first, second = (values + _push_from_zero(values.detach())).unbind(1)
    ends = positions.index_select(0, edges.flatten()).view(-1, 2, 3)
    return torch.lerp(ends[:, 0], ends[:, 1], (first / (first - second))[:, None])


def _push_from_zero(values: Tensor) -> Tensor:
    """Offsets that raise all magnitudes to at least SMALLEST_VALUE; constants, so the gradient passes unchanged."""
    return torch.where(values < 0, values.clamp(max=-SMALLEST_VALUE), values.clamp(min=SMALLEST_VALUE)) - values


@functools.cache
def _corner_bits(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8], dtype=torch.uint8, device=device)


@functools.cache
def _face_table(device: torch.device) -> Tensor:
    """Local edges [16, 2, 3] of up to two faces (missing: -1), indexed by inside corners (bit k: corner k)."""
    table = torch.full((16, 2, 3), -1)
    for i, j, k, m in itertools.permutations(range(4)):
        if not _is_even((i, j, k, m)):
            continue
        table[1 << i, 0] = _edges((i, j), (i, k), (i, m))
        table[15 - (1 << i), 0] = _edges((i, j), (i, m), (i, k))
        table[(1 << i) + (1 << j)] = torch.stack([_edges((i, k), (i, m), (j, m)), _edges((i, k), (j, m), (j, k))])
    return table.to(device)


def _edges(*pairs: tuple[int, int]) -> Tensor:
    return torch.tensor([TET_EDGES.index((min(pair), max(pair))) for pair in pairs])


def _is_even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0
