"""Image analogies: enlarged views get the detail that they lack from patches of the input image."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.logs import log
from liftstudio.core.registry import Component, register
from liftstudio.data.images import nearest_filled, reduce_image, resize_lanczos, straight_from_white
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.enhancement import ViewEnhancer

PATCH = 5  # pixels across a patch, at the prior's resolution


class Pairs(NamedTuple):
    """Patches of the input image, as the prior generates them and as they are.

    coarse: [N, 3 P^2] of the prior's own view of the input image, P = PATCH.
    fine:   [N, 3 (P S)^2] of the input image, S times as large.
    """

    coarse: Tensor
    fine: Tensor


@register("image-analogy")
class ImageAnalogy(ViewEnhancer):
    """Replaces the patches of enlarged views by those of the input images that the prior would draw in the same way.

    After Hertzmann et al. 2001, "Image Analogies": the input image is to the prior's own view of it as an enhanced view
    is to a generated one. The nearest patch is found at the prior's resolution; overlapping patches are averaged. Views
    that are hardly larger than the prior's (less than twice) stay unchanged: they lack no detail.
    """

    def __init__(self, config: Component.Config, *, device: torch.device) -> None:
        self.config = config

    def fingerprint(self) -> dict[str, Any]:
        """Return the name alone; there are no options."""
        return {"name": "image-analogy"}

    @torch.no_grad()
    def repaint(self, views: ReferenceViews, own: Tensor) -> Tensor:
        """See `ViewEnhancer.repaint`."""
        size, small = views.images.shape[1], len(own)
        if size < 2 * small:
            log.info("enhance: views of %d pixels keep their detail, since the prior's have %d", size, small)
            return views.images
        scale = math.ceil(size / small)
        own_view = resize_lanczos(own, size, size).clamp(0, 1)  # as the views were
        drawn = straight_from_white(own_view[..., :3], own_view[..., 3:]), own_view[..., 3:]
        found = []
        for index in views.input_views:
            picture, mask = views.images[index], views.masks[index]
            as_drawn = drawn if index == views.input_view else (picture, mask)
            found.append(_pairs(*_reduced(*as_drawn, small), picture, mask, scale))
        pairs = Pairs(*(torch.cat(each) for each in zip(*found, strict=True)))
        painted = [
            resize_lanczos(repainted(*_reduced(image, mask, small), pairs, scale), size, size).clamp(0, 1)
            for image, mask in zip(views.images, views.masks, strict=True)
        ]
        return torch.stack(painted)


def repainted(image: Tensor, mask: Tensor, pairs: Pairs, scale: int) -> Tensor:
    """Return the colours [S h, S w, 3] of a view, averaged over the patches that overlap there; S = `scale`.

    image: [h, w, 3] straight colour, filled outside the mask. mask: [h, w, 1]; what is far from it becomes black.
    """
    height, width, _ = image.shape
    shown = mask.flatten() > 0
    nearest = torch.cdist(_patches(image, PATCH)[shown], pairs.coarse).argmin(1)
    patches = torch.zeros(len(shown), pairs.fine.shape[1])
    patches[shown] = pairs.fine[nearest]
    margin, across = PATCH // 2 * scale, PATCH * scale

    def added(columns: Tensor) -> Tensor:
        size = height * scale + 2 * margin, width * scale + 2 * margin
        image = F.fold(columns.T[None], size, across, stride=scale)[0]
        return image[:, margin:-margin, margin:-margin].permute(1, 2, 0)

    count = added(shown.float()[:, None].expand(-1, across**2))
    return added(patches) / count.clamp_min(1)


def _pairs(own: Tensor, own_mask: Tensor, picture: Tensor, mask: Tensor, scale: int) -> Pairs:
    """Return the patches whose centre is on the object.

    own, own_mask: [R, R, 3] and [R, R, 1], the prior's own view. picture, mask: [H, H, 3] and [H, H, 1].
    """
    small = len(own)
    _, coarse_mask = _reduced(picture, mask, small)
    both = coarse_mask * own_mask
    shown = (_solid(both) if both.any() else _solid(coarse_mask)).flatten()
    fine = resize_lanczos(_filled(picture, mask), small * scale, small * scale).clamp(0, 1)
    return Pairs(_patches(own, PATCH)[shown], _patches(fine, PATCH * scale, scale)[shown])


def _patches(image: Tensor, across: int, stride: int = 1) -> Tensor:
    """Return the square patches [h w, C across^2] around the cells of an image [h stride, w stride, C]."""
    margin = (across - stride) // 2
    padded = F.pad(image.permute(2, 0, 1)[None], (margin,) * 4, mode="replicate")
    return F.unfold(padded, across, stride=stride)[0].T


def _reduced(image: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return straight colours [size, size, 3], filled outside the mask, and the mask [size, size, 1]."""
    rgb, alpha = reduce_image(image, mask, size, size)
    return _filled(rgb, alpha), alpha


def _filled(image: Tensor, mask: Tensor) -> Tensor:
    """Return the colours, where the mask is faint those of the nearest solid pixel."""
    return torch.from_numpy(nearest_filled(image.numpy(), (~_solid(mask))[..., 0].numpy()))


def _solid(mask: Tensor) -> Tensor:
    """Return where a mask, which may be faint everywhere, is more than half of its maximum."""
    return mask > 0.5 * mask.max()
