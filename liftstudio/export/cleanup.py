"""Clean-up of a raw isosurface into a small, closed, two-manifold mesh: drop floaters, decimate, repair."""

from dataclasses import dataclass

import fast_simplification
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from liftstudio.data.mesh import Mesh

Ints = NDArray[np.int64]

# Aggressiveness of fast-simplification, tried in turn until the target is met.
AGGRESSIVENESS = (5, 7, 10)
# Attempts to separate the faces at edges with more than two; a few suffice, as each repairs most of the remaining ones.
REPAIR_ROUNDS = 10
# A result with at most this multiple of the target is accepted.
TARGET_SLACK = 1.02


@dataclass(frozen=True)
class Dropped:
    """What `drop_floaters` removed: components, faces, and their fraction of the total area in [0, 1]."""

    components: int
    faces: int
    area_fraction: float


def face_components(mesh: Mesh) -> tuple[int, NDArray[np.int32]]:
    """Number of connected components and the component of every face [F]; faces that share a vertex are connected."""
    faces = mesh.faces.numpy()
    _, of_vertex = connected(faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel(), len(mesh.vertices))
    used, of_face = np.unique(of_vertex[faces[:, 0]], return_inverse=True)
    return len(used), of_face.astype(np.int32)


def drop_floaters(mesh: Mesh, min_area_fraction: float) -> tuple[Mesh, Dropped]:
    """Keep the components with at least `min_area_fraction` of the total area, and always the largest."""
    count, of_face = face_components(mesh)
    area = np.bincount(of_face, mesh.face_area_vectors().norm(dim=-1).double().numpy(), minlength=count)
    kept = area >= min_area_fraction * area.sum()
    kept[area.argmax()] = True
    faces = mesh.faces[torch.from_numpy(kept[of_face])]
    lost = float(area[~kept].sum() / area.sum())
    return _without_unused(mesh.vertices, faces), Dropped(int((~kept).sum()), len(mesh.faces) - len(faces), lost)


def decimate(mesh: Mesh, target_faces: int) -> Mesh:
    """Reduce to about `target_faces` faces by quadric edge collapse (Garland and Heckbert 1997), then repair.

    fast-simplification may fold faces onto each other; `repaired` removes such folds. A mesh that already has at most
    `target_faces` faces is only repaired.
    """
    if len(mesh.faces) <= target_faces:
        return repaired(mesh)
    for aggressiveness in AGGRESSIVENESS:
        vertices, faces = fast_simplification.simplify(
            mesh.vertices.numpy(), mesh.faces.numpy(), target_count=target_faces, agg=aggressiveness
        )
        if len(faces) <= TARGET_SLACK * target_faces:
            break
    return repaired(Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces).long()))


def repaired(mesh: Mesh) -> Mesh:
    """Repair a mesh to a two-manifold: at most two faces at an edge, one fan of faces at a vertex.

    Degenerate faces and pairs of opposite faces on the same three vertices are removed. Where surfaces touch along an
    edge or at a point, its vertices are duplicated. A closed mesh stays closed.
    """
    faces = _without_folds(mesh.faces.numpy())
    source = np.arange(len(mesh.vertices))
    generator = np.random.default_rng(0)
    for _ in range(REPAIR_ROUNDS):
        edge = _edges(faces)
        _, group = connected(*_joined_corners(faces, edge, generator.permutation(faces.size)), faces.size)
        _, first, vertex = np.unique(group, return_index=True, return_inverse=True)
        source, faces = source[faces.ravel()[first]], vertex.reshape(-1, 3)
        if np.bincount(edge).max(initial=0) <= 2:
            break
    return Mesh(mesh.vertices[torch.from_numpy(source)], torch.from_numpy(faces.astype(np.int64)))


def vertex_normals(mesh: Mesh) -> Tensor:
    """Unit outward vertex normals [V, 3]; +z where the faces around a vertex define no direction."""
    normals = mesh.vertex_normals()
    return torch.where(normals.norm(dim=-1, keepdim=True) > 0.5, normals, normals.new_tensor([0.0, 0.0, 1.0]))


def _without_folds(faces: Ints) -> Ints:
    """Faces with three distinct vertices; opposite faces on the same three vertices cancel."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (a != c)]
    order = np.argsort(faces, axis=1)
    side = np.where((order[:, 1] - order[:, 0]) % 3 == 1, 1, -1)  # parity of the permutation that sorts the face
    _, group = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True)
    excess = np.bincount(group, side)[group] * side
    return faces[_occurrence(2 * group + (side > 0)) < excess]


def _ends(faces: Ints) -> tuple[Ints, Ints]:
    """Tail and head vertex of every half-edge; half-edge k goes from face corner k to the next corner of the face."""
    return faces.ravel(), np.roll(faces, -1, axis=1).ravel()


def _edges(faces: Ints) -> Ints:
    """Index (from 0) of the edge of every half-edge."""
    tail, head = _ends(faces)
    keys = np.minimum(tail, head) * (faces.max(initial=0) + 1) + np.maximum(tail, head)
    return np.unique(keys, return_inverse=True)[1]


def _joined_corners(faces: Ints, edge: Ints, order: Ints) -> tuple[Ints, Ints]:
    """Pairs of face corners (flat indices into `faces`) that are the same vertex, as an edge joins their faces.

    Half-edges are matched one to one, in the given order, with opposite half-edges on the same edge. If an edge has
    more than two faces, only some matchings separate them, so the caller may have to try several orders.
    """
    tail, head = _ends(faces)
    forward, backward = np.flatnonzero(tail < head), order[tail[order] > head[order]]
    forward_key, backward_key = (edge[side] * faces.size + _occurrence(edge[side]) for side in (forward, backward))
    _, i, j = np.intersect1d(forward_key, backward_key, assume_unique=True, return_indices=True)
    after = np.roll(np.arange(faces.size).reshape(-1, 3), -1, axis=1).ravel()
    one, other = forward[i], backward[j]
    return np.concatenate([one, after[one]]), np.concatenate([after[other], other])


def _occurrence(keys: Ints) -> Ints:
    """For every key, the number of equal keys before it."""
    order = np.argsort(keys, kind="stable")
    _, first, group = np.unique(keys[order], return_index=True, return_inverse=True)
    occurrence = np.empty_like(order)
    occurrence[order] = np.arange(len(keys)) - first[group]
    return occurrence


def connected(a: Ints, b: Ints, count: int) -> tuple[int, NDArray[np.int32]]:
    """Return the number of components of a graph, and that of each of its `count` nodes; edges [E] join a and b."""
    return connected_components(coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count)), directed=False)


def _without_unused(vertices: Tensor, faces: Tensor) -> Mesh:
    used, renumbered = torch.unique(faces, return_inverse=True)
    return Mesh(vertices[used], renumbered)
