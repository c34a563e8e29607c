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
from liftstudio.materials.base import Material, Place, Shading
from liftstudio.materials.diffuse import Diffuse

SHADED = Schedule(((0.0, 0.0), (5000.0, 0.0), (5001.0, 0.75)))  # ImageDream's: from then on three steps of four
LENGTH = 1.8  # of an object's longest side here, world units; in ImageDream's world it is 1

ShadedShare = Annotated[Schedule, Range(0, 1)]


@register("diffuse-point-light")
class DiffusePointLight(Diffuse):
    """Diffuse, in some training steps also under a random point light near each camera; else the bare albedo.

    After Poole et al. 2022, "DreamFusion", sec. 3.1, in ImageDream's soft form: colour = albedo x light x (1 - s +
    s max(0, n . l)) with s uniform in [0, 1]. l points to a light in the camera's direction, moved by normal noise and
    brought to a random distance from the origin. In some of these steps the albedo is white. What is compared with
    pictures (`plain`), or rendered without gradients (tests, export), is never shaded so.

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
        self.strength, self.is_white = 0.0, False  # of this step's shading: s; whether the albedo is white
        self.offset, self.distance = (0.0, 0.0, 0.0), 1.0  # of this step's light

    def update(self, step: int, generator: torch.Generator) -> None:
        """Draw how this step is shaded, and from where."""
        uniform = torch.rand(4, generator=generator, device=generator.device)
        is_shaded, is_white, strength, distance = uniform.tolist()
        x, y, z = (self.config.spread * torch.randn(3, generator=generator, device=generator.device)).tolist()
        self.strength = strength if is_shaded < self.config.shaded(step) else 0.0
        self.is_white = self.strength > 0 and is_white < self.config.textureless
        least, most = self.config.distance
        self.offset, self.distance = (x, y, z), least + (most - least) * distance

    @property
    def needs_normals(self) -> bool:  # type: ignore[override]  # by the step
        """Whether this render is shaded."""
        return self.strength > 0 and self._varies

    def albedo(self, features: Tensor) -> Tensor:
        """As `diffuse`; white [N, 3] in steps without texture."""
        albedo = super().albedo(features)
        return torch.ones_like(albedo) if self.is_white and self._varies else albedo

    @property
    def _varies(self) -> bool:
        return torch.is_grad_enabled() and not self.plain

    def shade(self, albedo: Tensor, normals: Tensor, light: Light, place: Place | None = None) -> Shading:
        """As `diffuse`; in shaded steps times the point light's share."""
        if place is None or not self.needs_normals:
            return super().shade(albedo, normals, light, place)
        lamps = place.viewers + torch.tensor(self.offset, device=albedo.device)
        directions = F.normalize(self.distance * F.normalize(lamps, dim=-1) - place.points.detach(), dim=-1)
        cosine = (normals * directions).sum(-1, keepdim=True).clamp_min(0)
        irradiance = light.irradiance(normals) * (1 - self.strength + self.strength * cosine)
        return Shading(albedo, irradiance, albedo * irradiance)
