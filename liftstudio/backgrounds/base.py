"""The interface of all backgrounds."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from liftstudio.core.registry import Component


class Background(Component, nn.Module):
    """What is seen where the object is not."""

    kind: ClassVar[str] = "background"

    @abstractmethod
    def color(self, directions: Tensor) -> Tensor:
        """sRGB [..., 3] in [0, 1] along unit world-space directions [..., 3]."""
