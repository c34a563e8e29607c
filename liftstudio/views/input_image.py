"""The user's input image of one object: cut out, centred in a square, at any resolution."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.images import load_image, resize_lanczos
from liftstudio.views import matting
from liftstudio.views.silhouettes import SPECK, alpha_before, border_color, bounding_box, main_pieces

log = logging.getLogger("liftstudio")

FRAME_RATIO = 0.83  # share of the frame that an object 1.8 long fills at distance 3.6 and a field of view of 33.8 deg
LEAST_SIDE = 32  # pixels along the object's longer side


@dataclass(frozen=True)
class InputImage:
    """A cut-out object and the square that frames it.

    rgb:   [H, W, 3] float32 sRGB in [0, 1], straight colour.
    alpha: [H, W, 1] float32 in [0, 1].
    left, top, side: the square in pixels of the image, fractions allowed; it may reach beyond the image.
    """

    rgb: Tensor
    alpha: Tensor
    left: float
    top: float
    side: float

    def frame(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Return the square's content: image [R, R, 3] composited over white and mask [R, R, 1], in [0, 1].

        It is resized with premultiplied colour, so that colours under alpha 0 do not bleed into the outline.
        """
        size = math.ceil(self.side) + 2
        left, top = math.floor(self.left), math.floor(self.top)
        premultiplied = _window(torch.cat([self.rgb * self.alpha, self.alpha], dim=-1), left, top, size)
        x, y = self.left - left, self.top - top
        resized = resize_lanczos(premultiplied, resolution, resolution, (x, y, x + self.side, y + self.side))
        rgb = (resized[..., :3] / resized[..., 3:].clamp_min(1e-3)).clamp(0, 1)  # it overshoots where alpha does
        mask = resized[..., 3:].clamp(0, 1)
        return rgb * mask + 1 - mask, mask


def load_input_image(path: Path, *, recenter: bool = True, frame_ratio: float = FRAME_RATIO) -> InputImage:
    """Load the object in an image file.

    An alpha channel is used as it is. An opaque image is cut out by rembg if that is installed, else by the uniform
    colour of its border. Specks are dropped; several larger pieces cause a warning.

    Args:
        recenter: frame the object's bounding box; otherwise the whole image, centred in a square.
        frame_ratio: share of the frame's side that the longer side of the box takes, in (0, 1]; with `recenter`.

    Raises:
        InputError: no readable image, no way to cut it out, no foreground, or an object of only a few pixels.
    """
    rgb, alpha = load_image(path)
    if alpha is None or bool((alpha == 1).all()):
        rgb, alpha = _cut_out(path, rgb)
    alpha, pieces = main_pieces(alpha, SPECK)
    box = bounding_box(alpha)
    if box is None:
        raise InputError(f"{path}: no foreground; the image is transparent everywhere")
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) < LEAST_SIDE:
        raise InputError(f"{path}: the object is only {width}x{height} pixels; expected {LEAST_SIDE} or more")
    if pieces > 1:
        log.warning("%s: %d separate objects are treated as one; if that is wrong, crop the image to one", path, pieces)
    if not recenter:
        return _framed(rgb, alpha, (0, 0, rgb.shape[1], rgb.shape[0]), 1.0)
    return _framed(rgb, alpha, box, frame_ratio)


def _framed(rgb: Tensor, alpha: Tensor, box: tuple[int, int, int, int], ratio: float) -> InputImage:
    left, top, right, bottom = box
    side = max(right - left, bottom - top) / ratio
    return InputImage(rgb, alpha, (left + right - side) / 2, (top + bottom - side) / 2, side)


def _cut_out(path: Path, rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Return straight colour and alpha of an opaque image."""
    if matting.installed():
        return _matted(path, rgb)
    background = border_color(rgb)
    if background is None:
        raise InputError(
            f"{path}: the image is opaque and its background is not one plain colour; "
            f"give an RGBA image, or {matting.INSTALL}"
        )
    log.info("%s: opaque, cut out by the plain colour of its border", path)
    alpha = alpha_before(rgb, background)
    if not alpha.any():
        raise InputError(f"{path}: no foreground; the image is one plain colour")
    return (background + (rgb - background) / alpha.clamp_min(1e-6)).clamp(0, 1).where(alpha > 0, 1.0), alpha


def _matted(path: Path, rgb: Tensor) -> tuple[Tensor, Tensor]:
    try:
        cut = matting.cut_out(rgb)
    except InputError as error:
        raise InputError(f"{path}: {error}; give an RGBA image") from error
    log.info("%s: opaque, cut out by rembg (%s)", path, matting.MODEL)
    return cut


def _window(image: Tensor, left: int, top: int, size: int) -> Tensor:
    """Crop [size, size, C] of an image [H, W, C] at a top-left corner that may lie outside; 0 beyond the image."""
    height, width = image.shape[:2]
    pads = (0, 0, -left, left + size - width, -top, top + size - height)  # negative pads crop
    return F.pad(image, pads)
