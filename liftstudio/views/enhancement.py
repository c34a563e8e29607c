"""Plug-ins that repaint the views a prior has made, in the manner of the picture it made them from."""

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.plug_in import ViewPlugIn


class ViewEnhancer(ViewPlugIn):
    """Repaints generated views; shapes, cameras and the picture itself stay as they are."""

    kind: ClassVar[str] = "view-enhancer"

    @abstractmethod
    def repaint(self, views: ReferenceViews) -> Tensor:
        """Straight colours [V, H, W, 3] in [0, 1], on the CPU, of views that have an `input_view`, the picture.

        What it returns beside the masks and for the picture is not used.

        Raises:
            InputError: views that it cannot repaint; before the long work.
        """


def with_colors(views: ReferenceViews, colors: Tensor) -> ReferenceViews:
    """The views with other straight colours [V, H, W, 3] inside their masks; the picture among them stays."""
    images = colors.where(views.masks > 0, views.images)
    if views.input_view is not None:
        images[views.input_view] = views.images[views.input_view]
    return replace(views, images=images)
