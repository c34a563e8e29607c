"""The interface of sources of reference views."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from liftstudio.core.registry import Component
from liftstudio.data.reference_views import ReferenceViews


class ViewSource(Component):
    """A source of the reference views of a run."""

    kind: ClassVar[str] = "views"

    @abstractmethod
    def __init__(self, config: Any, *, device: torch.device) -> None:
        """Store the options; nothing is read yet. device: of the networks that make the views."""

    @abstractmethod
    def load(self) -> ReferenceViews:
        """Return the views, on the CPU.

        Raises:
            InputError: the input is missing, invalid or impossible; raised before any long work.
        """

    def check(self) -> None:
        """Check what can be told at once: files that must be there, options that must fit them; nothing is downloaded.

        Raises:
            InputError: a file is missing or unreadable, or an option does not fit it.
        """

    def truth_mesh(self) -> Path | None:
        """Return the file of the ground-truth mesh, in the data's own world, or None if there is none."""
        return None

    def data_from_world(self) -> Tensor:
        """Return the [4, 4] float64 similarity from the world of the views' cameras to the data's own."""
        return torch.eye(4, dtype=torch.float64)
