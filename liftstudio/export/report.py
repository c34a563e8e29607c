"""The statistics in report.json."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trimesh

from liftstudio.data.mesh import Mesh
from liftstudio.export.cleanup import Dropped, face_components
from liftstudio.export.unwrap import UvMesh


def mesh_report(mesh: Mesh, uv_mesh: UvMesh | None, texture_size: int) -> dict[str, Any]:
    """Counts, watertightness and bounding box (world units, z up) of a mesh before it is cut along texture seams.

    If it is cut into charts, also their number, the gutter and the texels per side of the texture.
    """
    surface = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    report: dict[str, Any] = {
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "watertight": bool(surface.is_watertight),
        "components": face_components(mesh)[0],
        "bounding_box": {"min": mesh.vertices.amin(0).tolist(), "max": mesh.vertices.amax(0).tolist()},
    }
    if uv_mesh is not None:
        report |= {"charts": uv_mesh.charts, "texture_size": texture_size, "gutter": uv_mesh.gutter}
    return report


def cleanup_report(raw: Mesh, dropped: Dropped) -> dict[str, Any]:
    """Faces before decimation (without the floaters), and the dropped floaters."""
    return {"faces_before_decimation": len(raw.faces) - dropped.faces, "dropped": asdict(dropped)}


def file_report(files: Iterable[Path]) -> dict[str, Any]:
    """Size in bytes of every file by name."""
    return {"files": {path.name: path.stat().st_size for path in files}}
