"""The surface points of a mesh that the 16 cameras of the SyncDreamer / HarmonyView mesh evaluation see."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.mesh import Mesh
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize

Array = NDArray[np.float64]

_VIEWS, _ELEVATION_DEG, _DISTANCE = 16, 30.0, 1.5  # world units
_FOCAL, _SIZE = 280.0, 256  # pixels
_VOXEL = 0.01  # world units


def visible_points(mesh: Mesh) -> Array:
    """[N, 3] float64 points on the parts of the mesh that face a camera unoccluded, about one per 0.01-wide voxel.

    Depth maps of 256x256 pixels from 16 cameras at elevation 30 degrees, azimuths 22.5 i degrees, distance 1.5 from
    the origin and focal length 280, back-projected, merged and averaged within voxels (HarmonyView, `eval_mesh.py`).
    Surfaces count from both sides. The protocol samples depth at pixel centres but back-projects through their upper
    left corners; so do we. It also interpolates depth linearly on screen; we intersect rays, as it means to: the
    two differ only for triangles that are large on the screen.

    Args:
        mesh: in world units, upright (z up), within about [-0.5, 0.5].
    """
    return voxel_means(_back_projected(mesh).double().numpy(), _VOXEL)


def voxel_means(points: Array, voxel: float) -> Array:
    """[M, 3] the mean of the points [N, 3] in every occupied voxel of edge length `voxel`.

    The grid starts half a voxel before the least coordinates, as in Open3D's `voxel_down_sample`.
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


def _back_projected(mesh: Mesh) -> Tensor:
    """[P, 3] world points, one for every pixel of the views that shows a face."""
    cameras, faces = _cameras(), mesh.faces.cpu()
    clip = cameras.clip(mesh.vertices.detach().cpu().float())
    seen = fragments(clip, faces, rasterize(clip, faces, _SIZE, _SIZE))
    depth = interpolate(clip[..., 3:], faces, seen)
    origins, directions = replace(cameras, cx=cameras.cx + 0.5, cy=cameras.cy + 0.5).rays()
    per_depth = directions / (directions * cameras.forward[:, None, None]).sum(dim=-1, keepdim=True)
    return origins.reshape(-1, 3)[seen.pixel] + depth * per_depth.reshape(-1, 3)[seen.pixel]
