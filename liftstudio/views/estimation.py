"""Plug-ins that estimate depth and normals of reference views, for the losses that compare with them."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from liftstudio.registry import Component
from liftstudio.views.base import ReferenceViews


class MapEstimator(Component):
    """Estimates what reference views have no pictures of: how far their surface is, and which way it faces."""

    kind: ClassVar[str] = "map-estimator"

    @abstractmethod
    def __init__(self, config: Any, *, device: torch.device) -> None:
        """Load the networks.

        Raises:
            InputError: the options or the files are refused.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """All that decides the result beside the views, as plain data: its options, and digests of its files."""

    @abstractmethod
    def maps(self, views: ReferenceViews) -> dict[str, Tensor]:
        """`depths` [V, H, W, 1], `normals` [V, H, W, 3] or both, as `ReferenceViews` has them, on the CPU."""
