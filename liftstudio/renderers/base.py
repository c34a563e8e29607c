"""The interface of all renderers."""

from abc import abstractmethod
from collections.abc import Set
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import nn

from liftstudio.core.ranges import Range
from liftstudio.core.registry import Component
from liftstudio.core.shares import OrShare
from liftstudio.data.cameras import Cameras
from liftstudio.data.render import Render
from liftstudio.materials.base import RandomShading

if TYPE_CHECKING:
    from liftstudio.renderers.scene import Scene

SamplesAcross = Annotated[int, Range(2), OrShare()]


class Renderer(Component, nn.Module):
    """Renders a scene."""

    kind: ClassVar[str] = "renderer"

    @abstractmethod
    def render(
        self,
        scene: "Scene",
        cameras: Cameras,
        *,
        passes: Set[str] = frozenset(),
        generator: torch.Generator | None = None,
        shading: RandomShading | None = None,
    ) -> Render:
        """Render the scene; `passes` names the optional images to return (see `data.render.PASSES`).

        generator: random source for sample positions in training; None: samples are not jittered.
        shading: random shading of a training step; None for renders that are compared with images or shown.
        """

    def update(self, scene: "Scene", step: int, generator: torch.Generator) -> None:
        """Refresh the state that the renderer keeps about the scene; called before each training step."""
