"""Silhouettes: an object before a plain background, alpha that shows no object, removal of specks and pinholes."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOREGROUND = 0.1  # alpha above this belongs to the object
BACKGROUND = 0.05  # largest channel difference, of 1, from the background's colour that still is background
BORDER_SHARE = 0.9  # share of the border's pixels that must have one colour for that to be the background's
CUT_SHARE = 0.5  # the same share where the object itself reaches the border
CLEAR = 3 * BACKGROUND  # from this difference on, a pixel of the border is the object's, not an uneven background's
CARD_FILL = 0.95  # share of its bounding box that a card covers; rounded corners miss 4 % at most
CARD_SPAN = 0.98  # share of the picture's width or height that a card spans
PINHOLE = 0.02  # share of the object's area; smaller enclosed background belongs to the object (the white of an eye)
SOLID = 0.9  # an object whose median alpha is below this is partly transparent
SPECK = 0.01  # share of the foreground's area; smaller pieces are not objects
APART = 0.04  # of the foreground's longer side: the least distance between two objects
OTHER = 0.1  # of the largest object's area: smaller ones are not worth a word
MOST_CLASSES = 32  # of a label map
_TOUCHING = np.ones((3, 3), dtype=bool)  # 8-connectivity


def border_color(image: Tensor) -> Tensor | None:
    """Return the colour [3] of the border of an image [H, W, 3], or None if the border is not uniform.

    The object may reach the border, unless at a corner: the rest must be uniform, and distinct from the object.
    """
    border = border_pixels(image)
    color = border.median(0).values
    difference = (border - color).abs().amax(-1)
    same, clear = (difference <= BACKGROUND).float().mean(), (difference > CLEAR).float().mean()
    corners = (image[[0, 0, -1, -1], [0, -1, 0, -1]] - color).abs().max()
    is_cut = same >= CUT_SHARE and same + clear >= BORDER_SHARE and corners <= BACKGROUND
    return color if same >= BORDER_SHARE or is_cut else None


def border_pixels(image: Tensor) -> Tensor:
    """Return the pixels [N, C] along the four sides of an image [H, W, C]."""
    return torch.cat([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def cut_out_before(image: Tensor, color: Tensor, threshold: float = BACKGROUND) -> tuple[Tensor, Tensor]:
    """Return straight colour [H, W, 3] and alpha [H, W, 1] of an object on a background of one `color` [3].

    Colour is white where alpha is 0. See `alpha_before`.
    """
    alpha = alpha_before(image, color, threshold)
    return (color + (image - color) / alpha.clamp_min(1e-6)).clamp(0, 1).where(alpha > 0, 1.0), alpha


def alpha_before(image: Tensor, color: Tensor, threshold: float = BACKGROUND) -> Tensor:
    """Return alpha [H, W, 1] of an object on a background of one `color` [3], soft along its outline.

    Along the outline, a pixel's coverage is its difference from the background relative to the largest one nearby.

    threshold: largest channel difference, of 1, from `color` that still is background.
    """
    from scipy import ndimage  # slow to import

    distance = (image - color).abs().amax(-1).cpu().numpy()
    inside = _without_pinholes(distance > threshold)
    core = ndimage.binary_erosion(inside, _TOUCHING, border_value=1)
    beside = ndimage.maximum_filter(np.where(inside, distance, 0), size=5)
    coverage = np.where(inside, distance / np.maximum(beside, threshold), 0)
    return torch.from_numpy(np.where(core, 1, coverage).astype(np.float32).clip(0, 1))[..., None]


def is_card(alpha: Tensor) -> bool:
    """Return whether `alpha` [H, W, 1] shows a filled rectangle across the picture, and hence no object.

    Such are opaque pictures with an alpha channel, with rounded corners, or padded with transparency.
    """
    box = bounding_box(alpha)
    if box is None:
        return False
    left, top, right, bottom = box
    filled = (alpha[top:bottom, left:right] > FOREGROUND).float().mean()
    span = max((right - left) / alpha.shape[1], (bottom - top) / alpha.shape[0])
    return bool(filled >= CARD_FILL) and span >= CARD_SPAN


def covers_border(alpha: Tensor) -> bool:
    """Return whether `alpha` [H, W, 1] is opaque along the picture's border, where an object is not."""
    return bool((border_pixels(alpha) > 0.5).float().mean() >= BORDER_SHARE)


def sides_touched(alpha: Tensor) -> list[str]:
    """Return the sides of the picture, of "left", "top", "right", "bottom", that the object of `alpha` reaches."""
    inside = alpha[..., 0] > alpha.max() / 2
    sides = {"left": inside[:, 0], "top": inside[0], "right": inside[:, -1], "bottom": inside[-1]}
    return [name for name, pixels in sides.items() if bool(pixels.any())]


def mask_of_levels(levels: np.ndarray) -> Tensor | None:
    """Return a mask [H, W, 1] float32 in [0, 1] of the stored numbers [H, W] of a mask file; None for a label map.

    Whatever the two levels of a mask are (0 and 1, 7, 128 or 255), the upper one is the object. A soft mask is
    stretched so that its usual levels on either side of the middle are 0 and 1. A label map has several classes of
    small numbers.
    """
    values = np.unique(levels)
    if len(values) == 1:
        return torch.full((*levels.shape, 1), float(values[0] > 0))
    middle = (float(values[0]) + float(values[-1])) / 2
    if _has_classes(levels, values):
        return None
    off, on = (float(np.median(levels[side])) for side in (levels <= middle, levels > middle))
    return torch.from_numpy(((levels.astype(np.float32) - off) / (on - off)).clip(0, 1))[..., None]


def main_pieces(alpha: Tensor, least_share: float) -> tuple[Tensor, int]:
    """Return `alpha` [H, W, 1] without pieces below `least_share` of the foreground's area, and the number left."""
    from scipy import ndimage  # slow to import

    labels, count = ndimage.label(alpha[..., 0].cpu().numpy() > FOREGROUND, _TOUCHING)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    small = areas < least_share * areas.sum()
    small[0] = False  # the background's own faint pixels stay
    return torch.where(torch.from_numpy(small[labels])[..., None], 0, alpha), count - int(small.sum())


def largest_object(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return the largest object of a mask [H, W], and how many there are.

    Pieces that are closer to one another than APART are one object. Objects below OTHER of the largest one's area are
    not counted.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    gap = max(3, int(APART * max(np.ptp(rows), np.ptp(columns)))) if rows.size else 3
    near = cv2.dilate(mask.astype(np.uint8), np.ones((gap, gap), np.uint8))
    _, labels = cv2.connectedComponents(near, connectivity=8)
    areas = np.bincount(labels[mask], minlength=1)
    return mask & (labels == areas.argmax()), int((areas > OTHER * areas.max()).sum())


def bounding_box(alpha: Tensor) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom), in pixels, of the foreground of `alpha` [H, W, 1]; None if there is none."""
    inside = alpha[..., 0] > FOREGROUND
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _without_pinholes(inside: np.ndarray) -> np.ndarray:
    from scipy import ndimage  # slow to import

    labels, count = ndimage.label(~inside)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    pinhole = areas < PINHOLE * inside.sum()
    pinhole[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False  # connected to the border
    return inside | pinhole[labels]


def _has_classes(levels: np.ndarray, values: np.ndarray) -> bool:
    """Return whether there is an area of a third level, and the levels are few and include small whole numbers."""
    from scipy import ndimage  # slow to import

    if levels.dtype.kind not in "ui" or not 2 < len(values) <= MOST_CLASSES:
        return False
    between = [value for value in values[1:-1] if value < MOST_CLASSES]
    return any(bool(ndimage.binary_erosion(levels == value, _TOUCHING).any()) for value in between)
