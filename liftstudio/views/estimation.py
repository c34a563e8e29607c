"""Plug-ins that estimate depth and normals of reference views, for the losses that compare with them."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.plug_in import ViewPlugIn


class MapEstimator(ViewPlugIn):
    """Estimates what reference views have no pictures of: how far their surface is, and which way it faces."""

    kind: ClassVar[str] = "map-estimator"

    @abstractmethod
    def maps(self, views: ReferenceViews) -> dict[str, Tensor]:
        """`depths` [V, H, W, 1], `normals` [V, H, W, 3] or both, as `ReferenceViews` has them, on the CPU.

        Those of held-out views are read by nothing and may hold anything.
        """
