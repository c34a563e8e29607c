"""Isosurface of values on a regular lattice of any size (marching cubes, Lorensen and Cline 1987).

The table of cases is generated. On each face of a cube, every run of inside corners is cut off separately, also the two
runs of a saddle. So neighbouring cubes agree on the face they share, and the surface has no holes.
"""

import functools
import itertools

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.data.mesh import Mesh

# Corner k of a cube is at (k & 1, k >> 1 & 1, k >> 2 & 1). An edge is given by its lower corner and its axis.
_EDGES = [(corner, axis) for axis in range(3) for corner in range(8) if not corner >> axis & 1]
# Crossings stay this fraction of an edge's length away from its ends: vertices stay distinct, faces keep an area.
_MARGIN = 1e-4


def marching_cubes(values: Tensor, box: Tensor) -> Mesh:
    """The surface where `values` change sign, linearly interpolated along the edges of the lattice.

    values: [X, Y, Z] float, negative inside, positive outside, at points evenly spaced from corner to corner.
    box:    [2, 3] lowest and highest corner of the lattice, world units.

    Returns a mesh whose vertices are differentiable w.r.t. `values`. Faces wind counter-clockwise seen from outside,
    every vertex is used, and the mesh is closed unless the surface leaves the lattice. Without a sign change it is
    empty. The result is bit-identical on repeat.

    Raises:
        ValueError: for wrong shapes.
    """
    check_shape("values", values, ("X", "Y", "Z"))
    check_shape("box", box, (2, 3))
    edges, faces = torch.unique(_face_edges(values < 0), return_inverse=True)
    return Mesh(_crossings(values, box, edges), faces)


def _face_edges(inside: Tensor) -> Tensor:
    """Edges [M, 3] int64 on which the corners of the faces lie; edge = flat index of its lower point x 3 + axis."""
    shape, device = inside.shape, inside.device
    cases = torch.zeros([size - 1 for size in shape], dtype=torch.uint8, device=device)
    for corner in range(8):
        x, y, z = (slice(corner >> axis & 1, shape[axis] - 1 + (corner >> axis & 1)) for axis in range(3))
        cases |= inside[x, y, z].to(torch.uint8) << corner
    cells = ((cases != 0) & (cases != 255)).nonzero()
    lower = _flat(cells, shape)
    local = _face_table(device)[cases[tuple(cells.unbind(1))].long()]  # [crossed cells, maximum number of faces, 3]
    cell, face = (local[..., 0] >= 0).nonzero(as_tuple=True)
    return lower[cell, None] + _edge_offsets(shape, device)[local[cell, face]]


def _flat(index: Tensor, shape: torch.Size) -> Tensor:
    """Edges [N] along axis 0 from lattice points [N, 3]."""
    return 3 * ((index[:, 0] * shape[1] + index[:, 1]) * shape[2] + index[:, 2])


def _edge_offsets(shape: torch.Size, device: torch.device) -> Tensor:
    """Offsets [12] of a cell's edges from the edge along axis 0 at its lowest corner."""
    corners = torch.tensor([[corner & 1, corner >> 1 & 1, corner >> 2 & 1] for corner, _ in _EDGES])
    return (_flat(corners, shape) + torch.tensor([axis for _, axis in _EDGES])).to(device)


def _crossings(values: Tensor, box: Tensor, edges: Tensor) -> Tensor:
    """Points [N, 3] where the values are zero on edges [N] whose ends differ in sign."""
    axis = torch.nn.functional.one_hot(edges % 3, 3)
    first = torch.stack(torch.unravel_index(edges // 3, values.shape), dim=1)
    second = first + axis
    a, b = values[tuple(first.unbind(1))], values[tuple(second.unbind(1))]
    share = (a / (a - b)).clamp(_MARGIN, 1 - _MARGIN)
    cell = (box[1] - box[0]) / (torch.tensor(values.shape, device=box.device) - 1)
    return box[0] + (first + share[:, None] * axis) * cell


@functools.cache
def _face_table(device: torch.device) -> Tensor:
    """Local edges [256, F, 3] of up to F faces (missing: -1), indexed by inside corners (bit k: corner k)."""
    cases = [_faces(case) for case in range(256)]
    table = torch.full((256, max(map(len, cases)), 3), -1)
    for case, faces in enumerate(cases):
        if faces:
            table[case, : len(faces)] = torch.tensor(faces)
    return table.to(device)


def _faces(case: int) -> list[tuple[int, int, int]]:
    """Triangle fans of the loops that the segments on the cube's faces form."""
    following = dict(itertools.chain(*(_segments(case, ring) for ring in _face_rings())))
    faces = []
    while following:
        loop = [next(iter(following))]
        while (edge := following.pop(loop[-1])) != loop[0]:
            loop.append(edge)
        faces += [(loop[0], b, c) for b, c in itertools.pairwise(loop[1:])]
    return faces


def _face_rings() -> list[list[int]]:
    """Corners of the cube's six faces, counter-clockwise seen from outside."""
    rings = []
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        upper = [corner + (1 << axis) for corner in (0, u, u + v, v)]
        rings += [upper, [corner - (1 << axis) for corner in reversed(upper)]]
    return rings


def _segments(case: int, ring: list[int]) -> list[tuple[int, int]]:
    """For every run of inside corners: the edge where the ring enters the inside and the edge where it leaves it."""
    inside = [bool(case >> corner & 1) for corner in ring]
    enters = [i for i in range(4) if inside[i] and not inside[i - 1]]
    leaves = [next(j for j in range(i, i + 4) if not inside[(j + 1) % 4]) for i in enters]
    return [
        (_edge(ring[i - 1], ring[i]), _edge(ring[j % 4], ring[(j + 1) % 4]))
        for i, j in zip(enters, leaves, strict=True)
    ]


def _edge(a: int, b: int) -> int:
    return _EDGES.index((min(a, b), (a ^ b).bit_length() - 1))
