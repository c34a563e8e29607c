"""Projection matrices of cameras to [-1, 1]^2, the form that networks take, and sampling along rays."""

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras

NEAR = 1e-3  # least depth to divide by


def projections(cameras: Cameras) -> Tensor:
    """Return matrices [T, 3, 4] from world points (x, 1) to (u w, v w, w): u, v in [-1, 1] over the image, w depth."""
    c2w = cameras.c2w
    rotation = c2w[:, :3, :3].mT
    w2c = torch.cat([rotation, -rotation @ c2w[:, :3, 3:]], dim=-1)
    x, y, z = w2c.unbind(1)
    fx, fy = 2 * cameras.fx / cameras.width, 2 * cameras.fy / cameras.height
    ox, oy = 2 * cameras.cx / cameras.width - 1, 2 * cameras.cy / cameras.height - 1
    depth = -z
    return torch.stack([fx[:, None] * x + ox[:, None] * depth, -fy[:, None] * y + oy[:, None] * depth, depth], dim=1)


def project(projection: Tensor, points: Tensor) -> Tensor:
    """Project world points [B, N, 3] by matrices [B, 3, 4] to image coordinates [B, N, 2], [-1, 1] over the image."""
    u, v, w = torch.baddbmm(projection[:, :, 3:], projection[:, :, :3], points.mT).unbind(1)
    w = w.clamp_min(NEAR)
    return torch.stack([u / w, v / w], dim=-1)


def sample_image(image: Tensor, points: Tensor) -> Tensor:
    """Sample images [B, C, H, W] bilinearly at [B, N, 2]: [B, C, N]; beyond the border its value is repeated."""
    return F.grid_sample(image.float(), points[:, :, None].float(), padding_mode="border", align_corners=False)[..., 0]


def ray_shares(optical: Tensor) -> Tensor:
    """Return the compositing weight of each sample, [..., S], nearest first; optical: [..., S] density times length."""
    before = torch.exp(-(optical.cumsum(-1) - optical))
    return before * (1 - torch.exp(-optical))
