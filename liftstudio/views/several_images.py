"""Several input images of one object: their labels, and the cameras that explain them.

Labels are rough, and every image is cropped in its own way. All cameras have the distance and lens of the first image's:
the size of the object in an image decides the square that frames it.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.data.cameras import Cameras, concatenate, turned
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.views.input_image import InputImage, PlacedImage
from liftstudio.views.silhouettes import bounding_box

LABELS = {  # azimuth of the camera from the front, degrees; left and right are the object's own
    "front": 0.0, "front-left": 45.0, "left": 90.0, "back-left": 135.0,
    "back": 180.0, "back-right": 225.0, "right": 270.0, "front-right": 315.0,
}  # fmt: skip
FRONT = "front"
SAME_DEG = 1.0  # labels closer than this are the same
TURNS = 9  # azimuths that are tried around a label
SCALES = (0.84, 0.89, 0.94, 1.0, 1.06, 1.12, 1.19)  # of the object in an image, relative to equal heights
SHIFT = 6  # largest shift of an image, pixels of the prior
COLOR = 0.5  # weight of a colour relative to the mask, where images are compared
DOUBTFUL = 0.4  # IoU of silhouettes below which an image may show another object
TURN_COST, SCALE_COST = 0.03, 2.0  # of the largest turn, and of the squared logarithm of the scale


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


def load_labelled(
    images: dict[str, str], read: Callable[[str], InputImage], elevation_deg: float, frame_ratio: float | None
) -> InputImage:
    """Return the front, with the other images in the order of `images`, where their labels place them.

    Args:
        images: label -> file, as `check_labels` accepts them.
        read: returns the image in a file, framed by its own bounding box or as it is.
        elevation_deg: of all cameras.
        frame_ratio: share of the frame that the longest side in any of the images takes; they are scaled so that the
            object has the same height in all. None: the images are framed alike already.

    Raises:
        InputError: an image cannot be read or cut out, or two images are the same; the message names the label.
    """
    found = dict[str, InputImage]()
    for label, file in images.items():
        try:
            found[label] = read(file)
        except InputError as error:
            raise InputError(f"images.{label}: {error}") from error.__cause__
        for other in found.keys() - {label}:
            if _same(found[other], found[label]):
                raise InputError(f"images: '{other}' and '{label}' are the same image; give another one")
    if frame_ratio is not None:
        found = dict(zip(found, _framed_alike(list(found.values()), frame_ratio), strict=True))
    front = min(found, key=lambda label: apart_deg(azimuth_of(label), 0))
    first = found.pop(front)
    others = (PlacedImage(label, image, azimuth_of(label), elevation_deg) for label, image in found.items())
    return replace(first, others=tuple(others))


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


def _squared(image: InputImage, x: float, y: float, side: float) -> InputImage:
    """Return the image framed by the square of `side` pixels around a point."""
    return replace(image, left=x - side / 2, top=y - side / 2, side=side)


Place = tuple[float, float, float, float, float]  # left, top, side, azimuth_deg, elevation_deg


def places_of(picture: InputImage) -> list[Place]:
    """Return where each of the other images is, as numbers."""
    return [(o.image.left, o.image.top, o.image.side, o.azimuth_deg, o.elevation_deg) for o in picture.others]


def with_places(picture: InputImage, places: list[Place]) -> InputImage:
    """Return the input image with the other images at the places that `places_of` returned."""
    others = []
    for other, (left, top, side, azimuth_deg, elevation_deg) in zip(picture.others, places, strict=True):
        image = replace(other.image, left=left, top=top, side=side)
        others.append(replace(other, image=image, azimuth_deg=azimuth_deg, elevation_deg=elevation_deg))
    return replace(picture, others=tuple(others))


def placed(
    picture: InputImage, prior: Prior, pose: Callable[[InputImage, int], PosedImage], error_deg: float
) -> InputImage:
    """Return the input image with the others where they agree best with what the prior makes of those placed before.

    The prior is asked for views at azimuths within `error_deg` of a label. In each, the image is shifted and scaled to
    the least squared difference of colours and masks; large deviations from label and size cost as well.

    pose: returns an input image with its others as the prior sees them, at a resolution.
    """
    done = replace(picture, others=())
    for other in sorted(picture.others, key=lambda other: apart_deg(other.azimuth_deg, 0)):
        posed = pose(replace(done, others=(*done.others, other)), prior.resolution)
        *before, last = posed.others
        found, agreement = _placed_one(replace(posed, others=tuple(before)), last.camera, other, prior, error_deg)
        _report(found, agreement)
        done = replace(done, others=(*done.others, found))
    order = [other.label for other in picture.others]
    return replace(done, others=tuple(sorted(done.others, key=lambda other: order.index(other.label))))


def _placed_one(
    posed: PosedImage, labelled: Cameras, other: PlacedImage, prior: Prior, error_deg: float
) -> tuple[PlacedImage, float]:
    """Return the image at its best place, and the IoU of its silhouette with the prior's there.

    posed: the images placed before. labelled: the camera that the label says.
    """
    turns_deg = torch.linspace(-error_deg, error_deg, TURNS)
    cameras = concatenate([turned(labelled, turn) for turn in turns_deg.tolist()])
    noise = torch.randn(TURNS, *prior.latent_shape, generator=torch.Generator().manual_seed(0)).to(cameras.device)
    noisy = NoisyViews(prior.sigma_max * noise, prior.sigma_max, prior.condition(posed), cameras)
    images, masks = (part.cpu() for part in prior.decode(prior.denoise(noisy)) if part is not None)
    made = _channels(images, masks)
    middle = other.image.left + other.image.side / 2, other.image.top + other.image.side / 2
    frames = [_squared(other.image, *middle, other.image.side / scale).frame(prior.resolution) for scale in SCALES]
    given = _channels(*(torch.stack(part) for part in zip(*frames, strict=True)))
    sizes = made.square().sum((1, 2, 3))[:, None, None, None] + given.square().sum((1, 2, 3))[:, None, None]
    error = 1 - 2 * F.conv2d(F.pad(made, (SHIFT,) * 4), given) / sizes
    cost = error + TURN_COST * (turns_deg / error_deg).square()[:, None, None, None]
    cost = cost + SCALE_COST * torch.tensor(SCALES).log().square()[:, None, None]
    turn, scale, y, x = (int(index) for index in torch.unravel_index(cost.argmin(), cost.shape))
    side = other.image.side / SCALES[scale]
    pixel = side / prior.resolution
    image = _squared(other.image, middle[0] - (x - SHIFT) * pixel, middle[1] - (y - SHIFT) * pixel, side)
    best = replace(other, image=image, azimuth_deg=(other.azimuth_deg + float(turns_deg[turn])) % 360)
    return best, float(silhouette_iou(masks[[turn]], image.frame(prior.resolution)[1][None]))


def _channels(images: Tensor, masks: Tensor) -> Tensor:
    """Return what is compared, 0 on the background: [B, 4, R, R] of images over white and masks."""
    return torch.cat([COLOR * (1 - images), masks], dim=-1).permute(0, 3, 1, 2)


def _report(place: PlacedImage, agreement: float) -> None:
    text = f"images.{place.label}: taken as seen from an azimuth of {place.azimuth_deg:.0f} degrees"
    if agreement < DOUBTFUL:
        problem = f"its silhouette and what the prior expects there have an IoU of only {agreement:.2f}"
        log.warning("%s, but %s; is it the same object, and is the label right?", text, problem)
    else:
        log.info("%s (silhouette's IoU with what the prior expects there: %.2f)", text, agreement)
