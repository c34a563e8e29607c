"""Quality metrics against ground-truth images and meshes; each is imported when it is first asked for."""

import importlib
from typing import TYPE_CHECKING, Any

from liftstudio.core.arguments import checked

if TYPE_CHECKING:
    from liftstudio.metrics.contextual import contextual_distance
    from liftstudio.metrics.images import psnr, ssim
    from liftstudio.metrics.meshes import chamfer, mesh_metrics
    from liftstudio.metrics.novel_views import silhouette_iou
    from liftstudio.metrics.voxels import volume_iou

__all__ = ["chamfer", "contextual_distance", "mesh_metrics", "psnr", "silhouette_iou", "ssim", "volume_iou"]

_PLACES = {
    "chamfer": "meshes",
    "contextual_distance": "contextual",
    "mesh_metrics": "meshes",
    "psnr": "images",
    "silhouette_iou": "novel_views",
    "ssim": "images",
    "volume_iou": "voxels",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'liftstudio.metrics' has no attribute '{name}'")
    return checked(getattr(importlib.import_module(f"liftstudio.metrics.{_PLACES[name]}"), name))
