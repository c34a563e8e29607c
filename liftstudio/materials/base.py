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
    """Shaded points: albedo [N, 3] and rgb [N, 3] in display space, about [0, 1]; irradiance [N, 1]."""

    albedo: Tensor
    irradiance: Tensor
    rgb: Tensor


@dataclass(frozen=True)
class ShadingPoints:
    """Points to shade [N, 3] in world space, and the centres [N, 3] of the cameras that see them."""

    points: Tensor
    viewers: Tensor


@dataclass(frozen=True)
class RandomShading:
    """Random shading of one training step: a point light near each camera (Poole et al. 2022, sec. 3.1).

    strength:       fraction of the shading that is due to the point light, in [0, 1).
    is_textureless: whether the albedo is white.
    offset:         added to the camera's centre to give the direction of the light from the origin, world units.
    distance:       of the light from the origin, world units.
    """

    strength: float
    is_textureless: bool
    offset: tuple[float, float, float]
    distance: float


class Material(Component, nn.Module):
    """The appearance of surface points under a light."""

    kind: ClassVar[str] = "material"
    needs_normals: bool = False  # whether `shade` needs normals even if the light does not

    def draw_shading(self, step: int, generator: torch.Generator) -> RandomShading | None:
        """Random shading of a training step (0-based, counted over all stages); None: shading as in test and export.

        Called once per training step.
        """
        return None

    @abstractmethod
    def albedo(self, features: Tensor, shading: RandomShading | None = None) -> Tensor:
        """Albedo (colour without light) [N, 3] in [0, 1] from appearance features [N, F]."""

    @abstractmethod
    def shade(
        self,
        albedo: Tensor,
        normals: Tensor,
        light: Light,
        at: ShadingPoints | None = None,
        shading: RandomShading | None = None,
    ) -> Shading:
        """Colour under a light; `albedo` [N, 3] may be premultiplied by opacity, `normals` [N, 3] are unit or zero.

        at: None where there is no camera, as in texture baking; `shading` is then ignored.
        """
