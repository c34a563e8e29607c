"""Where the object is in an opaque photograph: GrabCut from several starts, and how sure the best of them is.

GrabCut alone (Rother et al. 2004) depends on its start and on five colours a side. So it is run from several: from what
differs from the border along every path to it (minimum barrier distance), and from what has colours that are rare
outside a central box, for boxes of several sizes. Each run sees either the colours or the odds of each pixel's colour,
from histograms of the current mask and of the rest. The mask with the best outline is the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.ops.barrier_distance import barrier_distance

SIDE = 240  # pixels along the longer side of the picture in which the object is looked for
FINE_SIDE = 400  # along the longer side of the object's surroundings, in which its outline is refined
CENTRAL = (0.92, 0.76, 0.6)  # sides of the central boxes in which an object may be, as shares of the picture's
NEAR_BORDER = 0.95  # share of the picture's sides beyond which is the border
ROUNDS, ITERATIONS = 3, 2  # of fitting the odds, of GrabCut in each
MARGIN = 0.08  # around a mask in which its next outline lies, as a share of its longer side
SURROUNDINGS = 0.35  # the same of what is taken for its background
LEAST_AREA = 60  # pixels of a mask at SIDE
PIECE = 0.1  # share of the largest piece's area; smaller ones are not the object
BINS = (16, 22, 22)  # of Lab histograms
RING = 0.15  # width of the band beside a mask, as a share of the root of its area
FIT = (14.6, -1.8, 10.2, -19.5)  # of separation, raggedness, agreement, and a constant: see `_certainty`
LEAST_CERTAINTY = 0.75  # below it a mask is doubtful
MOST_OF_BORDER = 0.3  # share of the picture's border that an object may take

Floats = NDArray[np.float32]
Bits = NDArray[np.bool_]


class Box(NamedTuple):
    """Pixels from `left`, `top` up to but without `right`, `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    def scaled(self, factor: float) -> "Box":
        """Return the box of an image that is `factor` times as large, rounded outwards."""
        return Box(*(int(v * factor) for v in self[:2]), *(int(np.ceil(v * factor)) for v in self[2:]))

    def grown(self, share: float, height: int, width: int) -> "Box":
        """Return the box with a margin, a share of its longer side and 2 pixels, within an image of the given size."""
        by = int(share * max(self.right - self.left, self.bottom - self.top)) + 2
        return Box(
            max(0, self.left - by), max(0, self.top - by), min(width, self.right + by), min(height, self.bottom + by)
        )

    def mask(self, height: int, width: int) -> Bits:
        """Return [height, width]: whether a pixel is in the box."""
        inside = np.zeros((height, width), bool)
        inside[self.pixels] = True
        return inside

    @property
    def pixels(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Found:
    """The object's mask and how sure it is.

    mask: [h, w], of the whole picture, reduced.  certainty: in [0, 1], the odds that its IoU with the object is 0.9 or
    more, as measured on composed photographs.
    """

    mask: Bits
    certainty: float

    def doubt(self) -> str:
        """Return what is wrong with the mask, in words; empty if it is sure."""
        if (border := _share_of_border(self.mask)) > MOST_OF_BORDER:
            return f"it takes {100 * border:.0f} % of the picture's border"
        at_sides, at_ends = self.mask[:, [0, -1]].any(0), self.mask[[0, -1]].any(1)
        if at_sides.all() or at_ends.all():
            return "it reaches opposite sides of the picture"
        if self.certainty >= LEAST_CERTAINTY:
            return ""
        if (pieces := cv2.connectedComponents(self.mask.astype(np.uint8))[0] - 1) > 2:
            return f"it is in {pieces} pieces"
        if self.mask.mean() < 0.01:
            return f"it takes only {100 * self.mask.mean():.1f} % of the picture"
        return f"its outline is weak (certainty {self.certainty:.2f})"


@dataclass(frozen=True)
class _Picture:
    """A reduced picture. rgb: [h, w, 3] uint8. lab: [h, w, 3]. bins: [h, w], of the histograms. barrier: [h, w]."""

    rgb: NDArray[np.uint8]
    lab: Floats
    bins: NDArray[np.int64]
    barrier: Floats

    @classmethod
    def of(cls, rgb: NDArray[np.uint8]) -> "_Picture":
        lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        barrier = barrier_distance(torch.from_numpy(cv2.bilateralFilter(lab, 9, 15, 5))).numpy()
        return cls(rgb, lab, _bins(_blurred(lab, 0.7)), barrier)

    @property
    def size(self) -> tuple[int, int]:
        return self.rgb.shape[0], self.rgb.shape[1]


def find_object(rgb: Tensor, box: Box | None = None) -> Found | None:
    """Return the object in the middle of a picture [H, W, 3] in [0, 1], or the one in a box; None if nothing is found.

    The mask lies within the box, give or take 3 %. The same picture gives the same mask.
    """
    height, width = rgb.shape[:2]
    around = Box(0, 0, width, height) if box is None else box.grown(SURROUNDINGS, height, width)
    pixels = (rgb[around.pixels] * 255).round().to(torch.uint8).numpy()
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    picture = _Picture.of(_reduced(pixels, scale))
    limit = Box(0, 0, *picture.size[::-1])
    if box is not None:
        shifted = Box(*(v - shift for v, shift in zip(box, around[:2] * 2, strict=True)))
        limit = shifted.scaled(scale).grown(0.03, *picture.size)
    masks = [mask for start in _starts(picture, limit, box) for mask in _grown(picture, *start)]
    masks = [mask for mask in masks if mask.sum() >= LEAST_AREA and not mask.all()]
    if not masks:
        return None
    certainties = [_certainty(picture, mask, masks) for mask in masks]
    best = int(np.argmax(certainties))
    return Found(_placed(_refined(pixels, masks[best]), around, height, width), certainties[best])


def _certainty(picture: _Picture, mask: Bits, masks: list[Bits]) -> float:
    """Return the odds in [0, 1] that a mask shows the object, by a logistic model with FIT's numbers.

    They are lower if it reaches the picture's border, which a background does.
    """
    odds = 1 / (1 + np.exp(-np.dot(FIT, (*_qualities(picture, mask, masks), 1))))
    return float(odds * (1 - _share_of_border(mask)) ** 2)


def _share_of_border(mask: Bits) -> float:
    return float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())


def _qualities(picture: _Picture, mask: Bits, masks: list[Bits]) -> tuple[float, float, float]:
    """Return what speaks for a mask: separation, raggedness and agreement.

    Separation is the mean odds, in [0, 1], by which colours tell the mask from a band around it. Raggedness is the
    logarithm of its outline's length squared over that of a disc of its area. Agreement is the IoU with
    the other masks, the highest third left out.
    """
    area = float(mask.sum())
    inside, beside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 3) for part in (mask, ~mask))
    band = ~mask & (beside <= max(4.0, RING * area**0.5))
    odds = _odds(picture.bins, mask, band)
    outline = float((mask & (inside <= 1.5)).sum())
    agreement = sorted((_iou(mask, other) for other in masks if other is not mask), reverse=True)
    separation = float(odds[mask].mean() + 1 - odds[band].mean()) / 2
    return (
        separation,
        float(np.log(outline**2 / (4 * np.pi * area))),
        agreement[len(agreement) // 3] if agreement else 0.0,
    )


def _iou(one: Bits, other: Bits) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def _starts(picture: _Picture, limit: Box, box: Box | None) -> Iterator[tuple[Bits, Bits, Bits]]:
    """Yield first masks of the object, each with the region in which its first outline must be, and all others.

    The one by barriers may grow to the picture's border, where an object may be cut off.
    """
    size = picture.size
    regions = [limit] if box is not None else [_central(share, *size) for share in CENTRAL]
    region = limit if box is not None else _central(NEAR_BORDER, *size)
    within = region.mask(*size)
    yield _upper(picture.barrier, within), within, limit.mask(*size)
    for region in regions:
        within = region.mask(*size)
        yield _upper(_blurred(_odds(picture.bins, _ellipse(region, *size), ~within), 1.5), within), within, within
    yield within, within, within  # the smallest


def _grown(picture: _Picture, start: Bits, region: Bits, bounds: Bits) -> Iterator[Bits]:
    """Yield the masks that GrabCut makes of a first one, by colours and by their odds; see `_starts`."""
    size = picture.size
    for by_odds in (False, True):
        mask, within, window = start, region, Box(0, 0, *size[::-1])
        for _ in range(ROUNDS):
            image = _shown_odds(picture, mask) if by_odds else picture.rgb
            unsure = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
            labels = np.where(within, unsure, cv2.GC_BGD).astype(np.uint8)[window.pixels]
            cut = np.zeros(size, bool)
            cut[window.pixels] = _grab_cut(image[window.pixels], labels, ITERATIONS)
            if cut.sum() < LEAST_AREA:
                break
            mask = main_part(cut)
            box = _box_of(mask)
            within, window = bounds & box.grown(MARGIN, *size).mask(*size), box.grown(SURROUNDINGS, *size)
        yield mask


def _refined(pixels: NDArray[np.uint8], mask: Bits) -> Bits:
    """Return the mask at the resolution at which its surroundings are FINE_SIDE, the outline moved by GrabCut."""
    around = _box_of(mask).grown(SURROUNDINGS, *mask.shape)
    longer = max(around.right - around.left, around.bottom - around.top)
    scale = min(FINE_SIDE / longer, max(pixels.shape[:2]) / max(mask.shape))
    image = _reduced(pixels, max(mask.shape) * scale / max(pixels.shape[:2]))
    rough = cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    band = 2 * int(np.ceil(scale)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    solid = (rough > 0.5).astype(np.uint8)
    inner, outer = cv2.erode(solid, disc, borderValue=1) > 0, cv2.dilate(solid, disc) > 0
    labels = np.where(solid > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[inner], labels[~outer] = cv2.GC_FGD, cv2.GC_BGD
    window = _box_of(solid > 0).grown(SURROUNDINGS, *solid.shape)
    fine = np.zeros(solid.shape, bool)
    fine[window.pixels] = _grab_cut(image[window.pixels], labels[window.pixels], 1)
    return main_part(fine) if fine.any() else solid > 0


def _placed(mask: Bits, around: Box, height: int, width: int) -> Bits:
    """Return the mask of the whole picture, of which `mask` shows the box `around`, at about the same resolution."""
    scale = mask.shape[1] / (around.right - around.left)
    whole = np.zeros((max(1, round(height * scale)), max(1, round(width * scale))), bool)
    top, left = round(around.top * scale), round(around.left * scale)
    place = whole[top : top + mask.shape[0], left : left + mask.shape[1]]
    place[:] = mask[: place.shape[0], : place.shape[1]]
    return whole


def _grab_cut(image: NDArray[np.uint8], labels: NDArray[np.uint8], iterations: int) -> Bits:
    """Return the object's pixels by GrabCut from first labels; the mask of these if one side is empty."""
    labels, image = np.ascontiguousarray(labels), np.ascontiguousarray(image)
    inside = labels % 2 == 1  # of GC_FGD and GC_PR_FGD
    if inside.all() or not inside.any():
        return inside
    cv2.setRNGSeed(0)  # of the k-means that starts its colour models
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_MASK)
    return labels % 2 == 1


def main_part(mask: Bits) -> Bits:
    """Return the mask without pieces that are small beside its largest."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    return mask & (areas >= PIECE * areas.max())[labels]


def _box_of(mask: Bits) -> Box:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _central(share: float, height: int, width: int) -> Box:
    x, y = int(width * (1 - share) / 2), int(height * (1 - share) / 2)
    return Box(x, y, width - x, height - y)


def _ellipse(box: Box, height: int, width: int) -> Bits:
    """Return the pixels of the ellipse in the middle of a box, with 0.7 of its sides."""
    y, x = np.mgrid[:height, :width]
    across, down = 0.35 * (box.right - box.left), 0.35 * (box.bottom - box.top)
    return ((x - (box.left + box.right) / 2) / across) ** 2 + ((y - (box.top + box.bottom) / 2) / down) ** 2 < 1


def _upper(values: Floats, within: Bits) -> Bits:
    """Return the pixels of a region whose values are in the upper class of Otsu's two."""
    low, high = float(values[within].min()), float(values[within].max())
    levels = (255 * (values - low) / (high - low + 1e-9)).clip(0, 255).astype(np.uint8)
    levels[~within] = 0
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return (levels > threshold) & within


def _bins(lab: Floats) -> NDArray[np.int64]:
    """Return the number of each pixel's bin, [h, w], of a Lab histogram."""
    lightness, a, b = (lab[..., 0] / 6.25, (lab[..., 1] + 66) / 6, (lab[..., 2] + 66) / 6)
    coded = [np.clip(part, 0, count - 1).astype(np.int64) for part, count in zip((lightness, a, b), BINS, strict=True)]
    return (coded[0] * BINS[1] + coded[1]) * BINS[2] + coded[2]


def _histogram(bins: NDArray[np.int64], mask: Bits) -> NDArray[np.float64]:
    """Return the share of each bin among the pixels of a mask, smoothed."""
    from scipy import ndimage  # slow to import

    counts = np.bincount(bins[mask], minlength=int(np.prod(BINS))).astype(np.float64).reshape(BINS)
    smooth = ndimage.gaussian_filter(counts, 0.8, mode="constant").ravel()
    return smooth / max(smooth.sum(), 1e-9)


def _odds(bins: NDArray[np.int64], inside: Bits, outside: Bits) -> Floats:
    """Return the probability [h, w] that a pixel of its colour is of `inside`, if both are as likely."""
    own, other = _histogram(bins, inside), _histogram(bins, outside)
    return (own / (own + other + 2e-6))[bins].astype(np.float32)


def _shown_odds(picture: _Picture, mask: Bits) -> NDArray[np.uint8]:
    """Return an image of three channels in which GrabCut sees the odds, the lightness and one hue."""
    odds = _blurred(_odds(picture.bins, mask, ~mask), 0.7)
    lightness, a, b = np.moveaxis(picture.lab, -1, 0)
    channels = 255 * odds, 1.5 * lightness, 127 + 0.75 * (a + 0.5 * b)
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def _reduced(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _blurred(image: NDArray[np.generic], sigma: float) -> Floats:
    return cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma)
