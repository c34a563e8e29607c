"""Volumes along the rays of the input image's pixels, which pass through everything that the image shows.

A frustum has a cell for every pixel and plane. Its coordinates (u, v, s) are in [-1, 1]: u and v over the image, s over
the planes. The planes are equally spaced about the world's origin and vertical, so that an upright object has one depth
from top to bottom. If the camera looks down or up by more than STEEPEST, they tilt by the difference, so that rays
still cross them.

A frame [B, 4, 4] maps world points (x, 1) to (u w, v w, w, s), where w is the z-depth.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.priors.projections import NEAR

REACH = 1.3  # world units in front of and behind the origin that the planes span; objects are 1.8 long
STEEPEST = math.radians(40)


def frame_of(projection: Tensor) -> Tensor:
    """Return frames [B, 4, 4] of cameras with projections [B, 3, 4] that look at the world's origin."""
    forward = projection[:, 2, :3]
    ahead, _, up = upright_axes(projection).unbind(1)
    elevation = torch.asin(-forward[:, 2:].clamp(-1, 1))
    lean = elevation - elevation.clamp(-STEEPEST, STEEPEST)
    normal = ahead * lean.cos() - up * lean.sin()
    last = torch.cat([normal / REACH, torch.zeros_like(normal[:, :1])], dim=1)
    return torch.cat([projection, last[:, None]], dim=1)


def upright_axes(projection: Tensor) -> Tensor:
    """Return the axes [B, 3, 3] of a levelled camera, in world coordinates: ahead, right, up."""
    level = projection[:, 2, :2]
    below = projection[:, 1, :2] * projection[:, 2, 2:3].sign()  # ahead if it looks straight up or down
    level = torch.where(level.norm(dim=1, keepdim=True) > 1e-4, level, below)
    x, y = F.normalize(level, dim=1).unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([x, y, zero, y, -x, zero, zero, zero, one], dim=1).view(-1, 3, 3)


def coordinates(frame: Tensor, points: Tensor) -> Tensor:
    """Return (u, v, s) [B, N, 3] of world points [B, N, 3] in frames [B, 4, 4]."""
    x, y, w, s = torch.baddbmm(frame[:, :, 3:], frame[:, :, :3], points.mT).unbind(1)
    near = w.clamp_min(NEAR)
    return torch.stack([x / near, y / near, s], dim=-1)


def pixel_rays(frame: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return where each pixel's ray meets the plane s = 0, and the vector from it to s = 1, [B, height, width, 3]."""
    back = torch.linalg.inv(frame[:, :3, :3]).mT
    v, u = torch.meshgrid(centers(height), centers(width), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).to(frame)
    center = -(frame[:, None, :3, 3] @ back)[:, :, None]
    way = pixels @ back[:, None]
    normal = frame[:, None, None, 3, :3]
    way = way / (way * normal).sum(-1, keepdim=True)
    return center - way * (center * normal).sum(-1, keepdim=True), way


def cell_centers(frame: Tensor, planes: int, height: int, width: int) -> Tensor:
    """Return world positions of the cells' centres, [B, planes, height, width, 3]."""
    middle, way = pixel_rays(frame, height, width)
    return middle[:, None] + centers(planes).to(frame).view(-1, 1, 1, 1) * way[:, None]


def centers(count: int) -> Tensor:
    """Return the centres [count] of equal cells of [-1, 1], for pixels and planes."""
    return (2 * torch.arange(count) + 1) / count - 1


def sample_frustum(volume: Tensor, where: Tensor) -> Tensor:
    """Sample volumes [B, C, D, H, W] trilinearly at (u, v, s) [B, N, 3]: [B, C, N]; the border is repeated outside."""
    return F.grid_sample(volume, where[:, :, None, None], padding_mode="border", align_corners=False)[..., 0, 0]
