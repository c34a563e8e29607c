"""SV3D's views: a closed orbit that ends at the input image."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from liftstudio.core.ranges import Range
from liftstudio.core.registry import register
from liftstudio.data import orbits
from liftstudio.priors.base import Prior
from liftstudio.priors.classifier_free import GuidanceScale
from liftstudio.views.prior_views import PriorViews

from .denoising import triangle


@dataclass
class OrbitConfig:
    type: Literal["static", "sine", "dynamic"] = "sine"  # elevation: constant, one sine wave, or random sinusoids
    frames: Annotated[int, Range(2)] = 21  # number of views; the last is the input image itself
    amplitude_deg: float = 30.0  # largest deviation from the input image's elevation; for sine and dynamic
    azimuth_jitter_deg: float = 0.0  # largest random shift of azimuths, below half a step; for dynamic

    def angles(self, elevation_deg: float, seed: int) -> orbits.Angles:
        """Return (azimuth_deg [T], elevation_deg [T]), from one step after the input view to that view.

        Raises:
            InputError: elevations beyond +-89 degrees, or a too large jitter.
        """
        if self.type == "dynamic":
            generator = torch.Generator().manual_seed(seed)
            return orbits.dynamic(self.frames, elevation_deg, self.amplitude_deg, generator, self.azimuth_jitter_deg)
        return orbits.sine(self.frames, elevation_deg, self.amplitude_deg if self.type == "sine" else 0.0)


@register("sv3d-views")
class SV3DViews(PriorViews):
    """Views on an orbit around the object in an input image, sampled from a prior as SV3D does.

    After Voleti et al. 2024, "SV3D": Euler steps on the noise levels of Karras et al., classifier-free guidance that
    rises from 1 at the input image to its peak behind the object (the released sampler), and the sine orbit of sec. 4.
    """

    @dataclass
    class Config(PriorViews.Config):
        orbit: OrbitConfig = field(default_factory=OrbitConfig)  # cameras of the views
        guidance_scale: GuidanceScale = 0.0  # opposite the input image, falling to 1 at it; 0: the prior's default

        def __post_init__(self) -> None:
            super().__post_init__()
            self.orbit.angles(0.0 if self.elevation_deg == "auto" else self.elevation_deg, self.seed)

    config: Config

    def angles(self) -> orbits.Angles:
        """Return the orbit's azimuths and elevations."""
        return self.config.orbit.angles(self.elevation_deg, self.config.seed)

    def guidance_scales(self, prior: Prior, count: int) -> Tensor:
        """Return guidance scales that are least at the input image and highest opposite; see `triangle`."""
        return triangle(count, most=self.config.guidance_scale or prior.guidance_scale)
