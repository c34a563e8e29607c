"""The depth channel of Stable Diffusion 2's depth model: inverse depth in [-1, 1], 1 for near, -1 on the background.

It is resized bicubically, as in that model's training. Reference and views must be processed alike, or their scales
differ.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.data.images import resize_smooth
from liftstudio.data.render import Render

Meaning = Literal["disparity", "depth", "distance"]

FLAT = 1e-4  # relief, as a fraction of the largest value, below which it is mere rounding
_INSIDE = 0.5  # mask values above this are the object
_NOT_FINITE = "not finite everywhere on the object"


class NotInSightError(InputError):
    """The view does not show the object, or too little of it."""


class FlatDepthError(InputError):
    """The depth of the view is flat, which says nothing about the shape."""


def depth_channel(
    values: Tensor, masks: Tensor, size: tuple[int, int], meaning: Meaning, *, flat_by_mask: bool = False
) -> Tensor:
    """Return the depth channel [B, 1, h, w] float32: per view, -1 at the object's farthest point, 1 at its nearest.

    Args:
        values: [B, H, W, 1] from a render or a monocular estimator.
        masks: [B, H', W', 1] in [0, 1] of the object, of any size; ones for a whole image.
        size: height and width of the latents.
        meaning: "disparity": large is near, up to scale and offset (transformers' DPT, Depth Anything and Depth Pro:
            `predicted_depth[..., None]`, not post-processed). "depth": large is far, up to scale and offset
            (diffusers' Marigold). "distance": along the optical axis, up to scale (a render's depth pass, ZoeDepth);
            values of 0 or less count as background.
        flat_by_mask: give a flat view the channel of its mask alone (`mask_channel`) instead of raising.

    Raises:
        NotInSightError: a view without object; or, by its mask, a flat one of less than a pixel at that size.
        FlatDepthError: a flat view.
        InputError: values are not finite.
    """
    check_shape("values", values, ("B", "H", "W", 1))
    inside = _inside(masks, *values.shape[1:3])
    if meaning == "distance":
        inside = inside & ~(values <= 0)
    _check_in_sight(inside.any((1, 2, 3)))
    _check_each((values.isfinite() | ~inside).all((1, 2, 3)), _NOT_FINITE)
    near = _nearness(values.float().where(inside, 1.0), meaning)
    behind = near.where(inside, torch.inf).amin((1, 2, 3), keepdim=True)
    resized = _resized(near.where(inside, behind), size).clamp_min(behind)  # bicubic resizing overshoots at edges
    low, high = (end(resized, (1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    relief = _has_relief(low, high)
    channel = (2 * (resized - low) / (high - low) - 1).clamp(-1, 1)
    if flat_by_mask and not relief.all():
        outlines = _inside(masks, *size)
        _check_in_sight(relief.flatten() | outlines.any((1, 2, 3)))
        return channel.where(relief, _silhouettes(outlines))
    _check_each(relief.flatten(), "flat, so it says nothing about the shape; use the mask alone", FlatDepthError)
    return channel


def check_map(name: str, values: Tensor, mask: Tensor) -> None:
    """Raise for an estimated depth that nothing can be learned from.

    Args:
        name: of the view, for the error message.
        values: [H, W, 1] with any meaning.
        mask: [H, W, 1] in [0, 1] of the object.

    Raises:
        InputError: values on the object are not finite.
        FlatDepthError: the object is flat.
    """
    seen = values[mask > _INSIDE]
    if not seen.isfinite().all():
        raise InputError(f"{name}: {_NOT_FINITE}")
    if len(seen) and not _has_relief(seen.amin(), seen.amax()):
        raise FlatDepthError(f"{name}: flat, so it says nothing about the shape")


def mask_channel(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the depth channel [B, 1, h, w] of silhouettes alone: 1 on the object, -1 elsewhere.

    According to the ablation in HiFi-123's paper, such a constant depth works nearly as well.

    Args:
        masks: [B, H, W, 1] in [0, 1].

    Raises:
        NotInSightError: a view without object, or one of less than a pixel at that size.
    """
    inside = _inside(masks, *size)
    _check_in_sight(inside.any((1, 2, 3)))
    return _silhouettes(inside)


def _inside(masks: Tensor, height: int, width: int) -> Tensor:
    check_shape("masks", masks, ("B", "H", "W", 1))
    return resize_smooth(masks.float(), height, width) > _INSIDE


def _has_relief(low: Tensor, high: Tensor) -> Tensor:
    return high - low > FLAT * torch.maximum(low.abs(), high.abs())


def _silhouettes(inside: Tensor) -> Tensor:
    return 2 * inside.permute(0, 3, 1, 2).float() - 1


def _nearness(values: Tensor, meaning: Meaning) -> Tensor:
    if meaning == "distance":
        return 1 / values
    return values if meaning == "disparity" else -values


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=False)


def _check_in_sight(holds: Tensor) -> None:
    _check_each(holds, "no object in view; check its mask", NotInSightError)


def _check_each(holds: Tensor, fault: str, error: type[InputError] = InputError) -> None:
    wrong = (~holds).nonzero().flatten().tolist()
    if wrong:
        raise error(f"depth of view {wrong[0]}: {fault}")


class RenderedDepth:
    """Makes depth channels of renders; logs once that some views are flat or show no object."""

    def __init__(self, user: str, side: int, *, by_mask: bool = False) -> None:
        """Start with nothing logged.

        Args:
            user: name for the log.
            side: pixels across the latents.
            by_mask: use the outline of every view, not its depth.
        """
        self.user, self.size, self.by_mask = user, (side, side), by_mask
        self._said: set[str] = set()

    @torch.no_grad()
    def __call__(self, render: Render, views: slice = slice(None)) -> Tensor:
        """Return the channel [B, 1, side, side] of views of a render; for flat ones (a cube face-on), their outlines.

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
            self._say_once("the depth of a render is flat; the outline is used for such views")
            return depth_channel(values, masks, self.size, "distance", flat_by_mask=True)

    def skipped(self, render: Render) -> Tensor:
        """Return the loss of a turn whose view raised `NotInSightError`: 0, with zero gradient."""
        self._say_once("a render shows no object, or less than a pixel of the latents; such turns are skipped")
        return 0 * render.foreground.sum()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s: %s", self.user, text)
