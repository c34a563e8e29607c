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
class Place:
    """Where shading happens: world points [N, 3], and the centres [N, 3] of the cameras that see them."""

    points: Tensor
    viewers: Tensor


class Material(Component, nn.Module):
    """What a surface point looks like under a light."""

    kind: ClassVar[str] = "material"
    needs_normals: bool = False  # whether `shade` reads normals of its own, whatever the light
    plain: bool = False  # whether what `update` draws is left out, since a render is compared with pictures

    def update(self, step: int, generator: torch.Generator) -> None:
        """Draw what changes from step to step; called before each training step (0-based, of all stages together)."""

    @abstractmethod
    def albedo(self, features: Tensor) -> Tensor:
        """Light-free colour [N, 3] in [0, 1] from appearance features [N, F]."""

    @abstractmethod
    def shade(self, albedo: Tensor, normals: Tensor, light: Light, place: Place | None = None) -> Shading:
        """Colour under a light; `albedo` [N, 3] may be premultiplied, `normals` [N, 3] are unit or zero.

        place: None where nothing is seen by a camera, as when a texture is baked.
        """
