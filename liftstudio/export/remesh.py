"""Remeshing to even quads or triangles by Instant Meshes (Jakob et al. 2015)."""

import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.data.mesh import Mesh
from liftstudio.export.cleanup import face_components, repaired
from liftstudio.export.polygons import face_corners

Kind = Literal["quads", "triangles"]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CORNERS: dict[Kind, int] = {"quads": 4, "triangles": 3}
TRIANGLE: dict[Kind, float] = {"quads": 1 / 2, "triangles": 3**0.5 / 4}  # area per triangle at an edge length of 1
LONGEST = 1 / 8  # longest edges, relative to the longest side of the surface
MOST_FACES = 2_000_000  # triangles
SAMPLES = 20_000  # points at which the distance between two surfaces is measured


def edge_length(mesh: Mesh, kind: Kind, wanted: float, faces: int) -> float:
    """Return the edge length to remesh to, world units: the wanted one; if it is 0, that of about `faces` triangles.

    If the edges would be too long for the surface, or the faces too many, it is the nearest that is possible, with a
    warning: only at the end of a run is the surface known, and it shall not be lost.
    """
    area = float(mesh.face_area_vectors().norm(dim=-1).sum())
    longest = LONGEST * float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    shortest = _edge(area, MOST_FACES, kind)
    length = wanted or _edge(area, faces, kind)
    possible = min(max(length, shortest), longest)
    if possible != length:
        name = "export.edge_length" if wanted else f"export.remesh: edge length for {faces} faces"
        log.warning("%s: %.3g is not possible for a surface of this size; %.3g is taken", name, length, possible)
    return possible


def remeshed(mesh: Mesh, kind: Kind, length: float) -> Mesh:
    """Return the surface with faces of one size, whose edges are about `length` long, in world units.

    The two halves of a quad come after one another, cut along the shorter diagonal; see `polygons`. Pieces that are
    small for the edge length may be lost, which is logged.

    Raises:
        InputError: nothing is left of the surface.
        RuntimeError: the process of Instant Meshes crashed; the message has what it wrote to standard error.
    """
    vertices, faces = _run(mesh, CORNERS[kind], length)
    if not len(faces):
        raise InputError(f"export.remesh: nothing is left of the surface at an edge length of {length:.3g}; lower it")
    if kind == "quads":
        faces = _halved(vertices, faces)
    # Two quads may share two edges, and then their diagonal.
    result = repaired(Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)))
    before, after = face_components(mesh)[0], face_components(result)[0]
    if after < before:
        log.warning(
            "export.remesh: %d of %d separate pieces are too small for an edge length of %.3g and are lost or joined",
            before - after,
            before,
            length,
        )
    return result


def remesh_report(surface: Mesh, original: Mesh, kind: Kind, target: float) -> dict[str, Any]:
    """Return how even the faces are, and how far the surface lies from the original, in world units.

    kind; edge_length {target, mean, std}; quads: their share of all faces; distance {mean, max}: of points of either
    surface to the other.
    """
    faces = surface.faces.numpy()
    rings = [faces.ravel()[corners] for corners in face_corners(faces, kind == "quads")]
    ends = np.concatenate([np.stack([ring, np.roll(ring, -1, axis=1)], axis=-1).reshape(-1, 2) for ring in rings])
    start, end = torch.from_numpy(np.unique(np.sort(ends, axis=1), axis=0)).unbind(1)
    lengths = (surface.vertices[start] - surface.vertices[end]).norm(dim=1)
    distances = torch.cat([_distances(surface, original), _distances(original, surface)])
    return {
        "kind": kind,
        "edge_length": {"target": target, "mean": float(lengths.mean()), "std": float(lengths.std())},
        "quads": sum(len(ring) for ring in rings if ring.shape[1] == 4) / sum(map(len, rings)),
        "distance": {"mean": float(distances.mean()), "max": float(distances.max())},
    }


def _edge(area: float, faces: int, kind: Kind) -> float:
    return math.sqrt(area / (faces * TRIANGLE[kind]))


def _distances(source: Mesh, target: Mesh) -> Tensor:
    """Return the distances [SAMPLES] of points of a surface to another one."""
    from liftstudio.ops.projection import project  # compiles a kernel when it is first used

    points = source.sample(SAMPLES, torch.Generator().manual_seed(0))
    closest, weights = project(target.vertices, target.faces, points, torch.zeros_like(points), 0.0)
    return (points - (weights[:, :, None] * target.corners()[closest]).sum(1)).norm(dim=1)


def _halved(vertices: Floats, quads: Ints) -> Ints:
    """Return two triangles [2 Q, 3] for every quad [Q, 4], cut along the shorter diagonal from the first corner."""
    a, b, c, d = vertices[quads].transpose(1, 0, 2)
    is_turned = np.linalg.norm(b - d, axis=1) < np.linalg.norm(a - c, axis=1)
    quads = np.where(is_turned[:, None], np.roll(quads, -1, axis=1), quads)
    return quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def _run(mesh: Mesh, corners: int, length: float) -> tuple[Floats, Ints]:
    """Run the script `instant_meshes` (see its `main`); by its path, since as a module it would import torch."""
    script = [sys.executable, "-P", str(Path(__file__).with_name("instant_meshes.py"))]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "input.npz"), vertices=mesh.vertices.numpy(), faces=mesh.faces.numpy())
        # In a new session, so that Ctrl-C reaches only this process, which ends the other one.
        process = subprocess.run(
            [*script, folder, str(corners), str(length)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if process.returncode != 0:
            message = process.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"Instant Meshes exited with status {process.returncode}\n{message}")
        with np.load(Path(folder, "output.npz")) as output:
            return output["vertices"], output["faces"]
