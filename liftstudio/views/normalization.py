"""Locates the object in a capture's world, from cameras and silhouettes alone."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras

MOST_ALIKE = 0.999  # cosine between viewing directions: 2.6 degrees
HALF_SIDE = 0.9  # half the longest side of the object's bounding box after `object_similarity`, world units


def upright_rotation(c2w: Tensor) -> Tensor:
    """Return the smallest rotation, [4, 4] float64, that turns the mean up direction of cameras [V, 4, 4] to +z.

    Raises:
        InputError: the cameras' up directions cancel out.
    """
    mean = c2w[:, :3, 1].double().mean(0)
    if mean.norm() < 1e-3:
        raise InputError("up: the cameras have no common up direction; rotate the data so that z is up")
    up, z = mean / mean.norm(), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if up[2] < -1 + 1e-9:  # upside down: half a turn about x
        return torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    axis = torch.linalg.cross(up, z)
    skew = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=torch.float64)).T
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:3, :3] += skew + skew @ skew / (1 + up[2])  # Rodrigues
    return rotation


def object_similarity(cameras: Cameras, masks: Tensor) -> Tensor:
    """Return the scale and shift, [4, 4] float64, that centre the object and make its longest side 2 HALF_SIDE.

    Args:
        cameras: V cameras. masks: [V, H, W, 1] in [0, 1].

    Raises:
        InputError: the silhouettes contradict each other or leave the object unbounded.
    """
    lower, upper = object_box(cameras, masks)
    scale = 2 * HALF_SIDE / float((upper - lower).max())
    similarity = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
    similarity[:3, 3] = -scale * (lower + upper) / 2
    return similarity


def object_box(cameras: Cameras, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and upper corner [3], float64, of the object's axis-aligned box, by six linear programs.

    It is the tightest box around all points that every camera sees within the convex hull of its silhouette. A view
    whose silhouette touches the image border gives no bounds, as the object may extend beyond.

    Raises:
        InputError: as `object_similarity`.
    """
    from scipy.optimize import linprog  # slow to import

    normals, offsets = _half_spaces(cameras, masks)
    extremes = []
    for direction in np.concatenate([np.eye(3), -np.eye(3)]):
        result = linprog(direction, A_ub=-normals, b_ub=-offsets, bounds=(None, None))
        if result.status == 2:
            problem = f"no point is within all silhouettes; {_contradiction(cameras, masks)}"
            raise InputError(f"normalize: {problem}; do the masks match the poses?")
        if result.status != 0:
            raise InputError(f"normalize: the silhouettes do not bound the object: {_unbounded(cameras, masks)}")
        extremes.append(result.x @ direction)
    return torch.tensor(extremes[:3]), -torch.tensor(extremes[3:])


def _unbounded(cameras: Cameras, masks: Tensor) -> str:
    """Return why silhouettes do not bound the object, and what to do."""
    count, solid = len(masks), masks[..., 0] > 0.5
    framed = solid.clone()
    framed[:, 1:-1, 1:-1] = False
    empty, cut = int((~solid.any((1, 2))).sum()), int(framed.any((1, 2)).sum())
    axes = cameras.c2w[:, :3, 2]
    if count == 1:
        return "there is only one view; give views from several sides"
    if 2 * cut >= count:
        return f"masks reach the border in {cut} of {count} views; are they inverted, or is the object cut off?"
    if 2 * empty >= count:
        return f"masks are below 0.5 everywhere in {empty} of {count} views; expected 1 on the object"
    if (axes @ axes.T).min() > MOST_ALIKE:
        return f"all {count} cameras look in the same direction; are the poses right?"
    return "too few views show all of it; give more views, or set views.normalize=as-given"


def _contradiction(cameras: Cameras, masks: Tensor) -> str:
    """Return which change would make the silhouettes agree."""
    if _agree(_with_opencv_axes(cameras), masks):
        return "with camera axes as in OpenCV (y down, z forward) there is; expected OpenGL's"
    rest = [[k for k in range(len(masks)) if k != left_out] for left_out in range(len(masks))]
    wrong = [str(i) for i, others in enumerate(rest) if _agree(cameras[others], masks[others])]
    return f"without view {' or '.join(wrong)} there is" if wrong else "several views contradict one another"


def _with_opencv_axes(cameras: Cameras) -> Cameras:
    return replace(cameras, c2w=cameras.c2w * cameras.c2w.new_tensor([1, -1, -1, 1]))


def _agree(cameras: Cameras, masks: Tensor) -> bool:
    from scipy.optimize import linprog

    normals, offsets = _half_spaces(cameras, masks)
    return bool(linprog(np.zeros(3), A_ub=-normals, b_ub=-offsets, bounds=(None, None)).status == 0)


def _half_spaces(cameras: Cameras, masks: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return inward unit normals [K, 3] and offsets [K] of the half-spaces n.p >= d that bound the object."""
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
    """Return a silhouette's convex hull as lines [3, K], a x + b y + c <= 0 in pixels; none if it meets the border."""
    from scipy.spatial import ConvexHull

    framed = mask.copy()
    framed[1:-1, 1:-1] = False
    if framed.any() or not mask.any():
        return np.zeros((3, 0))
    rows = np.flatnonzero(mask.any(1))
    left, right = mask[rows].argmax(1), mask.shape[1] - mask[rows, ::-1].argmax(1)
    corners = [np.stack([x, y], axis=-1) for x in (left, right) for y in (rows, rows + 1)]
    return ConvexHull(np.concatenate(corners)).equations.T
