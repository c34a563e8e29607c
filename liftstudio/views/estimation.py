"""Plug-ins that estimate the depth and normals of reference views, for losses that compare against them."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.plug_in import ViewPlugIn


class MapEstimator(ViewPlugIn):
    """Estimates depth and normal maps for reference views that have none."""

    kind: ClassVar[str] = "map-estimator"

    @abstractmethod
    def maps(self, views: ReferenceViews) -> dict[str, Tensor]:
        """Return `depths` [V, H, W, 1], `normals` [V, H, W, 3] or both, as `ReferenceViews` defines them, on the CPU.

        Maps of held-out views are never read and may hold anything.
        """
