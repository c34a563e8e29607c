"""From a rough mask of an object to its alpha and its own colours: closed-form matting in a band along the outline."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 512  # pixels along the longer side at which the matte is solved; it is brought to full size by a guided filter
MARGIN = 0.08  # of the object's longer side, kept around it
BAND = 0.012  # half the width of the unknown band, as a share of the object's longer side
LEAST_BAND = 2  # pixels
SURE = 0.02  # alpha this close to 0 or 1 is 0 or 1: a faint haze has no colour to speak of
WINDOW = 2  # radius in pixels of the guided filter
EPSILON = 1e-5  # its variance of colours that counts as flat

Floats = NDArray[np.float32]
Bits = NDArray[np.bool_]


def matte(rgb: Tensor, mask: Bits) -> tuple[Tensor, Tensor]:
    """Return straight colour [H, W, 3] and alpha [H, W, 1] of the object that `mask` shows in an image.

    Within a narrow band along the outline alpha is solved from the colours (Levin et al. 2008, A Closed-Form Solution
    to Natural Image Matting), and the background's share is taken out of the colour. Colour is white where alpha is 0.

    rgb: [H, W, 3] float32 in [0, 1].  mask: [h, w], of the whole image at any size, not empty.
    """
    image = rgb.numpy()
    height, width = image.shape[:2]
    top, bottom, left, right = _window(mask, height, width)
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    full = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)[top:bottom, left:right]
    scale = min(1.0, SIDE / max(crop.shape[:2]))
    size = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
    small, rough = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (crop, full))
    alpha, color = _solved(small.clip(0, 1), rough > 0.5)
    if scale < 1:
        alpha = _enlarged(alpha, small, crop)
        color = cv2.resize(color, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    alpha = np.where(alpha < SURE, 0, np.where(alpha > 1 - SURE, 1, alpha)).astype(np.float32)[..., None]
    own = np.where(alpha == 1, crop, color)
    whole_alpha, whole_color = np.zeros((height, width, 1), np.float32), np.ones_like(image)
    whole_alpha[top:bottom, left:right] = alpha
    whole_color[top:bottom, left:right] = np.where(alpha > 0, own, 1)
    return torch.from_numpy(whole_color), torch.from_numpy(whole_alpha)


def _window(mask: Bits, height: int, width: int) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of the object with a margin, in pixels of an image of the given size."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    scale_y, scale_x = height / mask.shape[0], width / mask.shape[1]
    top, bottom, left, right = rows[0] * scale_y, (rows[-1] + 1) * scale_y, columns[0] * scale_x, columns[-1] * scale_x
    margin = MARGIN * max(bottom - top, right - left) + 4 * max(scale_x, scale_y)
    return (
        max(0, int(top - margin)),
        min(height, int(bottom + margin) + 1),
        max(0, int(left - margin)),
        min(width, int(right + scale_x + margin) + 1),
    )


def _solved(image: Floats, mask: Bits) -> tuple[Floats, Floats]:
    """Return alpha [h, w] and the object's colour [h, w, 3]."""
    from pymatting import estimate_alpha_cf, estimate_foreground_ml  # compiled when it is first imported

    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    band = max(LEAST_BAND, round(BAND * max(np.ptp(rows), np.ptp(columns))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    solid = mask.astype(np.uint8)
    inner, outer = cv2.erode(solid, disc, borderValue=1), cv2.dilate(solid, disc)
    trimap = np.where(inner > 0, 1.0, np.where(outer > 0, 0.5, 0.0))
    if not inner.any() or outer.all():  # all of it is thinner than the band, or there is nothing beside it
        return mask.astype(np.float32), image
    alpha = estimate_alpha_cf(image.astype(np.float64), trimap)
    color = estimate_foreground_ml(image, alpha.astype(np.float32))
    return alpha.astype(np.float32), color.astype(np.float32)


def _enlarged(alpha: Floats, small: Floats, image: Floats) -> Floats:
    """Return alpha [h, w], solved for the reduced image `small`, for `image` [H, W, 3]: a guided filter.

    In each window alpha is a linear function of the colour (He and Sun 2015, Fast Guided Filter); the coefficients are
    interpolated, and the edges come from the image.
    """
    mean_color, mean_alpha = _mean(small), _mean(alpha)
    centred = _mean(small[..., :, None] * small[..., None, :]) - mean_color[..., :, None] * mean_color[..., None, :]
    together = _mean(small * alpha[..., None]) - mean_color * mean_alpha[..., None]
    slope = np.linalg.solve(centred + EPSILON * np.eye(3, dtype=np.float32), together[..., None])[..., 0]
    offset = mean_alpha - (slope * mean_color).sum(-1)
    lines = _mean(np.dstack([slope, offset]).astype(np.float32))
    size = image.shape[1::-1]
    out = cv2.resize(lines[..., 3], size, interpolation=cv2.INTER_LINEAR)
    for channel in range(3):
        out += cv2.resize(lines[..., channel], size, interpolation=cv2.INTER_LINEAR) * image[..., channel]
    # Far from the outline alpha is known; noise there must not come in by the slopes.
    flat = cv2.resize(alpha, size, interpolation=cv2.INTER_LINEAR)
    return np.where((flat < 1e-3) | (flat > 1 - 1e-3), flat, out).clip(0, 1)


def _mean(image: Floats) -> Floats:
    """Return the mean over each pixel's window, of an image [h, w, ...]."""
    planes = np.ascontiguousarray(image.reshape(*image.shape[:2], -1), dtype=np.float32)
    side = 2 * WINDOW + 1
    means = [cv2.blur(planes[..., i], (side, side)) for i in range(planes.shape[-1])]
    return np.stack(means, axis=-1).reshape(image.shape)
