"""Several input images of one object: their labels, and squares that frame the object alike in all of them.

Every image may be cropped in its own way. All cameras have the same elevation, distance and lens. The height of the
object, which is the same from all sides, scales the images.
"""

import contextlib
import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.views.input_image import InputImage, PlacedImage
from liftstudio.views.silhouettes import bounding_box

LABELS = {  # azimuth of the camera from the front, degrees; left and right are the object's own
    "front": 0.0, "front-left": 45.0, "left": 90.0, "back-left": 135.0,
    "back": 180.0, "back-right": 225.0, "right": 270.0, "front-right": 315.0,
}  # fmt: skip
SAME_DEG = 10.0  # labels closer than this are the same side: they are rough
OPPOSITE_DEG = 150.0  # from this angle on, the silhouette of an object is about the mirror image of the other's
ALIKE = 0.4  # least IoU of such silhouettes; of 70 objects with labels off by up to 15 degrees, none had less
PIXELS = 64  # across the silhouettes that are compared


def azimuth_of(label: str) -> float:
    """Return the azimuth of a label from the front, in degrees in [0, 360): of a name, or of a number of degrees.

    Raises:
        InputError: it is neither.
    """
    if label in LABELS:
        return LABELS[label]
    try:
        degrees = float(label)
    except ValueError:
        degrees = math.nan
    if not math.isfinite(degrees):
        near = difflib.get_close_matches(label, LABELS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"images.{label}: expected {', '.join(LABELS)} or an azimuth in degrees{hint}")
    return degrees % 360


def apart_deg(a: float, b: float) -> float:
    """Return the angle between two azimuths, in degrees from 0 to 180."""
    return abs((a - b + 180) % 360 - 180)


def check_labels(images: dict[str, str]) -> None:
    """Check labels and files of `images`, which maps labels to files; reads no image.

    Raises:
        InputError: an unknown label, two images for one side, one file for two sides, or no front.
    """
    sides: dict[str, float] = {}
    files: dict[Path, str] = {}
    for label, file in images.items():
        azimuth = azimuth_of(label)
        for other, taken in sides.items():
            if apart_deg(azimuth, taken) < SAME_DEG:
                raise InputError(f"images: '{other}' and '{label}' are the same side; keep one of them")
        path = Path(file).resolve()
        if path in files:
            raise InputError(f"images: {file} is given for '{files[path]}' and for '{label}'; give another image")
        sides[label], files[path] = azimuth, label
    if images and not any(apart_deg(azimuth, 0) < SAME_DEG for azimuth in sides.values()):
        raise InputError("images: no front, from which azimuths are counted; label one image 'front'")


@contextlib.contextmanager
def naming_label(label: str) -> Iterator[None]:
    """Let InputErrors inside the block name the image that they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"images.{label}: {error}") from error.__cause__


def load_labelled(images: dict[str, str], read: Callable[[str], InputImage], frame_ratio: float | None) -> InputImage:
    """Return the front, with the other images in the order of `images`, where their labels place them.

    Args:
        images: label -> file, as `check_labels` accepts them.
        read: returns the image in a file, framed by its own bounding box or as it is.
        frame_ratio: share of the frame that the longest side in any of the images takes; they are scaled so that the
            object has the same height in all. None: the images are framed alike already.

    Raises:
        InputError: an image cannot be read or cut out, or two images are the same; the message names the label.
    """
    found = dict[str, InputImage]()
    for label, file in images.items():
        with naming_label(label):
            found[label] = read(file)
        for other, image in found.items():
            if other != label and _same(image, found[label]):
                raise InputError(f"images: '{other}' and '{label}' are the same image; give another one")
    if frame_ratio is not None:
        found = dict(zip(found, _framed_alike(list(found.values()), frame_ratio), strict=True))
    front = min(found, key=lambda label: apart_deg(azimuth_of(label), 0))
    first = found.pop(front)
    for label, image in found.items():
        if apart_deg(azimuth_of(label), azimuth_of(front)) >= OPPOSITE_DEG:
            _warn_unless_alike(first, image, label)
    return replace(first, others=tuple(PlacedImage(image, azimuth_of(label)) for label, image in found.items()))


def _same(a: InputImage, b: InputImage) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("rgb", "alpha"))


def _framed_alike(images: list[InputImage], ratio: float) -> list[InputImage]:
    """Return the images with squares in which the object's box is centred, and equally high."""
    boxes = [bounding_box(image.alpha) for image in images]
    sizes = [(box[2] - box[0], box[3] - box[1]) for box in boxes if box]
    longest = max(max(width / height, 1.0) for width, height in sizes)
    return [
        _squared(image, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, height * longest / ratio)
        for image, box, (_, height) in zip(images, boxes, sizes, strict=True)
        if box
    ]


def _warn_unless_alike(front: InputImage, back: InputImage, label: str) -> None:
    """Log a warning if the silhouettes from opposite sides do not look like one object."""
    mask, opposite = (image.frame(PIXELS)[1][None] for image in (front, back))
    agreement = float(silhouette_iou(mask, opposite.flip(2)))
    if agreement < ALIKE:
        problem = f"its silhouette and the mirrored front have an IoU of only {agreement:.2f}"
        log.warning("images.%s: %s; is it the same object, from the other side, upright?", label, problem)


def _squared(image: InputImage, x: float, y: float, side: float) -> InputImage:
    """Return the image framed by the square of `side` pixels around a point."""
    return replace(image, left=x - side / 2, top=y - side / 2, side=side)
