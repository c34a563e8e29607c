"""Views by ImageDream and MVDream: four cameras around the object in its canonical frame, plus any input image."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from liftstudio.core.ranges import Range
from liftstudio.core.registry import register
from liftstudio.data.cameras import Cameras, Distance, FovDeg, orbit_cameras
from liftstudio.data.orbits import Angles, ElevationDeg
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.input_image import InputImage
from liftstudio.views.prior_views import GeneratedViews, PriorViews

from .conditioning import VIEWS, WORLD_SCALE

FOV_DEG = 47.5  # in the middle of what ImageDream was trained on
HALF_VIEW = 3.6 * math.tan(math.radians(33.8 / 2))  # half the side of a view, world units: as of other methods
MVDREAM_HALF_VIEW = 0.9 * WORLD_SCALE  # in the middle of what MVDream was trained on


def _distance(half_view: float) -> float:
    """Return the cameras' distance from the object's centre, world units."""
    return half_view / math.tan(math.radians(FOV_DEG / 2))


DISTANCE, MVDREAM_DISTANCE = _distance(HALF_VIEW), _distance(MVDREAM_HALF_VIEW)


class FourViews(GeneratedViews):
    """Front, left, back and right view of an object, sampled together by DDIM with classifier-free guidance.

    The front is at azimuth 0, which is on +x; left and right are the object's own.
    """

    @dataclass
    class Config(GeneratedViews.Config):
        distance: Distance = DISTANCE  # of the cameras, world units: 1.4 times the object's longest side
        fov_deg: FovDeg = FOV_DEG  # field of view of the cameras

    config: Config

    def angles(self) -> Angles:
        """Return azimuths 0, 90, 180, 270 at one elevation, degrees."""
        azimuth_deg = 360 / VIEWS * torch.arange(VIEWS)
        return azimuth_deg, torch.full_like(azimuth_deg, self.elevation_deg)


@register("imagedream-views")
class ImageDreamViews(FourViews, PriorViews):
    """Front, left, back and right view of the object in an image, sampled as ImageDream does, plus the image itself.

    After Wang & Shi 2023, "ImageDream".
    """

    @dataclass
    class Config(FourViews.Config, PriorViews.Config):
        elevation_deg: ElevationDeg | Literal["auto"] = "auto"  # of the input image's camera and the four views
        azimuth_deg: Annotated[float, Range(-180, 360)] = 0.0  # of the input image's camera, from the object's front

    config: Config

    def assemble(self, images: Tensor, masks: Tensor, picture: InputImage) -> ReferenceViews:
        """Return the four views, then the input image."""
        return self.with_input_image(super().assemble(images, masks, picture), picture)

    def _input_view(self) -> None:
        """Return None: the input image is added to the four views, not one of them."""

    def _input_camera(self, size: int) -> Cameras:
        angles = torch.tensor([self.config.azimuth_deg]), torch.tensor([self.elevation_deg])
        return orbit_cameras(*angles, self.config.distance, self.config.fov_deg, size, size)


@register("mvdream-views")
class MVDreamViews(FourViews):
    """Front, left, back and right view of the object that the prior's prompt describes, sampled as MVDream does.

    After Shi et al. 2023, "MVDream". There is no input image.
    """

    @dataclass
    class Config(FourViews.Config):
        elevation_deg: ElevationDeg = 15.0  # of the four views
        distance: Distance = MVDREAM_DISTANCE  # of the cameras, world units: twice the object's longest side

    config: Config

    @property
    def elevation_deg(self) -> float:
        """Elevation of the four views, degrees."""
        return self.config.elevation_deg
