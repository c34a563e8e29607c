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
from liftstudio.views.silhouettes import (
    FOREGROUND,
    SOLID,
    SPECK,
    border_color,
    bounding_box,
    covers_border,
    cut_out_before,
    is_card,
    main_pieces,
    sides_touched,
)

log = logging.getLogger("liftstudio")

FRAME_RATIO = 0.83  # share of the frame that an object 1.8 long fills at distance 3.6 and a field of view of 33.8 deg
LEAST_SIDE = 32  # pixels along the object's longer side


@dataclass(frozen=True)
class InputImage:
    """A cut-out object and the square that frames it.

    rgb:   [H, W, 3] float32 sRGB in [0, 1], straight colour.
    alpha: [H, W, 1] float32 in [0, 1].
    left, top, side: the square in pixels of the image, fractions allowed; it may reach beyond the image.
    others: further images of the same object.
    """

    rgb: Tensor
    alpha: Tensor
    left: float
    top: float
    side: float
    others: tuple["PlacedImage", ...] = ()

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


@dataclass(frozen=True)
class PlacedImage:
    """A further image of the object in an input image, and where its camera is, at the same elevation.

    azimuth_deg: of the camera, from the input image's, counter-clockwise seen from above.
    """

    image: InputImage
    azimuth_deg: float


def load_input_image(path: Path, *, recenter: bool = True, frame_ratio: float = FRAME_RATIO) -> InputImage:
    """Load the object in an image file.

    An alpha channel is used as it is, unless it shows a filled rectangle (`is_card`). An opaque image is cut out by
    rembg if that is installed, else by the uniform colour of its border. Specks are dropped. Several larger pieces, an
    object that is partly transparent or that reaches the picture's border cause a warning.

    Args:
        recenter: frame the object's bounding box; otherwise the whole image, centred in a square.
        frame_ratio: share of the frame's side that the longer side of the box takes, in (0, 1]; with `recenter`.

    Raises:
        InputError: no readable image, no way to cut it out, no foreground, or an object of only a few pixels.
    """
    rgb, alpha = load_image(path)
    if alpha is None or is_card(alpha):
        rgb, alpha = _cut_out(path, rgb, alpha)
    alpha, pieces = main_pieces(alpha, SPECK)
    box = bounding_box(alpha)
    if box is None:
        raise InputError(f"{path}: no foreground; the image is transparent everywhere")
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) < LEAST_SIDE:
        raise InputError(f"{path}: the object is only {width}x{height} pixels; expected {LEAST_SIDE} or more")
    if pieces > 1:
        log.warning("%s: %d separate objects are treated as one; if that is wrong, crop the image to one", path, pieces)
    _warn_of_alpha(path, alpha)
    if not recenter:
        return _framed(rgb, alpha, (0, 0, rgb.shape[1], rgb.shape[0]), 1.0)
    return _framed(rgb, alpha, box, frame_ratio)


def _framed(rgb: Tensor, alpha: Tensor, box: tuple[int, int, int, int], ratio: float) -> InputImage:
    left, top, right, bottom = box
    side = max(right - left, bottom - top) / ratio
    return InputImage(rgb, alpha, (left + right - side) / 2, (top + bottom - side) / 2, side)


def _cut_out(path: Path, rgb: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return straight colour and alpha of the object in an opaque image, or in the card that `alpha` shows."""
    if matting.installed():
        return _matted(path, rgb if alpha is None else _filled(rgb, alpha)[0])
    card, border = (rgb, rgb) if alpha is None else _filled(rgb, alpha)
    background = border_color(border)
    cut = None if background is None else cut_out_before(card, background)
    has_shape = alpha is not None and bool((alpha <= FOREGROUND).any())  # it may be an object of that shape
    if cut is not None and bool(cut[1].any()):
        if has_shape:
            log.warning("%s: its alpha shows a filled rectangle; the object is cut out by its plain border", path)
        else:
            log.info("%s: opaque, cut out by the plain colour of its border", path)
        return cut
    if alpha is not None and has_shape:
        log.warning(
            "%s: its alpha shows a filled rectangle, which is taken as the object; if the object is in there, "
            "give an image with alpha of the object, or %s",
            path,
            matting.INSTALL,
        )
        return rgb, alpha
    if cut is not None:
        raise InputError(f"{path}: no foreground; the image is one plain colour")
    raise InputError(
        f"{path}: the image is opaque and its background is not one plain colour; "
        f"give an RGBA image, or {matting.INSTALL}"
    )


def _filled(rgb: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return an image with the colour of a card's edge wherever the card is not, and the part with the card."""
    solid = alpha[..., 0] > alpha.max() / 2
    inner = F.max_pool2d(F.pad((~solid).float()[None], (1, 1, 1, 1), value=1.0), 3, 1)[0] == 0
    color = rgb[solid & ~inner].median(0).values
    filled = rgb.where(solid[..., None], color)
    left, top, right, bottom = bounding_box(alpha) or (0, 0, rgb.shape[1], rgb.shape[0])
    return filled, filled[top:bottom, left:right]


def _warn_of_alpha(path: Path, alpha: Tensor) -> None:
    opacity = float(alpha[alpha > FOREGROUND].median())
    if opacity < SOLID:
        log.warning("%s: the object is partly transparent: half of it has an alpha below %.2f", path, opacity + 0.005)
    if covers_border(alpha):
        log.warning("%s: alpha covers the border; is it inverted, or is the object cut off there?", path)
    elif sides := sides_touched(alpha):
        where = ", ".join(sides) + (" border" if len(sides) == 1 else " borders")
        log.warning("%s: the object reaches the %s; if it is cut off there, give a picture of all of it", path, where)


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
