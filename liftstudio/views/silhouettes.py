"""Silhouettes of pictures without alpha: an object before a plain background, its specks and pinholes."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

FOREGROUND = 0.1  # alpha above this belongs to the object
BACKGROUND = 0.05  # the largest channel difference (0-1) to the background's colour that still is background
BORDER_SHARE = 0.9  # of the picture's border must be of one colour for that to be its background
PINHOLE = 0.02  # of the object's area; enclosed background up to this size is the object's own (the white of an eye)
SPECK = 0.01  # of the foreground's area; pieces below are not objects
_TOUCHING = np.ones((3, 3), dtype=bool)  # pixels that share a corner belong together


def border_color(image: Tensor) -> Tensor | None:
    """The one colour [3] of the border of an image [H, W, 3], or None where it has no such colour."""
    border = torch.cat([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    color = border.median(0).values
    same = (border - color).abs().amax(-1) <= BACKGROUND
    return color if same.float().mean() >= BORDER_SHARE else None


def alpha_before(image: Tensor, color: Tensor) -> Tensor:
    """Alpha [H, W, 1] of an object before a background of one `color` [3], soft along its outline.

    There, a pixel that mixes both is covered as far as it stands out compared with the pixels beside it.
    """
    distance = (image - color).abs().amax(-1).cpu().numpy()
    inside = _without_pinholes(distance > BACKGROUND)
    core = ndimage.binary_erosion(inside, _TOUCHING, border_value=1)
    beside = ndimage.maximum_filter(np.where(inside, distance, 0), size=5)
    coverage = np.where(inside, distance / np.maximum(beside, BACKGROUND), 0)
    return torch.from_numpy(np.where(core, 1, coverage).astype(np.float32).clip(0, 1))[..., None]


def main_pieces(alpha: Tensor, least_share: float) -> tuple[Tensor, int]:
    """`alpha` [H, W, 1] without its pieces below `least_share` of the foreground's area, and how many are left."""
    labels, count = ndimage.label(alpha[..., 0].cpu().numpy() > FOREGROUND, _TOUCHING)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    small = areas < least_share * areas.sum()
    small[0] = False  # the background's own faint pixels stay
    return torch.where(torch.from_numpy(small[labels])[..., None], 0, alpha), count - int(small.sum())


def bounding_box(alpha: Tensor) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) in pixels of the foreground of `alpha` [H, W, 1]; None if there is none."""
    inside = alpha[..., 0] > FOREGROUND
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _without_pinholes(inside: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(~inside)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    pinhole = areas < PINHOLE * inside.sum()
    pinhole[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False  # open at the border
    return inside | pinhole[labels]
