"""The user's input image of one object: cut out, centred in a square, at any resolution."""

import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.images import load_image, resize_lanczos, save_image
from liftstudio.views import matting
from liftstudio.views.alpha_mattes import matte
from liftstudio.views.foreground import Box, Found, find_object
from liftstudio.views.shadows import soft_part, without_shadow
from liftstudio.views.silhouettes import (
    FOREGROUND,
    SOLID,
    SPECK,
    border_color,
    bounding_box,
    covers_border,
    cut_out_before,
    is_card,
    largest_object,
    main_pieces,
    sides_touched,
)

log = logging.getLogger("liftstudio")

FRAME_RATIO = 0.83  # share of the frame that an object 1.8 long fills at distance 3.6 and a field of view of 33.8 deg
LEAST_SIDE = 32  # pixels along the object's longer side
LEAST_WIDTH = 4  # pixels along the shorter side of a box
WHOLE = 0.98  # share of the image's sides from which on a box is the whole image


@dataclass(frozen=True)
class Ways:
    """What a user can do about a wrong cut-out, in the words of an interface; the defaults are the command line's.

    box: its name. set_box, paint: to say where, or what, the object is. install: what to install; empty: nothing.
    saves: whether a doubtful mask is saved as a picture, which the message names.
    """

    box: str = "image_box"
    set_box: str = "set image_box=[left, top, right, bottom]"
    paint: str = "give an RGBA image"
    install: str = matting.INSTALL
    saves: bool = True

    def after_doubt(self, has_box: bool) -> str:
        """Return what to do where the object is not found."""
        place = f"{self.set_box} so that it just holds the whole object"
        if not has_box:
            place = f"crop the image to it or {self.set_box} around it, in pixels"
        return ", or ".join([f"{place}, {self.paint}", *filter(None, [self.install])])


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


def load_input_image(
    path: Path,
    *,
    box: tuple[int, int, int, int] | None = None,
    recenter: bool = True,
    frame_ratio: float = FRAME_RATIO,
    ways: Ways = Ways(),
) -> InputImage:
    """Load the object in an image file.

    An alpha channel is used as it is, unless it shows a filled rectangle (`is_card`). An opaque image is cut out by
    rembg if that is installed, else by the uniform colour of its border, without soft shadows, else by GrabCut and
    alpha matting. Specks are dropped. Of several objects in an opaque image the largest is taken. That, several larger
    pieces of alpha, an object that is partly transparent or that reaches the picture's border cause a warning.

    Args:
        box: left, top, right and bottom of the object, in pixels of the upright image; None: it may be anywhere.
        recenter: frame the object's bounding box; otherwise the whole image, centred in a square.
        frame_ratio: share of the frame's side that the longer side of the box takes, in (0, 1]; with `recenter`.
        ways: what messages tell the user to do.

    Raises:
        InputError: no readable image, a faulty box, no way to cut it out, a doubtful mask (a preview is saved), no
            foreground, or an object of only a few pixels.
    """
    rgb, alpha = load_image(path)
    within = None if box is None else checked_box(path, box, rgb.shape[0], rgb.shape[1], ways)
    is_opaque = alpha is None or is_card(alpha)
    if is_opaque:
        rgb, alpha = cut_out(path, rgb, alpha, within, ways)
    assert alpha is not None
    if within is not None:
        alpha = alpha * torch.from_numpy(within.mask(*alpha.shape[:2]))[..., None]
    alpha, pieces = main_pieces(alpha, SPECK)
    if is_opaque and pieces > 1:
        alpha = _only_largest(path, alpha, ways)
        pieces = 1
    found = bounding_box(alpha)
    if found is None:
        raise InputError(f"{path}: {_nothing(within)}")
    width, height = found[2] - found[0], found[3] - found[1]
    if max(width, height) < LEAST_SIDE:
        raise InputError(f"{path}: the object is only {width}x{height} pixels; expected {LEAST_SIDE} or more")
    if pieces > 1:
        log.warning("%s: %d separate objects are treated as one; if that is wrong, %s", path, pieces, ways.set_box)
    _warn_of_alpha(path, alpha)
    if not recenter:
        return _framed(rgb, alpha, (0, 0, rgb.shape[1], rgb.shape[0]), 1.0)
    return _framed(rgb, alpha, found, frame_ratio)


def checked_box(
    path: Path, values: tuple[int, int, int, int], height: int, width: int, ways: Ways = Ways()
) -> Box | None:
    """Return the user's box in an image of this size; None if it holds nearly all of the image and so says nothing.

    Raises:
        InputError: it is inverted, reaches beyond the image, or is smaller than an object may be.
    """
    box = Box(*values)
    if box.left >= box.right or box.top >= box.bottom:
        raise InputError(f"{ways.box}: expected left < right and top < bottom, got {list(box)}")
    if box.left < 0 or box.top < 0 or box.right > width or box.bottom > height:
        raise InputError(f"{ways.box}: {list(box)} reaches beyond {path}, which is {width}x{height} pixels")
    sides = box.right - box.left, box.bottom - box.top
    if max(sides) < LEAST_SIDE or min(sides) < LEAST_WIDTH:
        expected = f"expected {LEAST_SIDE} pixels or more along one side and {LEAST_WIDTH} along the other"
        raise InputError(f"{ways.box}: {list(box)} is too small; {expected}")
    says_nothing = sides[0] > WHOLE * width and sides[1] > WHOLE * height
    return None if says_nothing else box


def _nothing(box: Box | None) -> str:
    return "no foreground; the image is transparent everywhere" if box is None else f"no foreground in {list(box)}"


def _only_largest(path: Path, alpha: Tensor, ways: Ways) -> Tensor:
    """Return the alpha of the largest object; warn of others."""
    mask, count = largest_object((alpha[..., 0] > FOREGROUND).numpy())
    if count > 1:
        log.warning("%s: of %d objects the largest is taken; for another one %s", path, count, ways.set_box)
    return torch.where(torch.from_numpy(mask)[..., None], alpha, 0)


def _framed(rgb: Tensor, alpha: Tensor, box: tuple[int, int, int, int], ratio: float) -> InputImage:
    left, top, right, bottom = box
    side = max(right - left, bottom - top) / ratio
    return InputImage(rgb, alpha, (left + right - side) / 2, (top + bottom - side) / 2, side)


def cut_out(path: Path, rgb: Tensor, alpha: Tensor | None, box: Box | None, ways: Ways) -> tuple[Tensor, Tensor]:
    """Return straight colour and alpha of the object in an opaque image, or in the card that `alpha` shows."""
    if matting.installed():
        return _by_network(path, rgb if alpha is None else _filled(rgb, alpha)[0], ways)
    card, border = (rgb, rgb) if alpha is None else _filled(rgb, alpha)
    background = border_color(border)
    cut = None if background is None else cut_out_before(card, background)
    has_shape = alpha is not None and bool((alpha <= FOREGROUND).any())  # it may be an object of that shape
    if background is not None and cut is not None and bool(cut[1].any()):
        if has_shape:
            log.warning("%s: its alpha shows a filled rectangle; the object is cut out by its plain border", path)
        else:
            log.info("%s: opaque, cut out by the plain colour of its border", path)
        return _without_shadow(path, card, background, cut, box, ways)
    if alpha is not None and has_shape and box is None:
        log.warning(
            "%s: its alpha shows a filled rectangle, which is taken as the object; if the object is in there, %s",
            path,
            ways.after_doubt(has_box=False),
        )
        return rgb, alpha
    if cut is not None:
        raise InputError(f"{path}: no foreground; the image is one plain colour")
    return _by_grab_cut(path, card, box, ways)


def _without_shadow(
    path: Path, rgb: Tensor, background: Tensor, cut: tuple[Tensor, Tensor], box: Box | None, ways: Ways
) -> tuple[Tensor, Tensor]:
    """Return straight colour and alpha of the object that was cut out by its plain border, without its soft shadow."""
    soft = soft_part(rgb, background, cut[1])
    if soft is None:
        return cut
    found = find_object(rgb, box)
    if found is None or found.doubt():
        log.warning("%s: its object fades into the background, or has a soft shadow; if that is, %s", path, ways.paint)
        return cut
    mask = without_shadow(cut[1], soft, found.mask)
    if mask is None:
        return cut
    log.info("%s: a soft shadow beside the object is left out", path)
    return matte(rgb, mask)


def _by_grab_cut(path: Path, rgb: Tensor, box: Box | None, ways: Ways) -> tuple[Tensor, Tensor]:
    """Return straight colour and alpha of the object in a photograph.

    Raises:
        InputError: nothing is found, or the mask is doubtful; it names a picture of that mask.
    """
    found = find_object(rgb, box)
    if found is None:
        raise InputError(f"{path}: no object stands out from its background; {ways.after_doubt(box is not None)}")
    if reason := found.doubt():
        seen = _saved_preview(path, rgb, found) if ways.saves else ""
        raise InputError(f"{path}: the object in it is doubtful: {reason}{seen}; {ways.after_doubt(box is not None)}")
    log.info("%s: opaque, cut out by GrabCut and alpha matting (certainty %.2f)", path, found.certainty)
    mask, count = largest_object(found.mask)
    if count > 1:
        log.warning(
            "%s: of %d objects the largest is taken; for another crop the image or %s", path, count, ways.set_box
        )
    return matte(rgb, mask)


def _saved_preview(path: Path, rgb: Tensor, found: Found) -> str:
    """Write the object under a mask as RGBA into the system's folder of temporary files; return a text that names it.

    The text is empty if the file cannot be written.
    """
    mask = cv2.resize(found.mask.astype(np.float32), rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    try:
        preview = Path(tempfile.mkdtemp(prefix="liftstudio-")) / f"{path.stem}-cut-out.png"
        save_image(preview, torch.cat([rgb, torch.from_numpy(mask).float()[..., None]], dim=-1))
    except OSError:
        return ""
    return f" (see {preview})"


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


def _by_network(path: Path, rgb: Tensor, ways: Ways) -> tuple[Tensor, Tensor]:
    try:
        cut = matting.cut_out(rgb)
    except InputError as error:
        raise InputError(f"{path}: {error}; {ways.paint}") from error
    log.info("%s: opaque, cut out by rembg (%s)", path, matting.MODEL)
    return cut


def _window(image: Tensor, left: int, top: int, size: int) -> Tensor:
    """Crop [size, size, C] of an image [H, W, C] at a top-left corner that may lie outside; 0 beyond the image."""
    height, width = image.shape[:2]
    pads = (0, 0, -left, left + size - width, -top, top + size - height)  # negative pads crop
    return F.pad(image, pads)
