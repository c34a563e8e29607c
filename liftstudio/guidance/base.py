"""The interface of all guidance."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from liftstudio.core.ranges import NonNegativeInt
from liftstudio.core.registry import Component
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras
from liftstudio.data.render import Render


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a guidance requests to be rendered at a step; subclasses add what else was drawn for the losses.

    step:    step of the stage, 0-based.
    cameras: B cameras.
    passes:  the optional render passes that the losses need (see `data.render.PASSES`).
    moves_shape: whether the losses change the shape of a surface geometry, or only its appearance.
    """

    step: int
    cameras: Cameras
    passes: frozenset[str] = frozenset()
    moves_shape: bool = True


RequestType = TypeVar("RequestType", bound=Request)


class Guidance(Component, Generic[RequestType]):
    """A source of cameras plus losses on their renders."""

    kind: ClassVar[str] = "guidance"
    compares_pictures: ClassVar[bool] = False  # whether it compares renders with images: no random shading then

    @dataclass
    class Config:
        start: NonNegativeInt = 0  # first step of the stage in which this guidance is active

    config: Config

    @abstractmethod
    def request(self, step: int, generator: torch.Generator) -> RequestType:
        """Return what to render at a step (0-based in the stage); all random draws of the step are made here."""

    @abstractmethod
    def losses(self, request: RequestType, render: Render) -> dict[str, Tensor]:
        """Return the named scalar losses of the render of a request; only those whose weight is not 0."""

    def metrics(self) -> dict[str, float]:
        """Return further figures about the last call of `losses`, for the log."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what is kept between steps, for the checkpoint: nested dicts and lists of tensors and numbers."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned; the tensors may be on another device."""

    def weight(self, name: str, step: int) -> float:
        """Return the value of `lambda_<name>` at a step."""
        schedule: Schedule = getattr(self.config, f"lambda_{name}")
        return schedule(step)

    def is_used(self, name: str) -> bool:
        """Return whether `lambda_<name>` is not 0 at some step."""
        schedule: Schedule = getattr(self.config, f"lambda_{name}")
        return not schedule.is_zero()
