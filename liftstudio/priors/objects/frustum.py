"""Volumes aligned with the picture's camera: whatever the picture shows lies on the rays of its pixels.

A frustum has planes across the camera's axis, at equal steps of z-depth about the world's origin, each with one cell
for every pixel. Its coordinates (u, v, s) are in [-1, 1]: u and v over the picture, s over the depths of the planes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.priors.projections import NEAR

REACH = 1.3  # world units before and behind the origin that the planes span; objects are 1.8 long


def coordinates(projection: Tensor, points: Tensor) -> Tensor:
    """(u, v, s) [B, N, 3] of world points [B, N, 3]; projection [B, 3, 4] of the picture's camera."""
    x, y, w = torch.baddbmm(projection[:, :, 3:], projection[:, :, :3], points.mT).unbind(1)
    near = w.clamp_min(NEAR)
    return torch.stack([x / near, y / near, (w - projection[:, 2, 3:]) / REACH], dim=-1)


def cell_centers(projection: Tensor, planes: int, height: int, width: int) -> Tensor:
    """[B, planes, height, width, 3] world positions of the cells' centres."""
    s, v, u = torch.meshgrid(*map(_centers, (planes, height, width)), indexing="ij")
    s, v, u = (axis.to(projection).expand(len(projection), *axis.shape) for axis in (s, v, u))
    w = REACH * s + projection[:, 2, 3].view(-1, 1, 1, 1)
    seen = torch.stack([u * w, v * w, w], dim=-1) - projection[:, None, None, None, :, 3]
    return seen @ torch.linalg.inv(projection[:, :, :3]).mT[:, None, None]


def _centers(count: int) -> Tensor:
    """[count] centres of equal cells of [-1, 1]."""
    return (2 * torch.arange(count) + 1) / count - 1


def sample_frustum(volume: Tensor, where: Tensor) -> Tensor:
    """[B, C, N] trilinear samples of volumes [B, C, D, H, W] at (u, v, s) [B, N, 3]; the border's value beyond it."""
    return F.grid_sample(volume, where[:, :, None, None], padding_mode="border", align_corners=False)[..., 0, 0]
