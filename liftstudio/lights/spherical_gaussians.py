"""Light as a sum of spherical Gaussians."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.checks import check_range
from liftstudio.lights.base import Light
from liftstudio.ops.spherical_gaussians import irradiance
from liftstudio.registry import register


@register("spherical-gaussians")
class SphericalGaussians(Light):
    """White light as a sum of spherical Gaussians fixed to the world (SV3D, section 4.1)."""

    @dataclass
    class Config(Light.Config):
        lobes: int = 24  # number of Gaussians, spread evenly over the sphere at the start
        sharpness: float = 8.0  # initial sharpness of every lobe

        def __post_init__(self) -> None:
            check_range("lobes", self.lobes, 1, 4096)
            check_range("sharpness", self.sharpness, 1e-3, 1e3)

    def __init__(self, config: Config) -> None:
        super().__init__()
        # K even lobes of amplitude a and sharpness s give irradiance K * 1.082 * a / (2 s): start at 1.
        amplitude = 2 * config.sharpness / (1.082 * config.lobes)
        self.axes = nn.Parameter(fibonacci_sphere(config.lobes))
        self.raw_sharpness = nn.Parameter(torch.full((config.lobes,), _inverse_softplus(config.sharpness)))
        self.raw_amplitude = nn.Parameter(torch.full((config.lobes,), _inverse_softplus(amplitude)))

    def irradiance(self, normals: Tensor) -> Tensor:
        """Irradiance [N, 1] >= 0 at unit world-space normals [N, 3]."""
        axes = F.normalize(self.axes, dim=-1)
        return irradiance(normals, axes, F.softplus(self.raw_sharpness), F.softplus(self.raw_amplitude))


def fibonacci_sphere(count: int) -> Tensor:
    """[count, 3] unit vectors spread evenly over the sphere."""
    index = torch.arange(count) + 0.5
    z = 1 - 2 * index / count
    longitude = index * math.pi * (1 + math.sqrt(5))
    ring = torch.sqrt(1 - z**2)
    return torch.stack([ring * torch.cos(longitude), ring * torch.sin(longitude), z], dim=-1)


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
