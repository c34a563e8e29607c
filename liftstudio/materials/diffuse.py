"""Lambertian material."""

import torch
from torch import Tensor

from liftstudio.core.registry import register
from liftstudio.lights.base import Light
from liftstudio.materials.base import Material, RandomShading, Shading, ShadingPoints


@register("diffuse")
class Diffuse(Material):
    """Lambertian: colour = albedo x irradiance, in display space with white light (SV3D, section 4)."""

    def __init__(self, config: Material.Config) -> None:
        super().__init__()

    def albedo(self, features: Tensor, shading: RandomShading | None = None) -> Tensor:
        """Albedo (sRGB) [N, 3] in [0, 1]: the sigmoid of the first three features [N, F]."""
        return torch.sigmoid(features[:, :3])

    def shade(
        self,
        albedo: Tensor,
        normals: Tensor,
        light: Light,
        at: ShadingPoints | None = None,
        shading: RandomShading | None = None,
    ) -> Shading:
        """Albedo [N, 3] times the irradiance [N, 1] at the normals [N, 3]."""
        irradiance = light.irradiance(normals)
        return Shading(albedo, irradiance, albedo * irradiance)
