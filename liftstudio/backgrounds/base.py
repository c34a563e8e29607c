"""The interface of all backgrounds."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from liftstudio.core.registry import Component


class Background(Component, nn.Module):
    """The colour behind the object."""

    kind: ClassVar[str] = "background"

    @abstractmethod
    def color(self, directions: Tensor) -> Tensor:
        """Colour (sRGB) [..., 3] in [0, 1] along unit world-space directions [..., 3]."""
