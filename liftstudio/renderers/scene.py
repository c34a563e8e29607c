"""The scene that a renderer draws."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from liftstudio.backgrounds.base import Background
    from liftstudio.geometry.base import Geometry
    from liftstudio.lights.base import Light
    from liftstudio.materials.base import Material


class Scene(nn.Module):
    """An object with its material, a light and a background: everything that a stage optimises."""

    def __init__(self, geometry: "Geometry", material: "Material", light: "Light", background: "Background") -> None:
        super().__init__()
        self.geometry = geometry
        self.material = material
        self.light = light
        self.background = background
