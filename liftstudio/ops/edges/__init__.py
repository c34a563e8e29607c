"""Edges of a triangle mesh and the faces that meet at them."""

from dataclasses import dataclass

from torch import Tensor

from liftstudio.core.checks import check_indices, check_shape
from liftstudio.ops.backends import backend_for
from liftstudio.ops.edges import reference


@dataclass(frozen=True)
class Edges:
    """Undirected edges, sorted by their vertices.

    vertices: [E, 2] int64, lower index first.
    faces:    [E, 2] int64, the faces that meet at the edge; the second is -1 at a boundary.
    opposite: [E, 2] int64, the vertex of each of those faces that is not on the edge; the second is -1 at a boundary.

    An edge that k > 2 faces share (non-manifold) is listed ceil(k / 2) times: faces are paired in order of their index,
    and a remaining one counts as a boundary. Faces with a repeated vertex are skipped.
    """

    vertices: Tensor
    faces: Tensor
    opposite: Tensor


def edge_adjacency(faces: Tensor, vertex_count: int) -> Edges:
    """The edges of `faces` [F, 3] int64; not differentiable.

    Raises:
        ValueError: for a wrong shape or an index outside [0, vertex_count).
    """
    check_shape("faces", faces, ("F", 3))
    check_indices("faces", faces, vertex_count)
    if backend_for("edges", faces) == "numba":
        from liftstudio.ops.edges import cpu

        return Edges(*cpu.edge_adjacency(faces, vertex_count))
    return Edges(*reference.edge_adjacency(faces, vertex_count))
