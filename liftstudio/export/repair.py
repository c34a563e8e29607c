"""Repair of an open or inconsistent surface to a watertight one: weld, turn, part, fill holes."""

from collections.abc import Iterator
from dataclasses import dataclass

import manifold3d
import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from liftstudio.data.mesh import Mesh
from liftstudio.export.cleanup import connected, repaired

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

WELD = 1e-5  # distance of open edges that are joined, relative to the longest side


@dataclass(frozen=True)
class Repair:
    """What `watertight` changed.

    vertices_merged: vertices of open edges that were joined with others in the same place.
    faces_turned:    faces that looked against their neighbours.
    faces_removed:   faces without three different corners, and faces that were there twice.
    holes_filled:    closed loops of open edges, each filled by a flat patch of triangles.
    faces_added, area_added: those of the patches; the area as a fraction of the whole.
    """

    watertight_before: bool
    watertight_after: bool
    vertices_merged: int
    faces_turned: int
    faces_removed: int
    holes_filled: int
    faces_added: int
    area_added: float


def is_watertight(mesh: Mesh) -> bool:
    """Return whether every edge has two faces, which agree on what is outside."""
    surface = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    return bool(surface.is_watertight and surface.is_winding_consistent)


def watertight(mesh: Mesh) -> tuple[Mesh, Repair]:
    """Return the surface closed, with faces that agree on what is outside, and what was changed.

    A mesh that is watertight stays as it is. Faces that cross one another are not looked for. A surface with one side,
    like a Moebius strip, is cut where its sides meet.
    """
    if is_watertight(mesh):
        return mesh, Repair(True, True, 0, 0, 0, 0, 0, 0.0)
    faces = mesh.faces.numpy()
    to = _welds(mesh.vertices.numpy(), faces)
    distinct = _distinct(to[faces])
    turned = _turns(distinct)
    oriented = np.where(turned[:, None], distinct[:, ::-1], distinct)
    parted = repaired(Mesh(mesh.vertices, torch.from_numpy(_distinct(oriented))))
    patched, holes = _patched(parted)
    closed = repaired(patched)
    areas = patched.face_area_vectors().norm(dim=-1)
    return closed, Repair(
        watertight_before=False,
        watertight_after=is_watertight(closed),
        vertices_merged=int((to != np.arange(len(to))).sum()),
        faces_turned=int(turned.sum()),
        faces_removed=len(faces) - len(parted.faces),
        holes_filled=holes,
        faces_added=len(patched.faces) - len(parted.faces),
        area_added=float(areas[len(parted.faces) :].sum() / areas.sum()),
    )


def _welds(vertices: Floats, faces: Ints) -> Ints:
    """Return for every vertex the one that it is joined with, or itself: those of open edges in nearly one place."""
    tail, head, is_open = _half_edges(faces)
    ends = np.unique([tail[is_open], head[is_open]])
    tolerance = WELD * float(np.ptp(vertices, axis=0).max())
    near = ends[cKDTree(vertices[ends]).query_pairs(tolerance, output_type="ndarray")]
    _, group = connected(near[:, 0], near[:, 1], len(vertices))
    return np.unique(group, return_index=True)[1][group]


def _distinct(faces: Ints) -> Ints:
    """Return the faces with three different corners, each once."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (a != c)]
    turns = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
    _, first = np.unique(np.take_along_axis(faces, turns, axis=1), axis=0, return_index=True)
    return faces[np.sort(first)]


def _turns(faces: Ints) -> NDArray[np.bool_]:
    """Return which faces [F] have to be turned over to agree with most others of their piece.

    Each face is two nodes of a graph, as it is and turned over. What agrees across an edge is connected, so that every
    piece with two sides falls into two parts. Edges with more than two faces connect nothing.
    """
    count = len(faces)
    tail, head, _ = _half_edges(faces)
    edge = np.unique(np.sort(np.stack([tail, head], 1), axis=1), axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(edge, kind="stable")
    shared = np.flatnonzero(np.bincount(edge) == 2)
    first = np.searchsorted(edge[order], shared)
    one, other = order[first], order[first + 1]
    differs = count * (tail[one] == tail[other])
    ends = one // 3, other // 3
    _, part = connected(
        np.concatenate([ends[0], ends[0] + count]),
        np.concatenate([ends[1] + differs, (ends[1] + count + differs) % (2 * count)]),
        2 * count,
    )
    parts = part.max(initial=0) + 1
    size = np.bincount(part[:count], minlength=parts) + np.arange(parts) / parts  # the fractions break ties
    return size[part[:count]] < size[part[count:]]


def _patched(mesh: Mesh) -> tuple[Mesh, int]:
    """Return a two-manifold with its holes filled, the new faces last, and the number of holes."""
    faces = mesh.faces.numpy()
    vertices, patches, count = [mesh.vertices.numpy()], [faces], len(mesh.vertices)
    tail, head, is_open = _half_edges(faces)
    inner = set(zip(tail[~is_open].tolist(), head[~is_open].tolist(), strict=True))
    for loop in _loops(tail[is_open], head[is_open]):
        patch = _patch(vertices[0][loop], loop)
        if not inner.isdisjoint(zip(patch.ravel().tolist(), np.roll(patch, -1, axis=1).ravel().tolist(), strict=True)):
            # A diagonal lies on an edge of the surface, which would then have four faces: a fan has no diagonals.
            vertices.append(vertices[0][loop].mean(axis=0, keepdims=True))
            patch = np.stack([loop, np.roll(loop, -1), np.full(len(loop), count)], axis=1)
            count += 1
        patches.append(patch)
    patched = Mesh(torch.from_numpy(np.concatenate(vertices)), torch.from_numpy(np.concatenate(patches)))
    return patched, len(patches) - 1


def _half_edges(faces: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Return tail and head of every half-edge [3 F], and whether no face has the opposite one."""
    tail, head = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    count = faces.max(initial=0) + 1
    return tail, head, ~np.isin(tail * count + head, head * count + tail)


def _loops(tail: Ints, head: Ints) -> Iterator[Ints]:
    """Return the vertices around each hole, in the direction of the faces that fill it, from the open half-edges."""
    after = dict(zip(head.tolist(), tail.tolist(), strict=True))
    while after:
        first, vertex = after.popitem()
        loop = [first]
        while vertex != first:
            loop.append(vertex)
            vertex = after.pop(vertex)
        yield np.array(loop)


def _patch(points: Floats, loop: Ints) -> Ints:
    """Return triangles [T, 3] that fill a loop of vertices at `points`, by ear clipping in the plane that fits best."""
    centred = points.astype(np.float64) - points.mean(axis=0)
    normal = np.cross(centred, np.roll(centred, -1, axis=0)).sum(axis=0)
    normal = normal / max(float(np.linalg.norm(normal)), 1e-30)
    right = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    flat = centred @ np.stack([right, np.cross(normal, right)], axis=1)
    return loop[manifold3d.triangulate([flat])].astype(np.int64)
