"""Texture coordinates by xatlas."""

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

    mesh:   vertices [V, 3] float32 and faces [F, 3] in the order of the uncut mesh.
    source: [V] int64, the vertex of the uncut mesh.
    uv:     [V, 2] float32 in [0, 1]; u to the right, v up: (0, 0) is the lower left corner of the texture image.
    charts: how many charts there are.
    gutter: texels free around every chart.
    """

    mesh: Mesh
    source: Tensor
    uv: Tensor
    charts: int
    gutter: int


def unwrap_mesh(
    mesh: Mesh, texture_size: int, gutter: int, progress: Callable[[float], None] = lambda fraction: None
) -> UvMesh:
    """Charts of low distortion, packed into a square with at least 2 * `gutter` texels between any two.

    mesh: float32 on the CPU. texture_size, gutter: texels; the gutter is also kept free along the texture's border.
    A surface of so many charts that the gutters would take most of the texture gets narrower ones.
    progress is told the fraction done in [0, 1].

    Raises:
        InputError: when there are too many charts for the texture.
        RuntimeError: when the process of xatlas crashes or is killed; with what it wrote to standard error.
    """
    texels_per_unit = texture_size / mesh.face_area_vectors().norm(dim=-1).sum().sqrt()
    texels = mesh.vertices * texels_per_unit
    arrays = _run_atlas(texels.numpy(), mesh.faces.numpy(), texture_size, gutter, progress)
    if arrays is None:
        raise InputError(
            f"export: the surface is too ragged for a texture of {texture_size} x {texture_size} texels; "
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
    """What the script `atlas` makes of a mesh whose vertices are measured in texels (see its `main`), None if the
    charts do not fit. It is run by its path, for a quick start: as a module of the package it would import torch.
    """
    script = [sys.executable, "-P", str(Path(__file__).with_name("atlas.py")), str(texture_size), str(gutter)]
    with tempfile.TemporaryFile() as mesh, tempfile.TemporaryFile() as errors:
        np.savez(mesh, vertices=texels, faces=faces)
        mesh.seek(0)
        # A session of its own, so that Ctrl-C reaches us alone, who may be set to finish the work first.
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
            raise RuntimeError(f"xatlas ended with status {process.returncode} in the middle of an unwrap\n{message}")
    return dict(np.load(io.BytesIO(archive))) if archive else None
