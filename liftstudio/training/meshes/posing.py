"""Textured meshes in canonical pose."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liftstudio.synthetic.assembly import CREASE_DEG, LONGEST_SIDE, Floats, corner_normals
from liftstudio.synthetic.textures import Pattern
from liftstudio.training.meshes.packs import StoredMesh

MAX_RADIUS = 1.3  # world units; long flat things shrink little, cubes by a sixth
_WELD_STEPS = 2**19  # per longest side: vertices that agree to this are one when normals are made


@dataclass(frozen=True)
class Overlay:
    """Where a mesh has the second of its textures: by a pattern in space, as procedural objects have it.

    pattern, count, shift: as in `textures.Texture`. frame: [3, 4] float64, world point to (u, v, w).
    """

    pattern: Pattern
    count: float
    shift: float
    frame: Floats


@dataclass(frozen=True)
class MeshObject:
    """A textured mesh in canonical pose: z up, front on +x, its box centred at the origin, its longest side 1.8
    (less where its bounding sphere would be larger than MAX_RADIUS). Open or closed, of any winding.

    vertices: [V, 3] float32, world units.   faces: [F, 3] int32.
    normals:  [F, 3, 3] float32, unit, at the corners: smooth but for creases, on the side of the face's winding.
    uv:       [V, 2] float32 in [0, 1], v down from the first row of the texture.
    textures: [2, h, w, 3] uint8 sRGB: its own, and the one where `overlay` wants it; of one row: not interpolated.
    mirrored: whether y is negated, against the mesh as it is stored.
    """

    name: str
    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    uv: NDArray[np.float32]
    textures: NDArray[np.uint8]
    overlay: Overlay
    mirrored: bool = False

    @property
    def half(self) -> Floats:
        """[3] half sides of its box, world units, above 0."""
        return np.maximum(self.vertices.max(0).astype(np.float64), 1e-6)


PLAIN = Overlay(Pattern.SOLID, 1.0, 0.0, np.eye(3, 4))


def pose(mesh: StoredMesh, stretch: tuple[float, float, float] = (1.0, 1.0, 1.0), mirrored: bool = False) -> MeshObject:
    """A stored mesh in canonical pose, first stretched along the axes, and mirrored in y."""
    factors = np.array(stretch) * [1.0, -1.0 if mirrored else 1.0, 1.0]
    vertices = canonical(mesh.vertices * factors)
    _, unique, welded = _weld(mesh.vertices)
    faces = mesh.faces[:, ::-1] if mirrored else mesh.faces
    normals = corner_normals(vertices[unique], welded[faces], math.cos(math.radians(CREASE_DEG)))
    texture = mesh.palette[mesh.texels]
    return MeshObject(
        mesh.name, vertices.astype(np.float32), np.ascontiguousarray(faces), normals, mesh.uv,
        np.stack([texture, texture]), PLAIN, mirrored,
    )  # fmt: skip


def canonical(vertices: NDArray[np.floating]) -> Floats:
    """[V, 3] float64: centred and scaled."""
    low, high = vertices.min(0).astype(np.float64), vertices.max(0).astype(np.float64)
    centred = vertices - (low + high) / 2
    side, radius = (high - low).max(), math.sqrt(np.einsum("ij,ij->i", centred, centred).max())
    return centred * min(LONGEST_SIDE / max(side, 1e-9), MAX_RADIUS / max(radius, 1e-9))


def _weld(vertices: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Keys, first vertices [W] and number [V] of places: uv seams duplicate vertices that are one to the light."""
    low = vertices.min(0)
    steps = np.rint((vertices - low) * (_WELD_STEPS / max(float(np.ptp(vertices, axis=0).max()), 1e-9)))
    places = steps.astype(np.int64) @ np.array([1, 2**20, 2**40])
    return np.unique(places, return_index=True, return_inverse=True)
