"""Reference views: the images that supervise a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras


@dataclass(frozen=True)
class ReferenceViews:
    """V images of one object with their cameras.

    images:   [V, H, W, 3] float32 sRGB in [0, 1], straight (not premultiplied) colour.
    masks:    [V, H, W, 1] float32 alpha in [0, 1].
    cameras:  V cameras of that image size.
    names:    V file names or labels for reports.
    held_out: [V] bool; held-out views are never trained on, only used for metrics.
    depths:   [V, H, W, 1] z-depth up to scale and shift, or None.
    normals:  [V, H, W, 3] unit world-space normals, or None.
    input_views: indices of the user's pictures, from which a prior generated the others; the first is the one that
              defines the world, at azimuth 0 for most methods. Empty: all views are the user's.
    inside:   [G, G, G] float32 in [-1, 1] at the cell centres of the world's cube [-1, 1]^3, indexed x, y, z: how sure
              a prior is that a cell is inside (1) or outside (-1) the object; None if it cannot tell.
    sheet:    [H, W, 3] overview of all sets of views that a prior generated, if this is one of several; else None.
    elevation_estimate: estimated elevation of the input view and the error to expect, degrees; None: not estimated.
    windows:  [V, 4] where each photograph is in its image, if some have padding around: left, top, right, bottom in
              pixels. In the padding images, masks and maps are 0, but nothing is known. None: there is no padding.
    """

    images: Tensor
    masks: Tensor
    cameras: Cameras
    names: tuple[str, ...]
    held_out: Tensor
    depths: Tensor | None = None
    normals: Tensor | None = None
    input_views: tuple[int, ...] = ()
    inside: Tensor | None = None
    sheet: Tensor | None = None
    elevation_estimate: tuple[float, float] | None = None
    windows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_volume(self) -> bool:
        """Whether a prior says what is inside the object, and finds something there."""
        return self.inside is not None and bool((self.inside > 0).any())

    @property
    def input_view(self) -> int | None:
        """Index of the first of the user's pictures; None: there is none among the views."""
        return self.input_views[0] if self.input_views else None

    def nearest_input(self) -> Tensor:
        """Return the index of the input view whose camera is nearest to each view's by direction, [V]."""
        inputs = torch.tensor(self.input_views)
        directions = F.normalize(self.cameras.centers, dim=-1)
        return inputs[(directions @ directions[inputs].mT).argmax(1)]

    def select(self, index: Sequence[int] | Tensor) -> "ReferenceViews":
        """Return the views at `index`, in that order."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        order = chosen.tolist()
        return ReferenceViews(
            self.images[chosen],
            self.masks[chosen],
            self.cameras[chosen],
            tuple(self.names[i] for i in order),
            self.held_out[chosen],
            None if self.depths is None else self.depths[chosen],
            None if self.normals is None else self.normals[chosen],
            tuple(order.index(view) for view in self.input_views if view in order),
            self.inside,
            self.sheet,
            self.elevation_estimate,
            None if self.windows is None else self.windows[chosen],
        )

    def training(self) -> "ReferenceViews":
        """Return the views that are not held out."""
        return self.select(torch.nonzero(~self.held_out).flatten())

    def window(self, index: int) -> tuple[slice, slice]:
        """Return the rows and columns of the image at `index` that are not padding."""
        if self.windows is None:
            return slice(None), slice(None)
        left, top, right, bottom = self.windows[index].tolist()
        return slice(top, bottom), slice(left, right)

    def sizes(self) -> Tensor:
        """Return width and height of each image without padding, [V, 2] in pixels."""
        if self.windows is None:
            return torch.tensor([[self.cameras.width, self.cameras.height]]).expand(len(self), 2)
        return self.windows[:, 2:] - self.windows[:, :2]

    def seen(self) -> Tensor:
        """Return which pixels are not padding, [V, H, W, 1] bool."""
        seen = torch.zeros_like(self.masks, dtype=torch.bool)
        for index, pixels in enumerate(seen):
            pixels[self.window(index)] = True
        return seen

    def over(self, background: Tensor | float) -> Tensor:
        """Return the images composited over a background colour, [V, H, W, 3]."""
        return self.images * self.masks + (1 - self.masks) * background
