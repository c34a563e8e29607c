"""Reading of triangle meshes from untrusted files."""

from pathlib import Path

import numpy as np
import torch
import trimesh

from liftstudio.core.arguments import checked
from liftstudio.core.errors import InputError
from liftstudio.core.files import file_kind
from liftstudio.data.mesh import Mesh

SUFFIXES = (".obj", ".ply", ".glb", ".off", ".stl")
MAX_BYTES = 200_000_000
MAX_FACES = 5_000_000


@checked
def read_mesh(path: str | Path, dtype: torch.dtype = torch.float32) -> Mesh:
    """Return the geometry of an OBJ, PLY, GLB, OFF or STL file; polygons become triangles, a scene becomes one mesh.

    Vertices with positions that are bit-equal in `dtype` are merged, so that surfaces stay connected in formats that
    split vertices at texture seams (GLB, OBJ) or do not share them at all (STL). glTF is y-up by its specification, so
    a GLB is rotated to z-up (its +y becomes +z, its -z becomes +y); the other formats are read as z-up. Only this one
    file is read: no materials, no textures.

    Returns a mesh on the CPU with at least one face. dtype: of its vertices; float64 for a mesh in the world of a
    capture, which may be far from its origin.

    Raises:
        InputError: missing, empty or corrupt file, unknown suffix, no triangles, vertices that are not finite, or
            more than 200 MB or 5 million faces.
    """
    path = Path(path)
    _check_file(path)
    try:
        with path.open("rb") as file:
            scene = trimesh.load_scene(
                file, file_type=path.suffix[1:].lower(), process=False, maintain_order=True, skip_materials=True
            )
        # A scene may also hold points and lines; they have no faces.
        loaded = scene.to_mesh()
        vertices, faces = np.asarray(loaded.vertices, np.float64), np.asarray(loaded.faces, np.int64)
    except Exception as error:  # trimesh's parsers raise errors of any type
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{path}: not a readable {path.suffix[1:].lower()} mesh ({reason})") from error
    _check_geometry(path, vertices, faces)
    if path.suffix.lower() == ".glb":
        vertices = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1)
    return _merged(torch.from_numpy(vertices).to(dtype).numpy(), faces)


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a mesh file ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: the file is empty")
    if kind := file_kind(path):
        raise InputError(f"{path}: expected a mesh, found {kind}")
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size / 1e6:.0f} MB is above the limit of {MAX_BYTES / 1e6:.0f} MB")


def _check_geometry(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    if len(faces) == 0:
        raise InputError(f"{path}: no triangles in the file")
    if len(faces) > MAX_FACES:
        raise InputError(f"{path}: {len(faces)} faces are above the limit of {MAX_FACES}")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: a face refers to a vertex that does not exist")
    with np.errstate(over="ignore"):
        if not np.isfinite(vertices.astype(np.float32)).all():
            raise InputError(f"{path}: a vertex is not finite")


def _merged(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """Return the mesh with bit-equal vertices merged, in order of first appearance."""
    rows = np.ascontiguousarray(vertices).view([("", vertices.dtype)] * 3)[:, 0]
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Mesh(torch.from_numpy(vertices[first[order]]), torch.from_numpy(rank[group][faces]))
