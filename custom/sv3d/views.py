"""SV3D's views: a closed orbit that ends at the input picture."""

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
    type: Literal["static", "sine", "dynamic"] = "sine"  # elevation: constant, one swing, or random sinusoids
    frames: Annotated[int, Range(2)] = 21  # views; the last is the picture itself
    amplitude_deg: float = 30.0  # largest departure from the picture's elevation; of sine and dynamic orbits
    azimuth_jitter_deg: float = 0.0  # azimuths move by up to this; of dynamic orbits; below half a step

    def angles(self, elevation_deg: float, seed: int) -> orbits.Angles:
        """(azimuth_deg [T], elevation_deg [T]) from one step behind the picture's view to that view.

        Raises:
            InputError: elevations beyond +-89 degrees, or too large a jitter.
        """
        if self.type == "dynamic":
            generator = torch.Generator().manual_seed(seed)
            return orbits.dynamic(self.frames, elevation_deg, self.amplitude_deg, generator, self.azimuth_jitter_deg)
        return orbits.sine(self.frames, elevation_deg, self.amplitude_deg if self.type == "sine" else 0.0)


@register("sv3d-views")
class SV3DViews(PriorViews):
    """An orbit around the object in a picture, sampled from a prior as SV3D does.

    After Voleti et al. 2024, "SV3D": Euler steps on Karras' noise levels, classifier-free guidance that rises from 1 at
    the picture to its peak behind the object (the released sampler), and the sine orbit of sec. 4.
    """

    @dataclass
    class Config(PriorViews.Config):
        orbit: OrbitConfig = field(default_factory=OrbitConfig)  # where the views are
        guidance_scale: GuidanceScale = 0.0  # opposite the picture, falling to 1 at it; 0: what suits the prior

        def __post_init__(self) -> None:
            super().__post_init__()
            self.orbit.angles(self.elevation_deg, self.seed)

    config: Config

    def angles(self) -> orbits.Angles:
        """The orbit's."""
        return self.config.orbit.angles(self.config.elevation_deg, self.config.seed)

    def guidance_scales(self, prior: Prior, count: int) -> Tensor:
        """Least at the picture, most opposite."""
        return triangle(count, most=self.config.guidance_scale or prior.guidance_scale)
