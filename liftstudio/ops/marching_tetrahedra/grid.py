"""Tetrahedral grids: a body-centred cubic lattice with a list of unique edges."""

import functools
import itertools
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# The six edges of a tetrahedron as pairs of its corners, in the order of `TetGrid.tet_edges`.
TET_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@dataclass(frozen=True)
class TetGrid:
    """A grid of tetrahedra that fills the cube [-1, 1]^3.

    vertices:  [V, 3] float32.
    tets:      [T, 4] int32 vertex indices; (1 - 0) x (2 - 0) . (3 - 0) > 0 for every tetrahedron.
    edges:     [E, 2] int32 vertex indices, first < second, each edge once.
    tet_edges: [T, 6] int32 edge indices in the order of `TET_EDGES`.
    """

    vertices: Tensor
    tets: Tensor
    edges: Tensor
    tet_edges: Tensor

    def to(self, device: torch.device | str) -> "TetGrid":
        """Copy of the grid with its tensors on `device`."""
        return TetGrid(*(getattr(self, field.name).to(device) for field in fields(self)))


def cells_per_axis(resolution: int) -> int:
    """Return the number of cubic cells along each axis of the grid of nominal `resolution`."""
    return round(0.4 * resolution)


def subdivided_resolution(resolution: int) -> int:
    """Return the nominal resolution of the grid with twice as many cells per axis."""
    return 5 * cells_per_axis(resolution)


@functools.lru_cache(maxsize=2)
def tet_grid(resolution: int) -> TetGrid:
    """The grid of nominal `resolution` >= 2, on the CPU; cached, so do not modify it.

    It has round(0.4 * resolution) cubic cells per axis. Resolutions 64 and 128 thus have the size of the published
    DMTet grids of that name (37k and 273k vertices, 0.21M and 1.6M tetrahedra). Every cell has a vertex at its centre.
    The octahedra between neighbouring centres are cut into four tetrahedra, the half octahedra at the border into two.

    Raises:
        ValueError: for a resolution below 2.
    """
    if resolution < 2:
        raise ValueError(f"resolution: expected at least 2, got {resolution}")
    cells = cells_per_axis(resolution)
    tets = torch.cat([gap(cells, axis) for axis in range(3) for gap in (_inner_gaps, _border_gaps)])
    points, tets = torch.unique(tets, return_inverse=True)
    vertices = (torch.stack(torch.unravel_index(points, (2 * cells + 1,) * 3), -1) / cells - 1).float()
    tets = _oriented(vertices, tets)
    edges, tet_edges = _unique_edges(tets, len(vertices))
    return TetGrid(vertices, tets.int(), edges.int(), tet_edges.int())


def subdivide(values: Tensor, grid: TetGrid, finer: TetGrid) -> Tensor:
    """Return the values [V', C] that are linear along the edges of `grid`, at the vertices of `finer`.

    Every vertex of the finer grid is a vertex of the coarser one or the middle of one of its edges.

    values: [V, C] at the vertices of `grid`. finer: has twice as many cells per axis; see `subdivided_resolution`.
    """
    ends = grid.edges.long()
    known = torch.cat([values, (values[ends[:, 0]] + values[ends[:, 1]]) / 2])
    places = torch.cat([grid.vertices, (grid.vertices[ends[:, 0]] + grid.vertices[ends[:, 1]]) / 2])
    ids, order = _lattice_ids(places, finer).sort()
    return known[order[torch.searchsorted(ids, _lattice_ids(finer.vertices, finer))]]


def _lattice_ids(points: Tensor, grid: TetGrid) -> Tensor:
    """Return the indices [N] of points [N, 3] in a grid's lattice of half steps; see `_corners_and_middles`."""
    half_steps = round(2 / (grid.vertices[1, 2] - grid.vertices[0, 2]).item()) * 2  # along an axis
    x, y, z = ((points + 1) * half_steps / 2).round().long().unbind(-1)
    return (x * (half_steps + 1) + y) * (half_steps + 1) + z


def _corners_and_middles(cells: int, axis: int) -> tuple[Tensor, Tensor]:
    """Ids of the cells' corners [n+1, n+1, n+1] and centres [n, n, n], with `axis` moved to the front.

    An id is a flat index into the lattice of half steps, (2 n + 1)^3 points, a quarter of which are corners or centres.
    """
    ids = torch.arange((2 * cells + 1) ** 3).view(2 * cells + 1, 2 * cells + 1, 2 * cells + 1).movedim(axis, 0)
    return ids[::2, ::2, ::2], ids[1::2, 1::2, 1::2]


def _face_rings(corners: Tensor) -> list[Tensor]:
    """The four corners of every cell face perpendicular to dimension 0, in cyclic order."""
    return [corners[:, :-1, :-1], corners[:, 1:, :-1], corners[:, 1:, 1:], corners[:, :-1, 1:]]


def _inner_gaps(cells: int, axis: int) -> Tensor:
    """Tetrahedra [.., 4]: one for each pair of neighbouring centres and each side of the cell face between them."""
    corners, middles = _corners_and_middles(cells, axis)
    ring = _face_rings(corners[1:-1])
    sides = zip(ring, [*ring[1:], ring[0]], strict=True)
    return torch.cat([torch.stack([middles[:-1], middles[1:], a, b], -1).view(-1, 4) for a, b in sides])


def _border_gaps(cells: int, axis: int) -> Tensor:
    """Tetrahedra [.., 4]: for every cell face on the cube's border, the pyramid to the cell's centre, cut in two."""
    corners, middles = _corners_and_middles(cells, axis)
    a, b, c, d = _face_rings(corners[[0, -1]])
    tips = middles[[0, -1]]
    return torch.cat([torch.stack([tips, a, *sides], -1).view(-1, 4) for sides in ((b, c), (c, d))])


def _oriented(vertices: Tensor, tets: Tensor) -> Tensor:
    a, b, c, d = vertices[tets].unbind(1)
    flipped = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) < 0
    return torch.where(flipped[:, None], tets[:, [0, 1, 3, 2]], tets)


def _unique_edges(tets: Tensor, vertex_count: int) -> tuple[Tensor, Tensor]:
    """The fields edges [E, 2] and tet_edges [T, 6] of `TetGrid`, as int64."""
    first, second = tets[:, list(itertools.chain(*TET_EDGES))].view(-1, 2).unbind(1)
    keys = torch.minimum(first, second) * vertex_count + torch.maximum(first, second)
    unique, tet_edges = torch.unique(keys, return_inverse=True)
    edges = torch.stack([unique // vertex_count, unique % vertex_count], -1)
    return edges, tet_edges.view(-1, len(TET_EDGES))
