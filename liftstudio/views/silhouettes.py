"""Silhouettes of images without alpha: an object on a plain background; removal of specks and pinholes."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

FOREGROUND = 0.1  # alpha above this belongs to the object
BACKGROUND = 0.05  # largest channel difference, of 1, from the background's colour that still is background
BORDER_SHARE = 0.9  # share of the border's pixels that must have one colour for that to be the background's
PINHOLE = 0.02  # share of the object's area; smaller enclosed background belongs to the object (the white of an eye)
SPECK = 0.01  # share of the foreground's area; smaller pieces are not objects
_TOUCHING = np.ones((3, 3), dtype=bool)  # 8-connectivity


def border_color(image: Tensor) -> Tensor | None:
    """Return the colour [3] of the border of an image [H, W, 3], or None if the border is not uniform."""
    border = torch.cat([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    color = border.median(0).values
    same = (border - color).abs().amax(-1) <= BACKGROUND
    return color if same.float().mean() >= BORDER_SHARE else None


def alpha_before(image: Tensor, color: Tensor) -> Tensor:
    """Return alpha [H, W, 1] of an object on a background of one `color` [3], soft along its outline.

    Along the outline, a pixel's coverage is its difference from the background relative to the largest one nearby.
    """
    distance = (image - color).abs().amax(-1).cpu().numpy()
    inside = _without_pinholes(distance > BACKGROUND)
    core = ndimage.binary_erosion(inside, _TOUCHING, border_value=1)
    beside = ndimage.maximum_filter(np.where(inside, distance, 0), size=5)
    coverage = np.where(inside, distance / np.maximum(beside, BACKGROUND), 0)
    return torch.from_numpy(np.where(core, 1, coverage).astype(np.float32).clip(0, 1))[..., None]


def main_pieces(alpha: Tensor, least_share: float) -> tuple[Tensor, int]:
    """Return `alpha` [H, W, 1] without pieces below `least_share` of the foreground's area, and the number left."""
    labels, count = ndimage.label(alpha[..., 0].cpu().numpy() > FOREGROUND, _TOUCHING)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    small = areas < least_share * areas.sum()
    small[0] = False  # the background's own faint pixels stay
    return torch.where(torch.from_numpy(small[labels])[..., None], 0, alpha), count - int(small.sum())


def bounding_box(alpha: Tensor) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom), in pixels, of the foreground of `alpha` [H, W, 1]; None if there is none."""
    inside = alpha[..., 0] > FOREGROUND
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _without_pinholes(inside: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(~inside)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    pinhole = areas < PINHOLE * inside.sum()
    pinhole[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False  # connected to the border
    return inside | pinhole[labels]
