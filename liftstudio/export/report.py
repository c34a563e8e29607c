"""The statistics in report.json."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trimesh

from liftstudio.data.mesh import Mesh
from liftstudio.export.asset import Skin
from liftstudio.export.cleanup import Dropped, face_components
from liftstudio.export.repair import Repair
from liftstudio.export.seams import seam_differences


def mesh_report(mesh: Mesh) -> dict[str, Any]:
    """Counts, watertightness and bounding box (world units, z up) of a mesh before it is cut along texture seams."""
    surface = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    return {
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "watertight": bool(surface.is_watertight),
        "components": face_components(mesh)[0],
        "bounding_box": {"min": mesh.vertices.amin(0).tolist(), "max": mesh.vertices.amax(0).tolist()},
    }


def texture_report(skin: Skin) -> dict[str, Any]:
    """Charts, texels per side, gutter, and the mean and largest jump of the colour at the seams, in levels of 255."""
    jumps = seam_differences(skin.uv_mesh, skin.color)
    return {
        "charts": skin.uv_mesh.charts,
        "texture_size": len(skin.color),
        "gutter": skin.uv_mesh.gutter,
        "seams": {"mean": float(jumps.mean()), "max": float(jumps.max())} if len(jumps) else {"mean": 0.0, "max": 0.0},
    }


def cleanup_report(raw: Mesh, dropped: Dropped, repair: Repair | None) -> dict[str, Any]:
    """Faces before decimation (without the floaters), the dropped floaters, and what was repaired."""
    report: dict[str, Any] = {"faces_before_decimation": len(raw.faces) - dropped.faces, "dropped": asdict(dropped)}
    return report if repair is None else report | {"repair": asdict(repair)}


def file_report(files: Iterable[Path]) -> dict[str, Any]:
    """Size in bytes of every file by name."""
    return {"files": {path.name: path.stat().st_size for path in files}}
