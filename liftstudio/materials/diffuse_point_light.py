"""Lambertian surfaces that training lights from random points, so that shape shows in the shading."""

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

SHADED = Schedule(((0.0, 0.0), (5000.0, 0.0), (5001.0, 0.75)))  # ImageDream's: from then on three steps of four
LENGTH = 1.8  # of an object's longest side here, world units; in ImageDream's world it is 1

ShadedShare = Annotated[Schedule, Range(0, 1)]


@register("diffuse-point-light")
class DiffusePointLight(Diffuse):
    """Diffuse, in some training steps also under a random point light near each camera; else the bare albedo.

    After Poole et al. 2022, "DreamFusion", sec. 3.1, in ImageDream's soft form: colour = albedo x light x (1 - s +
    s max(0, n . l)) with s uniform in [0, 1]. l points to a light in the camera's direction, moved by normal noise and
    brought to a random distance from the origin. In some of these steps the albedo is white.

    Defaults are those of ImageDream's released configuration, its lengths (1; 0.8 to 1.5) times `LENGTH`: world units.
    """

    @dataclass
    class Config(Material.Config):
        shaded: ShadedShare = field(default_factory=lambda: SHADED)  # share that is shaded, by the step of all stages
        textureless: UnitFloat = 0.5  # share of the shaded steps in which the albedo is white
        spread: NonNegativeFloat = LENGTH  # standard deviation of the light's place about the camera's, along each axis
        distance: tuple[Distance, Distance] = (0.8 * LENGTH, 1.5 * LENGTH)  # least and most, light to origin

        def __post_init__(self) -> None:
            check_pair("distance", self.distance)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def draw_shading(self, step: int, generator: torch.Generator) -> RandomShading | None:
        """Whether a step is shaded, how much, with or without texture, and from where."""
        uniform = torch.rand(4, generator=generator, device=generator.device)
        is_shaded, is_textureless, strength, distance = uniform.tolist()
        x, y, z = (self.config.spread * torch.randn(3, generator=generator, device=generator.device)).tolist()
        if is_shaded >= self.config.shaded(step):
            return None
        least, most = self.config.distance
        return RandomShading(
            strength, is_textureless < self.config.textureless, (x, y, z), least + (most - least) * distance
        )

    def albedo(self, features: Tensor, shading: RandomShading | None = None) -> Tensor:
        """As `diffuse`; white [N, 3] in steps without texture."""
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
        """As `diffuse`; in shaded steps times the point light's share."""
        if at is None or shading is None:
            return super().shade(albedo, normals, light)
        lamps = at.viewers + torch.tensor(shading.offset, device=albedo.device)
        directions = F.normalize(shading.distance * F.normalize(lamps, dim=-1) - at.points.detach(), dim=-1)
        cosine = (normals * directions).sum(-1, keepdim=True).clamp_min(0)
        irradiance = light.irradiance(normals) * (1 - shading.strength + shading.strength * cosine)
        return Shading(albedo, irradiance, albedo * irradiance)
