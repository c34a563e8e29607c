"""ImageDream's and MVDream's views: four cameras around the object in its canonical frame; with the picture."""

import math
from dataclasses import dataclass
from typing import Annotated

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
HALF_VIEW = 3.6 * math.tan(math.radians(33.8 / 2))  # world units, half of what a view shows: as elsewhere
MVDREAM_HALF_VIEW = 0.9 * WORLD_SCALE  # in the middle of what MVDream was trained on


def _distance(half_view: float) -> float:
    """Of the cameras from the object's centre, world units."""
    return half_view / math.tan(math.radians(FOV_DEG / 2))


DISTANCE, MVDREAM_DISTANCE = _distance(HALF_VIEW), _distance(MVDREAM_HALF_VIEW)


class FourViews(GeneratedViews):
    """Front, left, back and right of an object, sampled together by DDIM steps with classifier-free guidance.

    The front is at azimuth 0, which is on +x; "left" and "right" are the object's own.
    """

    @dataclass
    class Config(GeneratedViews.Config):
        distance: Distance = DISTANCE  # of the cameras, world units: 1.4 times the object's longest side
        fov_deg: FovDeg = FOV_DEG  # field of view of the cameras

    config: Config

    def angles(self) -> Angles:
        """Azimuths 0, 90, 180, 270 at one elevation."""
        azimuth_deg = 360 / VIEWS * torch.arange(VIEWS)
        return azimuth_deg, torch.full_like(azimuth_deg, self.config.elevation_deg)


@register("imagedream-views")
class ImageDreamViews(FourViews, PriorViews):
    """Front, left, back and right of the object in a picture, sampled as ImageDream does; the picture is one view more.

    After Wang & Shi 2023, "ImageDream".
    """

    @dataclass
    class Config(FourViews.Config, PriorViews.Config):
        elevation_deg: ElevationDeg = 5.0  # of the camera that took the picture, and of the four views
        azimuth_deg: Annotated[float, Range(-180, 360)] = 0.0  # of the picture's camera, from the object's front

    config: Config

    def assemble(self, images: Tensor, masks: Tensor, picture: InputImage) -> ReferenceViews:
        """The four views as the prior made them, then the picture."""
        return self.with_input_image(super().assemble(images, masks, picture), picture)

    def _input_view(self) -> None:
        """None of the four: the picture stands beside what the prior makes of it."""

    def _input_camera(self, size: int) -> Cameras:
        angles = torch.tensor([self.config.azimuth_deg]), torch.tensor([self.config.elevation_deg])
        return orbit_cameras(*angles, self.config.distance, self.config.fov_deg, size, size)


@register("mvdream-views")
class MVDreamViews(FourViews):
    """Front, left, back and right of the object that the prior's prompt describes, sampled as MVDream does.

    After Shi et al. 2023, "MVDream". There is no picture.
    """

    @dataclass
    class Config(FourViews.Config):
        elevation_deg: ElevationDeg = 15.0  # of the four views
        distance: Distance = MVDREAM_DISTANCE  # of the cameras, world units: twice the object's longest side

    config: Config
