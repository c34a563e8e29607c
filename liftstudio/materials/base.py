"""The interface of all materials."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from liftstudio.lights.base import Light
from liftstudio.registry import Component


@dataclass(frozen=True)
class Shading:
    """albedo [N, 3] and rgb [N, 3] in [0, 1]-ish display space, irradiance [N, 1]."""

    albedo: Tensor
    irradiance: Tensor
    rgb: Tensor


class Material(Component, nn.Module):
    """What a surface point looks like under a light."""

    kind: ClassVar[str] = "material"

    @abstractmethod
    def albedo(self, features: Tensor) -> Tensor:
        """Light-free colour [N, 3] in [0, 1] from appearance features [N, F]."""

    @abstractmethod
    def shade(self, albedo: Tensor, normals: Tensor, light: Light) -> Shading:
        """Colour under a light; `albedo` [N, 3] may be premultiplied, `normals` [N, 3] are unit or zero."""
