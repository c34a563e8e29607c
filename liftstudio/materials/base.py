"""The interface of all materials."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from liftstudio.core.registry import Component
from liftstudio.lights.base import Light


@dataclass(frozen=True)
class Shading:
    """albedo [N, 3] and rgb [N, 3] in [0, 1]-ish display space, irradiance [N, 1]."""

    albedo: Tensor
    irradiance: Tensor
    rgb: Tensor


@dataclass(frozen=True)
class ShadingPoints:
    """Where shading happens: world points [N, 3], and the centres [N, 3] of the cameras that see them."""

    points: Tensor
    viewers: Tensor


@dataclass(frozen=True)
class RandomShading:
    """How one training step is shaded: under a point light near each camera (Poole et al. 2022, sec. 3.1).

    strength:       share of the point light in the shading, in [0, 1).
    is_textureless: whether the albedo is white.
    offset:         from the camera's centre, world units: the light is in the direction of where that leads.
    distance:       of the light from the origin, world units.
    """

    strength: float
    is_textureless: bool
    offset: tuple[float, float, float]
    distance: float


class Material(Component, nn.Module):
    """What a surface point looks like under a light."""

    kind: ClassVar[str] = "material"
    needs_normals: bool = False  # whether `shade` reads normals of its own, whatever the light

    def draw_shading(self, step: int, generator: torch.Generator) -> RandomShading | None:
        """How a training step (0-based, of all stages together) is shaded at random; None: as in tests and export.

        Called once in each training step.
        """
        return None

    @abstractmethod
    def albedo(self, features: Tensor, shading: RandomShading | None = None) -> Tensor:
        """Light-free colour [N, 3] in [0, 1] from appearance features [N, F]."""

    @abstractmethod
    def shade(
        self,
        albedo: Tensor,
        normals: Tensor,
        light: Light,
        at: ShadingPoints | None = None,
        shading: RandomShading | None = None,
    ) -> Shading:
        """Colour under a light; `albedo` [N, 3] may be premultiplied, `normals` [N, 3] are unit or zero.

        at: None where nothing is seen by a camera, as when a texture is baked; then there is no random shading.
        """
