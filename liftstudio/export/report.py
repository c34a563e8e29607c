"""The statistics in report.json."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trimesh

from liftstudio.data.mesh import Mesh
from liftstudio.export.cleanup import Dropped, face_components
from liftstudio.export.writers import UP_AXES


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


def cleanup_report(raw: Mesh, dropped: Dropped) -> dict[str, Any]:
    """Faces before decimation (without the floaters), and the dropped floaters."""
    return {"faces_before_decimation": len(raw.faces) - dropped.faces, "dropped": asdict(dropped)}


def file_report(files: Iterable[Path], formats: Iterable[str]) -> dict[str, Any]:
    """Size in bytes of every file by name, and the up axis of every format."""
    return {
        "files": {path.name: path.stat().st_size for path in files},
        "up_axis": {name: UP_AXES[name] for name in formats},
    }
