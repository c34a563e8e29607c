"""Texture coordinates from xatlas."""

import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.mesh import Mesh


@dataclass(frozen=True)
class UvMesh:
    """A mesh cut along the seams of its charts.

    mesh:   vertices [V, 3] float32; faces [F, 3] in the order of the uncut mesh.
    source: [V] int64, index of each vertex in the uncut mesh.
    uv:     [V, 2] float32 in [0, 1]; u to the right, v up: (0, 0) is the lower left corner of the texture image.
    charts: number of charts.
    gutter: free texels around every chart.
    """

    mesh: Mesh
    source: Tensor
    uv: Tensor
    charts: int
    gutter: int


def unwrap_mesh(
    mesh: Mesh, texture_size: int, gutter: int, progress: Callable[[float], None] = lambda fraction: None
) -> UvMesh:
    """Cut the mesh into charts of low distortion, packed into a square with at least 2 * `gutter` texels between them.

    mesh: float32 on the CPU. texture_size, gutter: texels; the gutter is also kept free along the texture's border.
    It is reduced if there are so many charts that gutters would take most of the texture.
    progress: called with the completed fraction in [0, 1].

    Raises:
        InputError: there are too many charts for the texture.
        RuntimeError: the xatlas process crashed or was killed; the message has what it wrote to standard error.
    """
    texels_per_unit = texture_size / mesh.face_area_vectors().norm(dim=-1).sum().sqrt()
    texels = mesh.vertices * texels_per_unit
    arrays = _run_atlas(texels.numpy(), mesh.faces.numpy(), texture_size, gutter, progress)
    if arrays is None:
        raise InputError(
            f"export: the surface has too many charts for a texture of {texture_size} x {texture_size} texels; "
            "raise export.texture_size or lower export.target_faces"
        )
    gutter = int(arrays["gutter"])
    source, faces = torch.from_numpy(arrays["source"]), torch.from_numpy(arrays["faces"])
    uv = torch.from_numpy((arrays["uv"] + gutter) / texture_size).float()
    return UvMesh(Mesh(mesh.vertices[source], faces), source, uv, int(arrays["charts"]), gutter)


def _run_atlas(
    texels: NDArray[np.float32],
    faces: NDArray[np.int64],
    texture_size: int,
    gutter: int,
    progress: Callable[[float], None],
) -> dict[str, NDArray[Any]] | None:
    """Run the script `atlas` (see its `main`) on a mesh with vertices in texels; None if the charts do not fit.

    The script is run by its path to start fast: as a module of the package it would import torch.
    """
    script = [sys.executable, "-P", str(Path(__file__).with_name("atlas.py")), str(texture_size), str(gutter)]
    with tempfile.TemporaryFile() as mesh, tempfile.TemporaryFile() as errors:
        np.savez(mesh, vertices=texels, faces=faces)
        mesh.seek(0)
        # In a new session, so that Ctrl-C reaches only this process, which may have to finish its work first.
        with subprocess.Popen(
            script, stdin=mesh, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as process:
            assert process.stdout is not None
            try:
                while line := process.stdout.readline().strip():
                    progress(float(line))
                archive = process.stdout.read()
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            errors.seek(0)
            message = errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"xatlas exited with status {process.returncode} while unwrapping\n{message}")
    return dict(np.load(io.BytesIO(archive))) if archive else None
