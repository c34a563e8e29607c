"""The surface points of a mesh that are visible to the 16 cameras of the SyncDreamer / HarmonyView mesh evaluation."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.mesh import Mesh
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize

Array = NDArray[np.float64]
Depth = Literal["ray", "screen"]

_VIEWS, _ELEVATION_DEG, _DISTANCE = 16, 30.0, 1.5  # world units
_FOCAL, _SIZE = 280.0, 256  # pixels
_VOXEL = 0.01  # world units


def visible_points(mesh: Mesh, depth: Depth = "ray") -> Array:
    """Points [N, 3] float64 on the visible parts of the mesh, about one per voxel of width 0.01.

    Depth maps of 256x256 pixels from 16 cameras at elevation 30 degrees, azimuths 22.5 i degrees, distance 1.5 from
    the origin and focal length 280 pixels are back-projected, merged and averaged within voxels (HarmonyView,
    `eval_mesh.py`). Surfaces are visible from both sides. As in the protocol, depth is sampled at pixel centres but
    back-projected through the pixels' upper left corners.

    Args:
        mesh: in world units, z up, within about [-0.5, 0.5].
        depth: "ray" is the true depth of the surface at a pixel. "screen" interpolates it linearly in screen space
            between a triangle's corners, as the protocol's code and hence its published figures do: points leave the
            surface inside triangles that are large on the screen, and are the same for small ones.
    """
    return voxel_means(_back_projected(mesh, depth).double().numpy(), _VOXEL)


def voxel_means(points: Array, voxel: float) -> Array:
    """Mean [M, 3] of the points [N, 3] in every occupied voxel of edge length `voxel`.

    The grid starts half a voxel below the minimum coordinates, as in Open3D's `voxel_down_sample`.
    """
    if len(points) == 0:
        return points
    cells = np.floor((points - points.min(axis=0)) / voxel + 0.5).astype(np.int64)
    keys = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sums = [np.bincount(group, weights=points[:, axis]) for axis in range(3)]
    return np.stack(sums, axis=1) / counts[:, None]


def _cameras() -> Cameras:
    azimuth_deg = torch.arange(_VIEWS) * (360.0 / _VIEWS)
    fov_deg = 2 * float(np.degrees(np.arctan(0.5 * _SIZE / _FOCAL)))
    elevation_deg = torch.full((_VIEWS,), _ELEVATION_DEG)
    return orbit_cameras(azimuth_deg, elevation_deg, _DISTANCE, fov_deg, _SIZE, _SIZE)


def _back_projected(mesh: Mesh, depth: Depth) -> Tensor:
    """World points [P, 3], one for every pixel of the views that shows a face."""
    cameras, faces = _cameras(), mesh.faces.cpu()
    clip = cameras.clip(mesh.vertices.detach().cpu().float())
    along_axis = clip[..., 3:]
    if depth == "screen":
        clip = _without_perspective(clip)
    seen = fragments(clip, faces, rasterize(clip, faces, _SIZE, _SIZE))
    origins, directions = replace(cameras, cx=cameras.cx + 0.5, cy=cameras.cy + 0.5).rays()
    per_depth = directions / (directions * cameras.forward[:, None, None]).sum(dim=-1, keepdim=True)
    distance = interpolate(along_axis, faces, seen)
    return origins.reshape(-1, 3)[seen.pixel] + distance * per_depth.reshape(-1, 3)[seen.pixel]


def _without_perspective(clip: Tensor) -> Tensor:
    """The same screen positions with w = 1; z is linear in depth along the optical axis, -1 to 1 for 0 to 100."""
    w = clip[..., 3:]
    return torch.cat([clip[..., :2] / w, w / 50 - 1, torch.ones_like(w)], dim=-1)
