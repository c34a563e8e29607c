"""Locates the object in a capture's world, from cameras and silhouettes alone."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras

MOST_ALIKE = 0.999  # cosine between viewing directions: 2.6 degrees
HALF_SIDE = 0.9  # half the longest side of the object's bounding box after `object_similarity`, world units
MAX_OFFSET = 1e4  # distance of the cameras from the origin over their spread, of which float32 then resolves 1/1600


def middle_and_spread(centers: Tensor) -> tuple[Tensor, float]:
    """Return the median [3] of camera positions [V, 3], and their median distance from it; far strays have no weight.

    Both are float64, in the units of the positions.
    """
    middle = centers.double().median(dim=0).values
    return middle, float((centers.double() - middle).norm(dim=-1).median())


def centering(c2w: Tensor) -> Tensor:
    """Return the shift, [4, 4] float64, that brings the middle of cameras [V, 4, 4] to the origin.

    A capture's own world may be a map's: with coordinates of millions of metres, which float32 rounds to half a metre.
    """
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = -middle_and_spread(c2w[:, :3, 3])[0]
    return shift


def check_near_origin(c2w: Tensor) -> None:
    """Check that float32 can represent how cameras [V, 4, 4], float64, stand to one another.

    Raises:
        InputError: they are too far from the origin.
    """
    middle, spread = middle_and_spread(c2w[:, :3, 3])
    if middle.norm() > MAX_OFFSET * spread > 0:
        far = f"the cameras are {float(middle.norm()):.3g} from the origin but only {spread:.3g} from their middle"
        raise InputError(f"views.normalize: {far}; set views.normalize=auto, or centre them by views.offset")


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


def object_similarity(cameras: Cameras, masks: Tensor, windows: Tensor | None = None) -> Tensor:
    """Return the scale and shift, [4, 4] float64, that centre the object and make its longest side 2 HALF_SIDE.

    Args:
        cameras: V cameras. masks: [V, H, W, 1] in [0, 1]. windows: as in `ReferenceViews`.

    Raises:
        InputError: the silhouettes contradict each other or leave the object unbounded.
    """
    lower, upper = object_box(cameras, masks, windows)
    scale = 2 * HALF_SIDE / float((upper - lower).max())
    similarity = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
    similarity[:3, 3] = -scale * (lower + upper) / 2
    return similarity


def object_box(cameras: Cameras, masks: Tensor, windows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the lower and upper corner [3], float64, of the object's axis-aligned box, by six linear programs.

    It is the tightest box around all points that every camera sees within the convex hull of its silhouette. A view
    whose silhouette touches the border of its window (of its image, without windows) gives no bounds, as the object may
    extend beyond.

    Raises:
        InputError: as `object_similarity`.
    """
    from scipy.optimize import linprog  # slow to import

    normals, offsets, middle, unit = _scaled_half_spaces(cameras, masks, windows)
    extremes = []
    for direction in np.concatenate([np.eye(3), -np.eye(3)]):
        result = linprog(direction, A_ub=-normals, b_ub=-offsets, bounds=(None, None))
        if result.status == 2:
            problem = f"no point is within all silhouettes; {_contradiction(cameras, masks, windows)}"
            raise InputError(f"normalize: {problem}; do the masks match the poses?")
        if result.status != 0:
            raise InputError(
                f"normalize: the silhouettes do not bound the object: {_unbounded(cameras, masks, windows)}"
            )
        extremes.append(result.x @ direction)
    return middle + unit * torch.tensor(extremes[:3]), middle - unit * torch.tensor(extremes[3:])


def _unbounded(cameras: Cameras, masks: Tensor, windows: Tensor | None) -> str:
    """Return why silhouettes do not bound the object, and what to do."""
    count, solid = len(masks), (masks[..., 0] > 0.5).numpy()
    empty = sum(not mask.any() for mask in solid)
    cut = sum(map(_is_cut, solid, _rectangles(cameras, windows)))
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


def _contradiction(cameras: Cameras, masks: Tensor, windows: Tensor | None) -> str:
    """Return which change would make the silhouettes agree."""
    if _agree(_with_opencv_axes(cameras), masks, windows):
        return "with camera axes as in OpenCV (y down, z forward) there is; expected OpenGL's"
    rest = [[k for k in range(len(masks)) if k != left_out] for left_out in range(len(masks))]
    kept = [(cameras[others], masks[others], None if windows is None else windows[others]) for others in rest]
    wrong = [str(view) for view, others in enumerate(kept) if _agree(*others)]
    return f"without view {' or '.join(wrong)} there is" if wrong else "several views contradict one another"


def _with_opencv_axes(cameras: Cameras) -> Cameras:
    return replace(cameras, c2w=cameras.c2w * cameras.c2w.new_tensor([1, -1, -1, 1]))


def _agree(cameras: Cameras, masks: Tensor, windows: Tensor | None) -> bool:
    from scipy.optimize import linprog

    normals, offsets, _, _ = _scaled_half_spaces(cameras, masks, windows)
    return bool(linprog(np.zeros(3), A_ub=-normals, b_ub=-offsets, bounds=(None, None)).status == 0)


def _scaled_half_spaces(
    cameras: Cameras, masks: Tensor, windows: Tensor | None
) -> tuple[np.ndarray, np.ndarray, Tensor, float]:
    """Return the half-spaces about the middle of the cameras in a suitable unit, and that middle and unit.

    The tolerances of a linear program's solver are absolute.
    """
    normals, offsets = _half_spaces(cameras, masks, windows)
    middle, spread = middle_and_spread(cameras.centers)
    unit = spread or 1.0
    return normals, (offsets - normals @ middle.numpy()) / unit, middle, unit


def _half_spaces(cameras: Cameras, masks: Tensor, windows: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Return inward unit normals [K, 3] and offsets [K] of the half-spaces n.p >= d that bound the object."""
    normals, offsets = [np.zeros((0, 3))], [np.zeros(0)]
    silhouettes = (masks[..., 0] > 0.5).numpy()
    for c2w, fx, fy, cx, cy, mask, window in zip(
        cameras.c2w.double().numpy(), *_intrinsics(cameras), silhouettes, _rectangles(cameras, windows), strict=True
    ):
        a, b, c = _hull_lines(mask, window)
        local = np.stack([-a * fx, b * fy, a * cx + b * cy + c], axis=-1)
        world = local / np.linalg.norm(local, axis=-1, keepdims=True) @ c2w[:3, :3].T
        normals.append(world)
        offsets.append(world @ c2w[:3, 3])
    return np.concatenate(normals), np.concatenate(offsets)


def _intrinsics(cameras: Cameras) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in (cameras.fx, cameras.fy, cameras.cx, cameras.cy)]


def _rectangles(cameras: Cameras, windows: Tensor | None) -> list[list[int]]:
    """Return left, top, right, bottom in pixels of each photograph; the whole image where nothing is padded."""
    return [[0, 0, cameras.width, cameras.height]] * len(cameras) if windows is None else windows.tolist()


def _is_cut(mask: np.ndarray, window: list[int]) -> bool:
    """Return whether a silhouette meets the border of its photograph."""
    left, top, right, bottom = window
    framed = mask[top:bottom, left:right].copy()
    framed[1:-1, 1:-1] = False
    return bool(framed.any())


def _hull_lines(mask: np.ndarray, window: list[int]) -> np.ndarray:
    """Return a silhouette's convex hull as lines [3, K], a x + b y + c <= 0 in pixels; none if it meets the border.

    window: left, top, right, bottom of the photograph in the image, in pixels.
    """
    from scipy.spatial import ConvexHull

    if _is_cut(mask, window) or not mask.any():
        return np.zeros((3, 0))
    rows = np.flatnonzero(mask.any(1))
    first, end = mask[rows].argmax(1), mask.shape[1] - mask[rows, ::-1].argmax(1)
    corners = [np.stack([x, y], axis=-1) for x in (first, end) for y in (rows, rows + 1)]
    return ConvexHull(np.concatenate(corners)).equations.T
