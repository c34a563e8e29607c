"""The interface of what makes the reference views of a run."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from liftstudio.core.registry import Component
from liftstudio.data.reference_views import ReferenceViews


class ViewSource(Component):
    """Makes the reference views of a run."""

    kind: ClassVar[str] = "views"

    @abstractmethod
    def __init__(self, config: Any, *, device: torch.device) -> None:
        """Nothing is read yet. device: for networks that make the views."""

    @abstractmethod
    def load(self) -> ReferenceViews:
        """The views, on the CPU.

        Raises:
            InputError: the input is missing, faulty or impossible; before any long work.
        """

    def truth_mesh(self) -> Path | None:
        """The file of the object's true surface, in the data's own world, where it is known."""
        return None

    def data_from_world(self) -> Tensor:
        """[4, 4] float32 similarity from the world of the views' cameras to the data's own."""
        return torch.eye(4)
