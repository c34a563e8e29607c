"""The depth of renders while a texture is learned: of random views some tell nothing, and none may end the run."""

import torch
from torch import Tensor

from liftstudio.core.logs import log
from liftstudio.data.render import Render

from .depth import FlatDepthError, depth_channel, mask_channel


class RenderedDepth:
    """The depth channels of renders; what a view cannot tell is said once in the log."""

    def __init__(self, user: str, side: int, *, by_mask: bool = False) -> None:
        """Nothing is said yet.

        Args:
            user: who asks, for the log.
            side: pixels across the latents.
            by_mask: all views are told by their outlines.
        """
        self.user, self.size, self.by_mask = user, (side, side), by_mask
        self._said: set[str] = set()

    @torch.no_grad()
    def __call__(self, render: Render, views: slice = slice(None)) -> Tensor:
        """The channel [B, 1, side, side] of these views of a render; flat ones (a cube seen face-on) by their outlines.

        Raises:
            NotInSightError: a view without object, or a flat one of less than a pixel of the latents.
        """
        masks = render.opacity[views]
        if self.by_mask:
            return mask_channel(masks, self.size)
        values = render.require("depth")[views]
        try:
            return depth_channel(values, masks, self.size, "distance")
        except FlatDepthError:
            self._say_once("the depth of a render is flat; such views are told by their outlines")
            return depth_channel(values, masks, self.size, "distance", flat_by_mask=True)

    def skipped(self, render: Render) -> Tensor:
        """The loss of a turn whose view is `NotInSightError`: 0, and it moves nothing."""
        self._say_once("a render shows no object, or less than a pixel of the latents; such turns are skipped")
        return 0 * render.foreground.sum()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s: %s", self.user, text)
