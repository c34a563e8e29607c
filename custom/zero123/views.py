"""Zero-1-to-3's views: cameras relative to the input image's, and the input image."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength
from liftstudio.core.registry import register
from liftstudio.data.orbits import Angles, ElevationDeg
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.base import NoisyViews, Prior
from liftstudio.views.input_image import InputImage
from liftstudio.views.prior_views import SAME_ANGLE_DEG, PriorViews


@register("zero123-views")
class Zero123Views(PriorViews):
    """Views at any relative cameras, each sampled from the input image alone; the input image is the last view.

    After Liu et al. 2023, "Zero-1-to-3": DDIM steps with classifier-free guidance. The views need not be consistent.
    """

    @dataclass
    class Config(PriorViews.Config):
        azimuths_deg: Annotated[list[float], MinLength(1)] = field(
            default_factory=lambda: [90.0, 180.0, 270.0]
        )  # azimuths of the views, relative to the input image
        elevations_deg: list[ElevationDeg] = field(default_factory=list)  # one per azimuth; none: the input image's

        def __post_init__(self) -> None:
            super().__post_init__()
            if len(self.elevations_deg) not in (0, len(self.azimuths_deg)):
                raise InputError("elevations_deg: expected as many as azimuths_deg, or none for the input image's")
            azimuth_deg, *others = self.azimuths_deg
            turn_deg, rise_deg = abs((azimuth_deg + 180) % 360 - 180), 0.0
            if self.elevations_deg:
                rise_deg = 90.0 if self.elevation_deg == "auto" else abs(self.elevations_deg[0] - self.elevation_deg)
            if not others and max(turn_deg, rise_deg) < SAME_ANGLE_DEG:
                raise InputError("azimuths_deg: the only view is the input image's own; expected one from another side")

    config: Config

    def angles(self) -> Angles:
        """Return the angles that the options give."""
        config = self.config
        elevations_deg = config.elevations_deg or [self.elevation_deg] * len(config.azimuths_deg)
        return torch.tensor(config.azimuths_deg), torch.tensor(elevations_deg)

    def estimate(self, prior: Prior, noisy: NoisyViews[Any]) -> Tensor:
        """Denoise each view independently; see `denoise_alone`."""
        return denoise_alone(prior, noisy)

    def assemble(self, images: Tensor, masks: Tensor, picture: InputImage) -> ReferenceViews:
        """Return the generated views, then the input image."""
        return self.with_input_image(super().assemble(images, masks, picture), picture)


def denoise_alone(prior: Prior, noisy: NoisyViews[Any]) -> Tensor:
    """Denoise each view independently, even with a prior that makes several views consistent; see `Prior.denoise`."""
    return torch.cat([prior.denoise(noisy[view : view + 1]) for view in range(len(noisy))])
