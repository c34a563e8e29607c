"""The object in a picture as the page shows it: cut out, with its elevation, and corrected by a brush."""

import math
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import kept_warnings
from liftstudio.data.images import load_image, resize_area, resize_smooth, to_pillow
from liftstudio.studio.parts import WIDEST_DEG
from liftstudio.views.elevation import ElevationEstimate, estimate_elevation
from liftstudio.views.input_image import Ways, load_input_image

SHOWN = 384  # pixels along each side of the shown cut-out
EDITED = 900  # pixels along the longer side of the picture under the brush
WAYS = Ways(
    box="box",
    set_box="give its box, under Box and brush,",
    paint="paint it there with the brush",
    install="",
    saves=False,
)
FADED = 0.75  # share of white over what is not the object
KEEP, REMOVE = "#16a34a", "#dc2626"  # colours of the brush


_is_ready = threading.Event()


@dataclass(frozen=True)
class CutOut:
    """The object in a picture.

    rgb, alpha: of the whole picture, [H, W, 3] and [H, W, 1] in [0, 1].
    framed:     the object as runs see it, RGBA.
    warnings:   what may be wrong with it.
    """

    rgb: Tensor
    alpha: Tensor
    framed: Image.Image
    elevation: ElevationEstimate
    warnings: list[str]


def cut_out(path: Path, box: tuple[int, int, int, int] | None = None) -> CutOut:
    """Return the object in a picture; see `load_input_image` for `box` and errors."""
    try:
        with kept_warnings() as warnings:
            picture = load_input_image(path, box=box, ways=WAYS)
        elevation = estimate_elevation(picture, WIDEST_DEG)
    except InputError as error:
        raise InputError(without_place(str(error), path)) from None
    framed = to_pillow(torch.cat(picture.frame(SHOWN), dim=-1))
    said = [without_place(text, path) for text in warnings]
    _is_ready.set()
    return CutOut(picture.rgb, picture.alpha, framed, elevation, said)


def is_ready() -> bool:
    """Return whether this process has cut out an object before, so that the kernels are compiled."""
    return _is_ready.is_set()


def without_place(text: str, path: Path) -> str:
    """Return a message about an uploaded file without the name that it has on the server."""
    return text.replace(f"{path}: ", "").replace(str(path), "the picture")


def reduced(path: Path) -> Image.Image:
    """Return a picture over white for the page, at most EDITED pixels long."""
    rgb, alpha = load_image(path)
    return to_pillow(_smaller(rgb if alpha is None else rgb * alpha + 1 - alpha))


def under_brush(path: Path, alpha: Tensor | None) -> Image.Image:
    """Return a picture for the brush, faded where the object is not; alpha: [H, W, 1]; None: nothing is cut out."""
    rgb, _ = load_image(path)
    mask = torch.zeros_like(rgb[..., :1]) if alpha is None else alpha
    return to_pillow(_smaller(rgb * mask + ((1 - FADED) * rgb + FADED) * (1 - mask)))


def _smaller(image: Tensor) -> Tensor:
    """Return an image [H, W, C] of at most EDITED pixels along the longer side."""
    scale = min(1.0, EDITED / max(image.shape[:2]))
    return resize_area(image, *(max(1, round(side * scale)) for side in image.shape[:2]))


def painted(path: Path, cut: Path | None, layer: Tensor) -> tuple[Tensor, Tensor]:
    """Return rgb [H, W, 3] and alpha [H, W, 1] of a picture after strokes of the brush.

    cut:   RGBA file of the object before; None: nothing of it.
    layer: the strokes [h, w, 4], green where the object is, red where it is not.

    Raises:
        InputError: nothing was painted.
    """
    rgb, _ = load_image(path)
    if math.isclose(float(layer[..., 3].max()), 0.0):
        raise InputError("paint first: green where the object is, red where it is not")
    strokes = resize_smooth(layer[None], *rgb.shape[:2])[0]
    is_painted, is_kept = strokes[..., 3:] > 0.5, strokes[..., 1:2] > strokes[..., :1]
    before, alpha = (rgb, None) if cut is None else load_image(cut)
    alpha = torch.zeros_like(rgb[..., :1]) if alpha is None else alpha
    colors = torch.where(is_painted & is_kept, rgb, before)
    return colors, torch.where(is_painted, is_kept.float(), alpha)
