"""Estimate of the elevation from which a picture was taken."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from liftstudio.core.logs import log
from liftstudio.priors.elevation import BOX_SHARE, SIDE, TRAINED_DEG, ElevationEstimator
from liftstudio.views.input_image import InputImage
from liftstudio.views.silhouettes import bounding_box

DOUBTFUL_DEG = 12.0  # expected error from which an estimate is doubtful
END_DEG = 2.0  # estimates this close to the end of the range that the network knows may be of cameras beyond it


class ElevationEstimate(NamedTuple):
    """An estimated elevation above the object's horizon and the error to expect, degrees."""

    elevation_deg: float
    error_deg: float


def estimate_elevation(picture: InputImage, range_deg: tuple[float, float]) -> ElevationEstimate:
    """Return the estimated elevation of a picture's camera, rounded to 0.1 degrees and limited to `range_deg`.

    Further images of the object, which have the same elevation, are used too.

    Logs it; as a warning if it is doubtful, limited, or at the end of what the network knows.

    Raises:
        InputError: the network's weights are missing or damaged.
    """
    frames = torch.stack([box_frame(image) for image in (picture, *(other.image for other in picture.others))])
    found_deg, error_deg = (float(value) for value in ElevationEstimator()(frames))
    limited_deg = min(max(found_deg, range_deg[0]), range_deg[1])
    estimate = ElevationEstimate(round(limited_deg, 1), round(error_deg, 1))
    doubt = _doubt(found_deg, error_deg, range_deg)
    said = f"the input image's elevation is estimated as {estimate.elevation_deg:g} degrees, +-{error_deg:.0f}"
    level = log.warning if doubt else log.info
    level("views: %s%s; to set it by hand: views.elevation_deg=%g", said, doubt, estimate.elevation_deg)
    return estimate


def _doubt(found_deg: float, error_deg: float, range_deg: tuple[float, float]) -> str:
    """Return what is wrong with an estimate, as the continuation of a sentence; empty if nothing is."""
    low, high = range_deg
    if not low <= found_deg <= high:
        return f" (limited, it seems to be {found_deg:.0f}, but the method takes {low:g} to {high:g})"
    low, high = TRAINED_DEG
    if not low + END_DEG <= found_deg <= high - END_DEG:
        return f", at the end of what the estimate knows ({low:g} to {high:g}), and may be beyond it"
    return ", which is doubtful" if error_deg > DOUBTFUL_DEG else ""


def box_frame(picture: InputImage) -> Tensor:
    """Return a picture framed by its object's box as the network sees it: [SIDE, SIDE, 4] rgb over white, and alpha."""
    box = bounding_box(picture.alpha)
    assert box is not None, "an input image shows something"
    left, top, right, bottom = box
    side = max(right - left, bottom - top) / BOX_SHARE
    square = replace(picture, left=(left + right - side) / 2, top=(top + bottom - side) / 2, side=side)
    return torch.cat(square.frame(SIDE), dim=-1)
