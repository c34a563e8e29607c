"""Background of a single colour."""

from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.backgrounds.base import Background
from liftstudio.core.ranges import UnitFloat
from liftstudio.core.registry import register


@register("solid-color")
class SolidColor(Background):
    """The same fixed colour in all directions."""

    @dataclass
    class Config(Background.Config):
        color: tuple[UnitFloat, UnitFloat, UnitFloat] = (1.0, 1.0, 1.0)  # sRGB

    rgb: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.register_buffer("rgb", torch.tensor(config.color))

    def color(self, directions: Tensor) -> Tensor:
        """The option's colour (sRGB), expanded to the shape of `directions` [..., 3]."""
        return self.rgb.expand_as(directions)
