"""The interface of all guidance."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from liftstudio.core.ranges import NonNegativeInt
from liftstudio.core.registry import Component
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras
from liftstudio.data.render import Render


class Guidance(Component):
    """A source of cameras plus losses on their renders."""

    kind: ClassVar[str] = "guidance"
    compares_pictures: ClassVar[bool] = False  # whether it holds renders against pictures: no random shading then

    @dataclass
    class Config:
        start: NonNegativeInt = 0  # first step of the stage in which this guidance is active

    config: Config

    @abstractmethod
    def cameras(self, step: int, generator: torch.Generator) -> Cameras:
        """The views wanted at this step (0-based in the stage)."""

    @abstractmethod
    def losses(self, render: Render, step: int) -> dict[str, Tensor]:
        """Named scalar losses of the render of the last `cameras`; only those whose weight is not 0."""

    def passes(self) -> frozenset[str]:
        """The optional render passes that `losses` reads."""
        return frozenset()

    def figures(self) -> dict[str, float]:
        """Numbers about the last `losses` that are no losses, for the log."""
        return {}

    def state(self) -> dict[str, Any]:
        """What it keeps between steps, for the checkpoint: nested dicts and lists of tensors and numbers."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; the tensors may be on another device."""

    def weight(self, name: str, step: int) -> float:
        """The value of `lambda_<name>` at a step."""
        schedule: Schedule = getattr(self.config, f"lambda_{name}")
        return schedule(step)

    def is_used(self, name: str) -> bool:
        """Whether `lambda_<name>` is ever other than 0."""
        schedule: Schedule = getattr(self.config, f"lambda_{name}")
        return not schedule.is_zero()
