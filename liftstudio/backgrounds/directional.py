"""Background with a learned colour for every direction."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.backgrounds.base import Background
from liftstudio.core.ranges import NonNegativeInt, PositiveInt
from liftstudio.core.registry import register
from liftstudio.ops.mlp import mlp


@register("directional")
class Directional(Background):
    """Learned colour by direction: spherical harmonics up to degree 2, followed by a small network."""

    @dataclass
    class Config(Background.Config):
        hidden: PositiveInt = 16  # width of the network's hidden layers
        layers: NonNegativeInt = 2  # hidden layers

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.network = mlp(9, config.hidden, config.layers, 3)

    def color(self, directions: Tensor) -> Tensor:
        """Colour (sRGB) [..., 3] in (0, 1) along unit directions [..., 3]."""
        return torch.sigmoid(self.network(spherical_harmonics(directions)))


def spherical_harmonics(directions: Tensor) -> Tensor:
    """Real orthonormal spherical harmonics [..., 9] of degrees 0 to 2 at unit directions [..., 3].

    Ramamoorthi & Hanrahan 2001, "An Efficient Representation for Irradiance Environment Maps", eq. 3.
    """
    x, y, z = directions.unbind(-1)
    values = [
        torch.full_like(x, 0.5 * math.sqrt(1 / math.pi)),
        *(math.sqrt(3 / (4 * math.pi)) * axis for axis in (y, z, x)),
        *(0.5 * math.sqrt(15 / math.pi) * product for product in (x * y, y * z)),
        0.25 * math.sqrt(5 / math.pi) * (3 * z * z - 1),
        0.5 * math.sqrt(15 / math.pi) * x * z,
        0.25 * math.sqrt(15 / math.pi) * (x * x - y * y),
    ]
    return torch.stack(values, dim=-1)
