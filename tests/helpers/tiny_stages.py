"""A stage of a few steps for each geometry that comes with liftstudio."""

from pathlib import Path
from typing import Any

import trimesh

_GRID = {"levels": 4, "log2_table_size": 10, "base_resolution": 4, "finest_resolution": 16, "hidden": 16}
_MARCHING = {"samples_across": 32, "grid_resolution": 16, "update_every": 4, "warm_up": 8}
_NEUS = {"type": "neus", "grid": _GRID, "surface_resolution": 24}
MESH = "ball.ply"
_GEOMETRIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "instant-ngp": (
        {"type": "instant-ngp", "grid": _GRID, "blob_density": 8.0, "levels_used": 2.5, "surface_resolution": 24},
        {"type": "volume", **_MARCHING},
    ),
    "neus-hash-grid": ({**_NEUS, "distance_grid": _GRID, "levels_used": [0, 1, 2.5, 8]}, {"type": "neus", **_MARCHING}),
    "neus-network": (
        {**_NEUS, "distance": "network", "network": {"layers": 3, "hidden": 48, "skip": 2, "frequencies": 2}},
        {"type": "neus", **_MARCHING},
    ),
    "dmtet": ({"type": "dmtet", "grid": _GRID, "resolution": 16}, {"type": "surface"}),
    "mesh": ({"type": "mesh", "path": MESH, "movable": True, "grid": _GRID}, {"type": "surface"}),
}
GEOMETRIES = list(_GEOMETRIES)


def stage(geometry: str, steps: int) -> dict[str, Any]:
    """Return a stage's options; `mesh` needs the file that `write_ball` makes."""
    shape, renderer = _GEOMETRIES[geometry]
    guidance = {"views": {"type": "reconstruction", "views_per_step": 2}}
    optimizer = {"groups": {"geometry.distance": {"lr": 0.001}}} if geometry == "neus-network" else {}
    return {"steps": steps, "geometry": shape, "renderer": renderer, "guidance": guidance, "optimizer": optimizer}


def write_ball(folder: Path) -> None:
    """Write the file of the geometry `mesh`."""
    trimesh.creation.icosphere(2, 0.8).export(folder / MESH)
