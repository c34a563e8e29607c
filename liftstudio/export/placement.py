"""Units, origin and axes of mesh files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.export.options import ExportConfig, Format

IN_MILLIMETRES = ("stl", "3mf")
FIXED_UP: dict[Format, Literal["y", "z"]] = {"glb": "y", "3mf": "z"}  # by the formats' specifications
USUAL_UP: dict[Format, Literal["y", "z"]] = {"obj": "z", "ply": "z", "stl": "z", "usdz": "y"}


@dataclass(frozen=True)
class Placement:
    """From world coordinates to those of a file: (point - origin) * scale, then turned if y is up.

    origin: world point at the origin of the file.
    scale:  units of the file per world unit.
    up:     up axis of the file; with y the world's (x, y, z) becomes (x, z, -y), so +x stays +x.
    """

    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    up: Literal["y", "z"] = "z"

    def points(self, points: Tensor) -> NDArray[np.float32]:
        """Return world points [N, 3] in the coordinates of the file."""
        return self.directions((points - points.new_tensor(self.origin)) * self.scale)

    def directions(self, vectors: Tensor) -> NDArray[np.float32]:
        """Return world directions [N, 3] along the axes of the file."""
        x, y, z = vectors.numpy().T
        return np.stack([x, z, -y] if self.up == "y" else [x, y, z], axis=1)

    def to_world(self, mesh: Mesh) -> Mesh:
        """Return a mesh of the file in world coordinates."""
        x, y, z = mesh.vertices.unbind(1)
        vertices = torch.stack([x, -z, y] if self.up == "y" else [x, y, z], dim=1)
        return Mesh(vertices / self.scale + vertices.new_tensor(self.origin), mesh.faces)


def placements(mesh: Mesh, config: ExportConfig) -> dict[Format, Placement]:
    """Return the placement for every format of `config`; mesh: the finest level, whose bounding box decides."""
    low, high = mesh.vertices.amin(0).double(), mesh.vertices.amax(0).double()
    origin = (low + high) / 2 if config.origin != "world" else torch.zeros(3)
    if config.origin == "bottom":
        origin[2] = low[2]
    x, y, z = origin.tolist()
    millimetres = config.longest_side_mm / float((high - low).max())
    return {
        name: Placement((x, y, z), _scale(name, millimetres), FIXED_UP.get(name) or config.up or USUAL_UP[name])
        for name in config.formats
    }


def placement_report(placed: dict[Format, Placement]) -> dict[str, Any]:
    """Return the up axis of every format, and the world point at the origin and the scale unless they are trivial."""
    report: dict[str, Any] = {"up_axis": {name: placement.up for name, placement in placed.items()}}
    if any(placement.origin != (0.0, 0.0, 0.0) for placement in placed.values()):
        report["origin"] = list(next(iter(placed.values())).origin)
    if any(placement.scale != 1.0 for placement in placed.values()):
        report["unit"] = {name: "mm" if name in IN_MILLIMETRES else "m" for name in placed}
        report["units_per_world_unit"] = {name: placement.scale for name, placement in placed.items()}
    return report


def reported_placement(report: dict[str, Any], name: str) -> Placement:
    """Return the placement of a format from the report of an export."""
    x, y, z = report.get("origin", (0.0, 0.0, 0.0))
    return Placement((x, y, z), report.get("units_per_world_unit", {}).get(name, 1.0), report["up_axis"][name])


def read_in_world(path: Path, placement: Placement) -> Mesh:
    """Return the mesh of a file that was written with this placement, in world coordinates.

    Raises:
        InputError: see `read_mesh`.
    """
    is_turned = path.suffix == ".glb"  # by `read_mesh`
    return (replace(placement, up="z") if is_turned else placement).to_world(read_mesh(path))


def _scale(name: Format, millimetres: float) -> float:
    """Return units of the file per world unit, which is so many millimetres; 0: not known, world units are kept."""
    return (millimetres if name in IN_MILLIMETRES else millimetres / 1000) or 1.0
