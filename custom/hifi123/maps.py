"""Monocular depth and normals of reference views, for the losses of the coarse stage."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.registry import register
from liftstudio.data.images import resize_smooth
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.estimation import MapEstimator

from .depth import check_map
from .estimator import DepthEstimator, NormalEstimator, estimator_fingerprint
from .prior import GREY


@register("monocular")
class MonocularMaps(MapEstimator):
    """Depth and normals of each view by itself, by networks of transformers and diffusers."""

    @dataclass
    class Config:
        depth: str = ""  # folder or hub name of DPT, Depth Anything, ZoeDepth, Depth Pro or Marigold; empty: no depth
        normals: str = ""  # folder or hub name of Marigold for normals; empty: no normals

        def __post_init__(self) -> None:
            if not (self.depth or self.normals):
                raise InputError("depth: wanted an estimator of depth, or one of normals")

    config: Config

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.config = config
        self.depth = DepthEstimator(config.depth, device=device) if config.depth else None
        self.normals = NormalEstimator(config.normals, device=device) if config.normals else None

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the estimators' files."""
        sources = {"depth": self.config.depth, "normals": self.config.normals}
        return {name: estimator_fingerprint(source) for name, source in sources.items() if source}

    def maps(self, views: ReferenceViews) -> dict[str, Tensor]:
        """See `MapEstimator.maps`; the views are shown before grey. Those of held-out views are 0.

        Raises:
            InputError: a view whose estimated depth is flat on the object, or not finite there.
        """
        used = views.training()
        images, size = used.over(GREY), used.images.shape[1:3]
        found: dict[str, Tensor] = {}
        if self.depth is not None:
            values = resize_smooth(self.depth(images).cpu(), *size)
            for name, value, mask in zip(used.names, values, used.masks, strict=True):
                check_map(f"views.maps.depth: estimated of {name}", value, mask)
            found["depths"] = -values if self.depth.meaning == "disparity" else values
        if self.normals is not None:
            seen = resize_smooth(self.normals(images).cpu(), *size)
            world = torch.einsum("vij,vhwj->vhwi", used.cameras.c2w[:, :3, :3], seen)
            found["normals"] = F.normalize(world, dim=-1)
        return {name: _among_all(maps, ~views.held_out) for name, maps in found.items()}


def _among_all(maps: Tensor, is_used: Tensor) -> Tensor:
    """[V, H, W, C] with the maps of those of V views that are used, and 0 for the others."""
    every = maps.new_zeros(len(is_used), *maps.shape[1:])
    every[is_used] = maps
    return every
