"""Soft shadows on a plain background: they differ from it as the object does, but are no part of it.

A shadow has the colour of the background, only darker, and fades into it, while an object mostly has an outline. White
objects fade into a white background as well. So what is soft is a shadow where GrabCut, too, sees no object.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SIDE = 512  # pixels along the longer side of the picture in which soft parts are looked for
TINT = 0.04  # largest difference of a shadow's colour, of 1, from the background's at its brightness
DARKEST = 0.2  # brightness of a shadow relative to the background's
SOFT = 0.04  # largest change of that brightness from pixel to pixel
RIM = 2  # pixels beside a shadow, along the object's outline, that are too steep for it
LEAST = 0.01  # share of the mask's area from which on a shadow is worth a word

Bits = NDArray[np.bool_]


def soft_part(image: Tensor, color: Tensor, alpha: Tensor) -> Bits | None:
    """Return the part of a mask that may be a soft shadow, [h, w] of the whole picture, reduced; None: there is none.

    image: [H, W, 3] in [0, 1]. color: [3], of its plain background. alpha: [H, W, 1] of all that differs from it.
    """
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    pixels, opacity = (cv2.resize(part.numpy(), size, interpolation=cv2.INTER_AREA) for part in (image, alpha))
    inside = opacity > 0.5
    soft = _reached(_is_soft(pixels, color.numpy()), inside)
    return soft if soft.sum() > LEAST * inside.sum() else None


def without_shadow(alpha: Tensor, soft: Bits, mask: Bits) -> Bits | None:
    """Return the mask of the object [h, w] without its shadow; None if it has none.

    alpha: [H, W, 1] of object and shadow. soft: [h, w], see `soft_part`. mask: [h', w'], of the object by GrabCut.
    """
    size = soft.shape[1::-1]
    inside = cv2.resize(alpha.numpy(), size, interpolation=cv2.INTER_AREA) > 0.5
    shadow = soft & (cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) == 0)
    if shadow.sum() <= LEAST * inside.sum():
        return None
    return inside & ~(shadow | _mostly(shadow, soft))


def _mostly(part: Bits, whole: Bits) -> Bits:
    """Return [h, w]: the connected pieces of `whole` that are mostly in `part`: the dark core of a shadow is so."""
    count, labels = cv2.connectedComponents(whole.astype(np.uint8), connectivity=4)
    sizes, shares = (np.bincount(labels[pixels], minlength=count) for pixels in (whole, part))
    return whole & (2 * shares > sizes)[labels]


def _is_soft(pixels: NDArray[np.float32], color: NDArray[np.float32]) -> Bits:
    """Return [h, w]: whether a pixel has the background's colour, and a brightness that changes softly there."""
    smooth = cv2.GaussianBlur(pixels, (0, 0), 1.0)
    brightness = (smooth @ color / (color @ color)).astype(np.float32)
    tint = np.abs(smooth - brightness[..., None] * color).max(-1)
    across, down = (cv2.Sobel(brightness, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return (tint <= TINT) & (brightness >= DARKEST) & (np.hypot(across, down) <= SOFT)


def _reached(soft: Bits, inside: Bits) -> Bits:
    """Return [h, w]: whether a pixel inside is connected with the background by soft ones, or beside such a one."""
    _, labels = cv2.connectedComponents((soft | ~inside).astype(np.uint8), connectivity=4)
    reached = inside & np.isin(labels, np.unique(labels[~inside])) & (labels > 0)
    return inside & (cv2.dilate(reached.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=RIM) > 0)
