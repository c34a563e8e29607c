"""Light as a sum of spherical Gaussians."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.ranges import NonNegativeFloat, Range
from liftstudio.core.registry import register
from liftstudio.data.directions import fibonacci_sphere
from liftstudio.lights.base import Light
from liftstudio.ops.spherical_gaussians import irradiance

DIRECTIONS = 512  # candidates for the brightest direction


@register("spherical-gaussians")
class SphericalGaussians(Light):
    """White light as a sum of spherical Gaussians fixed to the world (SV3D, section 4.1)."""

    @dataclass
    class Config(Light.Config):
        lobes: Annotated[int, Range(1, 4096)] = 24  # number of Gaussians, initially spread evenly over the sphere
        sharpness: Annotated[float, Range(1e-3, 1e3)] = 8.0  # initial sharpness of every lobe
        brightest: NonNegativeFloat = 0.0  # fixed irradiance of the brightest direction (images leave it open); 0: free

    directions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("directions", fibonacci_sphere(DIRECTIONS), persistent=False)
        # K evenly spread lobes of amplitude a and sharpness s give irradiance K * 1.082 * a / (2 s): start at 1.
        amplitude = 2 * config.sharpness / (1.082 * config.lobes)
        self.axes = nn.Parameter(fibonacci_sphere(config.lobes))
        self.raw_sharpness = nn.Parameter(torch.full((config.lobes,), _inverse_softplus(config.sharpness)))
        self.raw_amplitude = nn.Parameter(torch.full((config.lobes,), _inverse_softplus(amplitude)))

    def irradiance(self, normals: Tensor) -> Tensor:
        """Irradiance [N, 1] >= 0 at unit world-space normals [N, 3]."""
        return self._sum(normals) * self._scale()

    def lobes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The Gaussians of the radiance: unit axes [K, 3], sharpness [K] and amplitude [K]."""
        amplitude = F.softplus(self.raw_amplitude) * self._scale()
        return F.normalize(self.axes, dim=-1), F.softplus(self.raw_sharpness), amplitude

    def _scale(self) -> Tensor | float:
        if self.config.brightest == 0:
            return 1.0
        # No gradient: a lobe that no surface faces must not grow to dim the others.
        return self.config.brightest / self._sum(self.directions).amax().detach().clamp_min(1e-6)

    def _sum(self, normals: Tensor) -> Tensor:
        axes = F.normalize(self.axes, dim=-1)
        return irradiance(normals, axes, F.softplus(self.raw_sharpness), F.softplus(self.raw_amplitude))


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
