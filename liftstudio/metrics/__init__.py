"""Quality metrics against ground-truth images and meshes."""

from liftstudio.metrics.contextual import contextual_distance
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.meshes import chamfer, mesh_metrics
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.metrics.voxels import volume_iou

__all__ = ["chamfer", "contextual_distance", "mesh_metrics", "psnr", "silhouette_iou", "ssim", "volume_iou"]
