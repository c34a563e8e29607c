"""Uniform light from all directions."""

from torch import Tensor

from liftstudio.core.registry import register
from liftstudio.lights.base import Light


@register("uniform")
class Uniform(Light):
    """Constant irradiance 1: the rendered colour is the albedo."""

    needs_normals = False

    def __init__(self, config: Light.Config) -> None:
        super().__init__()

    def irradiance(self, normals: Tensor) -> Tensor:
        """Ones [N, 1] for any normals [N, 3]."""
        return normals.new_ones(len(normals), 1)
