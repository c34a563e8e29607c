"""Moves textured meshes to canonical pose."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liftstudio.synthetic.assembly import CREASE_DEG, LONGEST_SIDE, Floats, corner_normals
from liftstudio.synthetic.textures import Pattern
from liftstudio.training.meshes.packs import StoredMesh

MAX_RADIUS = 1.3  # world units; elongated objects shrink little, cubes by a sixth
_WELD_STEPS = 2**19  # per longest side: vertices closer than a step are welded to compute normals


@dataclass(frozen=True)
class Overlay:
    """Where a mesh shows its second texture: a pattern in space, like those of procedural objects.

    pattern, count, shift: as in `textures.Texture`. frame: [3, 4] float64, maps world points to (u, v, w).
    """

    pattern: Pattern
    count: float
    shift: float
    frame: Floats


@dataclass(frozen=True)
class MeshObject:
    """A textured mesh in canonical pose: z up, front on +x, its box centred at the origin, its longest side 1.8
    (less if its bounding sphere would exceed MAX_RADIUS). Open or closed, of either winding.

    vertices: [V, 3] float32, world units.   faces: [F, 3] int32.
    normals:  [F, 3, 3] float32, unit, per face corner: smooth except at creases, oriented by the winding of the face.
    uv:       [V, 2] float32 in [0, 1], v runs downwards from the first row of the texture.
    textures: [2, h, w, 3] uint8 sRGB: its own, and the one that `overlay` selects; not interpolated if h is 1.
    mirrored: whether y is negated relative to the stored mesh.
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
        """Half the sides of its box [3], world units, above 0."""
        return np.maximum(self.vertices.max(0).astype(np.float64), 1e-6)


PLAIN = Overlay(Pattern.SOLID, 1.0, 0.0, np.eye(3, 4))


def pose(mesh: StoredMesh, stretch: tuple[float, float, float] = (1.0, 1.0, 1.0), mirrored: bool = False) -> MeshObject:
    """Return a mesh in canonical pose, after stretching it along the axes and mirroring it in y."""
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
    """Return vertices [V, 3] float64, centred and scaled to canonical pose."""
    low, high = vertices.min(0).astype(np.float64), vertices.max(0).astype(np.float64)
    centred = vertices - (low + high) / 2
    side, radius = (high - low).max(), math.sqrt(np.einsum("ij,ij->i", centred, centred).max())
    return centred * min(LONGEST_SIDE / max(side, 1e-9), MAX_RADIUS / max(radius, 1e-9))


def _weld(vertices: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return unique positions: keys [W], first vertex [W], index per vertex [V]. Welds duplicates at uv seams."""
    low = vertices.min(0)
    steps = np.rint((vertices - low) * (_WELD_STEPS / max(float(np.ptp(vertices, axis=0).max()), 1e-9)))
    places = steps.astype(np.int64) @ np.array([1, 2**20, 2**40])
    return np.unique(places, return_index=True, return_inverse=True)
