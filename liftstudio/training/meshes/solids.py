"""Interiors of meshes, open or closed and of either winding: the cells that are hidden from all directions."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from liftstudio.core.cache import cache_folder, content_key
from liftstudio.core.files import atomic_path
from liftstudio.core.logs import log
from liftstudio.ops.rasterization import rasterize
from liftstudio.synthetic.assembly import Floats
from liftstudio.synthetic.rendering import face_planes
from liftstudio.training.meshes.packs import StoredMesh
from liftstudio.training.meshes.posing import MeshObject, canonical
from liftstudio.training.solids import Bits, Solid, pack, unit_frame

GRID = 72  # cells along each side of the object's bounding box
PIXELS = 128  # width and height of a depth map
VERSION = 1  # of the carving algorithm; part of the cache key
_AXES = np.array([
    [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1],
    [1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1],
], np.float64)  # fmt: skip
_SLACK = 0.5  # depth tolerance in pixels of a depth map, since a pixel stores only the depth at its centre


class Solids:
    """Interiors of stored meshes, each computed on first use and cached in memory and on disk."""

    def __init__(self) -> None:
        self._kept: dict[str, Bits] = {}  # keyed by geometry, since names are unique only within a pack

    def of(self, mesh: StoredMesh, obj: MeshObject, front_deg: float) -> Solid:
        """Return the interior of `obj`, which was posed from `mesh`, with its front at that azimuth of the rig."""
        half = obj.half * [1.0, -1.0 if obj.mirrored else 1.0, 1.0]
        return Solid(lambda: self._cells(mesh), unit_frame(front_deg, half))

    def _cells(self, mesh: StoredMesh) -> Bits:
        geometry = _digest(mesh)
        if geometry not in self._kept:
            self._kept[geometry] = kept_cells(mesh)
        return self._kept[geometry]


def kept_cells(mesh: StoredMesh) -> Bits:
    """Return the result of `carve`, from the cache if it has a valid entry."""
    key = content_key({"version": VERSION, "grid": GRID, "geometry": _digest(mesh)})
    folder = cache_folder()
    if folder is None:
        return carve(mesh.vertices, mesh.faces)
    path = folder / "solids" / f"{key}.npz"
    if (found := _read(path)) is not None:
        return found
    bits = carve(mesh.vertices, mesh.faces)
    try:
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, bits=bits)
    except OSError as error:
        log.warning("%s: not cached for later runs (%s)", error.filename or path, error.strerror or error)
    return bits


def _digest(mesh: StoredMesh) -> str:
    return hashlib.sha256(mesh.vertices.tobytes() + mesh.faces.tobytes()).hexdigest()


def _read(path: Path) -> Bits | None:
    """Return the cached cells; None if there is no valid file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            bits = file["bits"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return bits if bits.shape == (GRID, GRID, GRID // 8) and bits.dtype == np.uint8 else None


def carve(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> Bits:
    """Return the inside cells of the mesh's box: those that none of 26 depth maps from all around sees.

    vertices: [V, 3]. faces: [F, 3]. A cell is tested at its centre. A cell on the surface is also inside if none of its
    neighbours is, which keeps parts thinner than a cell; adding all surface cells would thicken everything by half a
    cell. One map that sees a cell suffices to clear it: the bottom of a deep cup is visible only from straight above.
    """
    placed = canonical(vertices)
    half = np.maximum(placed.max(0), 1e-6)
    depths, bases, radius = depth_maps(placed.astype(np.float32), faces.astype(np.int32))
    inside = np.zeros((GRID, GRID, GRID), np.bool_)
    _behind(depths + _SLACK * 2 * radius / PIXELS, bases, radius, half, inside)
    surface = np.zeros_like(inside)
    _touch(placed, faces.astype(np.int32), half, surface)
    _add_thin(surface, inside.copy(), inside)
    return pack(inside)


def depth_maps(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> tuple[NDArray[np.float32], Floats, float]:
    """Render orthographic depth maps along 26 directions.

    Returns (depths [26, P, P] float32: coordinate along the direction towards the camera, -inf on the background;
    bases [26, 3, 3]: right, up and that direction; radius: half the width of the region that a map covers).
    """
    forward = np.concatenate([_AXES, -_AXES])
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    helper = np.where(np.abs(forward[:, 2:]) > 0.9, [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    right = np.cross(helper, forward)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    bases = np.stack([right, np.cross(forward, right), forward], axis=1)
    radius = 1.02 * float(np.linalg.norm(vertices, axis=1).max())
    local = vertices @ (bases / radius).transpose(0, 2, 1)
    clip = np.concatenate([local[..., :2], -local[..., 2:], np.ones_like(local[..., :1])], axis=2).astype(np.float32)
    visible = rasterize(torch.from_numpy(clip), torch.from_numpy(faces).long(), PIXELS, PIXELS).numpy()
    planes = np.empty((len(faces), 4))
    face_planes(vertices, faces, np.empty((len(faces), 3, 0), np.float32), planes)
    depths = np.empty(visible.shape, np.float32)
    _measure(visible, bases, radius, planes, vertices, faces, depths)
    return depths, bases, radius


@njit(nogil=True, cache=True)
def _measure(
    visible: NDArray[np.int32], bases: Floats, radius: float, planes: Floats, vertices: NDArray[np.float32],
    faces: NDArray[np.int32], depths: NDArray[np.float32],
) -> None:  # fmt: skip
    batch, size, _ = visible.shape
    for b in range(batch):
        right, up, forward = bases[b, 0], bases[b, 1], bases[b, 2]
        for i in range(size):
            for j in range(size):
                f = visible[b, i, j]
                if f < 0:
                    depths[b, i, j] = -np.inf
                    continue
                x, y = radius * (2.0 * (j + 0.5) / size - 1.0), radius * (1.0 - 2.0 * (i + 0.5) / size)
                height, along = planes[f, 3], 0.0
                low, high = np.inf, -np.inf
                for axis in range(3):
                    height -= planes[f, axis] * (x * right[axis] + y * up[axis])
                    along += planes[f, axis] * forward[axis]
                for corner in range(3):
                    p = vertices[faces[f, corner]]
                    depth = p[0] * forward[0] + p[1] * forward[1] + p[2] * forward[2]
                    low, high = min(low, depth), max(high, depth)
                # The plane of a face seen edge-on is ill-conditioned, so clamp to the depth range of its corners.
                depths[b, i, j] = min(max(height / along, low), high) if along != 0.0 else high


@njit(nogil=True, cache=True)
def _behind(depths: NDArray[np.float32], bases: Floats, radius: float, half: Floats, inside: NDArray[np.bool_]) -> None:
    """Mark the cells whose centres no map sees."""
    batch, size, _ = depths.shape
    grid = inside.shape[0]
    scale = 0.5 * size / radius
    for i in range(grid):
        x = half[0] * (2.0 * (i + 0.5) / grid - 1.0)
        for j in range(grid):
            y = half[1] * (2.0 * (j + 0.5) / grid - 1.0)
            for k in range(grid):
                z = half[2] * (2.0 * (k + 0.5) / grid - 1.0)
                inside[i, j, k] = True
                for b in range(batch):
                    column = int(0.5 * size + scale * (bases[b, 0, 0] * x + bases[b, 0, 1] * y + bases[b, 0, 2] * z))
                    row = int(0.5 * size - scale * (bases[b, 1, 0] * x + bases[b, 1, 1] * y + bases[b, 1, 2] * z))
                    depth = bases[b, 2, 0] * x + bases[b, 2, 1] * y + bases[b, 2, 2] * z
                    if depth > depths[b, row, column]:
                        inside[i, j, k] = False
                        break


@njit(nogil=True, cache=True)
def _touch(vertices: Floats, faces: NDArray[np.int32], half: Floats, surface: NDArray[np.bool_]) -> None:
    """Mark the cells on the surface, by points on the faces at most half a cell apart."""
    grid = surface.shape[0]
    corners = np.empty((3, 3))
    for f in range(len(faces)):
        for corner in range(3):
            for axis in range(3):
                corners[corner, axis] = (vertices[faces[f, corner], axis] / half[axis] + 1.0) * 0.5 * grid
        longest = 0.0
        for axis in range(3):
            for corner in range(3):
                longest = max(longest, abs(corners[corner, axis] - corners[corner - 1, axis]))
        steps = int(2.0 * longest) + 1
        for a in range(steps + 1):
            for b in range(steps + 1 - a):
                u, v = a / steps, b / steps
                x = corners[0, 0] + u * (corners[1, 0] - corners[0, 0]) + v * (corners[2, 0] - corners[0, 0])
                y = corners[0, 1] + u * (corners[1, 1] - corners[0, 1]) + v * (corners[2, 1] - corners[0, 1])
                z = corners[0, 2] + u * (corners[1, 2] - corners[0, 2]) + v * (corners[2, 2] - corners[0, 2])
                i, j, k = (min(max(int(x), 0), grid - 1), min(max(int(y), 0), grid - 1), min(max(int(z), 0), grid - 1))
                surface[i, j, k] = True


@njit(nogil=True, cache=True)
def _add_thin(surface: NDArray[np.bool_], solid: NDArray[np.bool_], inside: NDArray[np.bool_]) -> None:
    """Add the surface cells that have no solid cell among their neighbours."""
    grid = surface.shape[0]
    for i in range(grid):
        for j in range(grid):
            for k in range(grid):
                if not surface[i, j, k]:
                    continue
                near = solid[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, max(k - 1, 0) : k + 2]
                if not near.any():
                    inside[i, j, k] = True
