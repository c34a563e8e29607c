"""Where the object is in a capture's world, from cameras and silhouettes alone."""

import numpy as np
import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras

HALF_SIDE = 0.9  # world units; half the longest side of the object's box after `object_similarity`


def upright_rotation(c2w: Tensor) -> Tensor:
    """[4, 4] float64 rotation that turns the mean up direction of cameras [V, 4, 4] to +z by the shortest way.

    Raises:
        InputError: the cameras' up directions cancel out.
    """
    mean = c2w[:, :3, 1].double().mean(0)
    if mean.norm() < 1e-3:
        raise InputError("up: the cameras have no common up direction; turn the data so that z is up")
    up, z = mean / mean.norm(), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if up[2] < -1 + 1e-9:  # upside down: half a turn around x
        return torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    axis = torch.linalg.cross(up, z)
    skew = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=torch.float64)).T
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:3, :3] += skew + skew @ skew / (1 + up[2])  # Rodrigues
    return rotation


def object_similarity(cameras: Cameras, masks: Tensor) -> Tensor:
    """[4, 4] float64 scale and shift that bring the object to the origin, the longest side of its box to 2 HALF_SIDE.

    Args:
        cameras: V cameras. masks: [V, H, W, 1] in [0, 1].

    Raises:
        InputError: the silhouettes contradict each other, or leave the object unbounded.
    """
    lower, upper = object_box(cameras, masks)
    scale = 2 * HALF_SIDE / float((upper - lower).max())
    similarity = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
    similarity[:3, 3] = -scale * (lower + upper) / 2
    return similarity


def object_box(cameras: Cameras, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper corner [3] (float64) of an axis-aligned box that holds the object, by six linear programs.

    It is the tightest box around all points that every camera sees within the convex hull of its silhouette. A view
    whose silhouette is cut by the image's border bounds nothing: the object may go on anywhere beyond.

    Raises:
        InputError: as `object_similarity`.
    """
    from scipy.optimize import linprog  # here, since it takes a while to import

    normals, offsets = _half_spaces(cameras, masks)
    extremes = []
    for direction in np.concatenate([np.eye(3), -np.eye(3)]):
        result = linprog(direction, A_ub=-normals, b_ub=-offsets, bounds=(None, None))
        if result.status == 2:
            raise InputError("normalize: no point is within all silhouettes; do masks and poses belong together?")
        if result.status != 0:
            raise InputError("normalize: the silhouettes do not bound the object; set views.normalize=as-given")
        extremes.append(result.x @ direction)
    return torch.tensor(extremes[:3]), -torch.tensor(extremes[3:])


def _half_spaces(cameras: Cameras, masks: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Inward unit normals [K, 3] and offsets [K] of the planes n.p >= d that bound the object."""
    normals, offsets = [np.zeros((0, 3))], [np.zeros(0)]
    for c2w, fx, fy, cx, cy, mask in zip(
        cameras.c2w.double().numpy(), *_intrinsics(cameras), (masks[..., 0] > 0.5).numpy(), strict=True
    ):
        a, b, c = _hull_lines(mask)
        local = np.stack([-a * fx, b * fy, a * cx + b * cy + c], axis=-1)
        world = local / np.linalg.norm(local, axis=-1, keepdims=True) @ c2w[:3, :3].T
        normals.append(world)
        offsets.append(world @ c2w[:3, 3])
    return np.concatenate(normals), np.concatenate(offsets)


def _intrinsics(cameras: Cameras) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)]


def _hull_lines(mask: np.ndarray) -> np.ndarray:
    """[3, K] lines a x + b y + c <= 0 (pixels) around the convex hull of a silhouette; none if the border cuts it."""
    from scipy.spatial import ConvexHull

    framed = mask.copy()
    framed[1:-1, 1:-1] = False
    if framed.any() or not mask.any():
        return np.zeros((3, 0))
    rows = np.flatnonzero(mask.any(1))
    left, right = mask[rows].argmax(1), mask.shape[1] - mask[rows, ::-1].argmax(1)
    corners = [np.stack([x, y], axis=-1) for x in (left, right) for y in (rows, rows + 1)]
    return ConvexHull(np.concatenate(corners)).equations.T
