"""Plug-ins that repaint the views that a prior has generated, with the texture of the input image."""

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.plug_in import ViewPlugIn


class ViewEnhancer(ViewPlugIn):
    """Repaints generated views; silhouettes, cameras and the input images themselves stay unchanged."""

    kind: ClassVar[str] = "view-enhancer"

    @abstractmethod
    def repaint(self, views: ReferenceViews, own: Tensor) -> Tensor:
        """Return straight colours [V, H, W, 3] in [0, 1], on the CPU, for views that include the `input_views`.

        The result is used only inside the masks and not for the input views.

        own: [R, R, 4] the prior's own view from the input camera, at its resolution: colour over white and alpha in
            [0, 1]. If it generated none, this is the input image at that resolution.

        Raises:
            InputError: it cannot repaint these views; raised before the long work.
        """


def with_colors(views: ReferenceViews, colors: Tensor) -> ReferenceViews:
    """Return the views with new straight colours [V, H, W, 3] inside their masks; the input views stay unchanged."""
    images = colors.where(views.masks > 0, views.images)
    for view in views.input_views:
        images[view] = views.images[view]
    return replace(views, images=images)
