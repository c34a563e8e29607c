"""Lambertian material under random point lights during training, so that the shading reveals the shape."""

from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_pair
from liftstudio.core.ranges import NonNegativeFloat, Range, UnitFloat
from liftstudio.core.registry import register
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Distance
from liftstudio.lights.base import Light
from liftstudio.materials.base import Material, RandomShading, Shading, ShadingPoints
from liftstudio.materials.diffuse import Diffuse

SHADED = Schedule(((0.0, 0.0), (5000.0, 0.0), (5001.0, 0.75)))  # as in ImageDream: after step 5000, three steps in four
LENGTH = 1.8  # longest side of an object, world units; it is 1 in ImageDream

ShadedShare = Annotated[Schedule, Range(0, 1)]


@register("diffuse-point-light")
class DiffusePointLight(Diffuse):
    """As `diffuse`; in some training steps also shaded by a random point light near each camera.

    After Poole et al. 2022, "DreamFusion", sec. 3.1, in ImageDream's soft form: colour = albedo x light x (1 - s +
    s max(0, n . l)) with s uniform in [0, 1]. l points to the light, which lies in the camera's direction plus normal
    noise, at a random distance from the origin. In some of these steps the albedo is white.

    The defaults are those of ImageDream's released configuration, with its lengths (1; 0.8 to 1.5) times `LENGTH`.
    """

    @dataclass
    class Config(Material.Config):
        shaded: ShadedShare = field(default_factory=lambda: SHADED)  # fraction of steps shaded; step over all stages
        textureless: UnitFloat = 0.5  # fraction of the shaded steps in which the albedo is white
        spread: NonNegativeFloat = LENGTH  # standard deviation of the light's offset from the camera, per axis
        distance: tuple[Distance, Distance] = (0.8 * LENGTH, 1.5 * LENGTH)  # minimum and maximum, light to origin

        def __post_init__(self) -> None:
            check_pair("distance", self.distance)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def draw_shading(self, step: int, generator: torch.Generator) -> RandomShading | None:
        """The random shading of a training step; None if the step is not shaded."""
        uniform = torch.rand(4, generator=generator, device=generator.device)
        is_shaded, is_textureless, strength, distance = uniform.tolist()
        x, y, z = (self.config.spread * torch.randn(3, generator=generator, device=generator.device)).tolist()
        if is_shaded >= self.config.shaded(step):
            return None
        nearest, farthest = self.config.distance
        return RandomShading(
            strength, is_textureless < self.config.textureless, (x, y, z), nearest + (farthest - nearest) * distance
        )

    def albedo(self, features: Tensor, shading: RandomShading | None = None) -> Tensor:
        """As in `diffuse` [N, 3]; white in textureless steps."""
        albedo = super().albedo(features)
        return torch.ones_like(albedo) if shading is not None and shading.is_textureless else albedo

    def shade(
        self,
        albedo: Tensor,
        normals: Tensor,
        light: Light,
        at: ShadingPoints | None = None,
        shading: RandomShading | None = None,
    ) -> Shading:
        """As in `diffuse`; in shaded steps multiplied by the shading of the point light."""
        if at is None or shading is None:
            return super().shade(albedo, normals, light)
        lamps = at.viewers + torch.tensor(shading.offset, device=albedo.device)
        directions = F.normalize(shading.distance * F.normalize(lamps, dim=-1) - at.points.detach(), dim=-1)
        cosine = (normals * directions).sum(-1, keepdim=True).clamp_min(0)
        irradiance = light.irradiance(normals) * (1 - shading.strength + shading.strength * cosine)
        return Shading(albedo, irradiance, albedo * irradiance)
