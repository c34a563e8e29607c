"""The common result of all readers of posed photographs, and checks of poses and intrinsics."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.lookup import find_folder, find_picture

ROTATION_TOLERANCE = 1e-3  # for every entry of R^T R
DISTORTION_TOLERANCE = 1e-4  # a smaller distortion coefficient moves no pixel visibly


@dataclass(frozen=True)
class Frame:
    """One photograph with its pinhole camera; the pixels are not read yet.

    The camera describes the pixels as they are stored, whatever EXIF orientation the file states.

    image:          the file; `name` is its name in the capture.
    c2w:            [4, 4] float64 camera-to-world, OpenGL axes, in the capture's own world.
    fx, fy, cx, cy: intrinsics in pixels of an image of `width` x `height`, pixel centres at + 0.5.
    held_out:       whether it is used for evaluation only.
    mask:           file with the object's silhouette, or None.
    depth, normal:  files of per-pixel maps, or None.
    """

    image: Path
    name: str
    c2w: Tensor
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    held_out: bool = False
    mask: Path | None = None
    depth: Path | None = None
    normal: Path | None = None


@dataclass(frozen=True)
class Capture:
    """The frames of a capture, at least one, and the file of the ground-truth mesh, if any."""

    frames: list[Frame]
    mesh: Path | None = None


def check_pose(c2w: Tensor, where: str) -> Tensor:
    """Return the [4, 4] matrix if it is a rigid motion.

    Raises:
        InputError: it has non-finite values, a last row other than 0 0 0 1, or a rotation that is not orthonormal or
            that mirrors; the message starts with `where`.
    """
    if not torch.isfinite(c2w).all():
        raise InputError(f"{where}: the camera pose has values that are not finite")
    if not torch.allclose(c2w[3], c2w.new_tensor([0, 0, 0, 1]), atol=1e-6):
        raise InputError(f"{where}: the last row of the camera pose must be 0 0 0 1, got {c2w[3].tolist()}")
    rotation = c2w[:3, :3]
    error = (rotation.T @ rotation - torch.eye(3, dtype=c2w.dtype)).abs().max()
    if error > ROTATION_TOLERANCE:
        raise InputError(f"{where}: the rotation of the camera pose is not orthonormal (off by {error:.2g})")
    if torch.linalg.det(rotation) < 0:
        raise InputError(f"{where}: the camera pose mirrors (determinant -1); expected a rotation")
    return c2w


def check_intrinsics(frame: Frame, where: str) -> Frame:
    """Return the frame if its focal lengths and size are above 0 and its principal point is within the image.

    Raises:
        InputError: otherwise; the message starts with `where`.
    """
    if min(frame.width, frame.height) < 1:
        raise InputError(f"{where}: expected an image size above 0, got {frame.width}x{frame.height}")
    if min(frame.fx, frame.fy) <= 0:
        raise InputError(f"{where}: expected focal lengths above 0, got {frame.fx:g} and {frame.fy:g}")
    if not (0 < frame.cx < frame.width and 0 < frame.cy < frame.height):
        size = f"{frame.width}x{frame.height}"
        raise InputError(f"{where}: the principal point ({frame.cx:g}, {frame.cy:g}) is outside the {size} image")
    return frame


def check_undistorted(coefficients: dict[str, float], where: str) -> None:
    """Check that a lens has no distortion.

    Raises:
        InputError: it has; the message starts with `where` and names the first coefficient that is not about 0.
    """
    for name, value in coefficients.items():
        if abs(value) > DISTORTION_TOLERANCE:
            raise InputError(f"{where}: lens distortion ({name} = {value:g}); undistort the images first")


def find_mask(masks: Path, image_name: str) -> Path | None:
    """Return an image's mask file in a folder of masks: `000.jpg` -> `000.jpg.png`, `000.png` or `000.jpg`.

    Other cases and suffixes are found as by `find_picture`. Returns None if there is no such folder.

    Raises:
        InputError: the folder exists but has no mask for this image, or several may be meant.
    """
    folder = find_folder(masks)
    if folder is None:
        return None
    plain = folder / image_name
    for candidate in (plain.with_name(plain.name + ".png"), plain.with_suffix(".png")):
        if candidate.is_file():
            return candidate
    mask = find_picture(plain)
    if mask is None:
        raise InputError(f"{folder}: no mask for the image {image_name}")
    return mask
