"""The interface of all lights."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from liftstudio.core.registry import Component


class Light(Component, nn.Module):
    """Light that depends on the surface normal alone; white where it is fitted."""

    kind: ClassVar[str] = "light"
    needs_normals: ClassVar[bool] = True

    @abstractmethod
    def irradiance(self, normals: Tensor) -> Tensor:
        """Irradiance [N, 1] at unit world-space normals [N, 3]; 1 leaves the albedo unchanged. Coloured: [N, 3]."""
