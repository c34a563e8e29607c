"""Lifting in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 1e-3  # minimum depth in the perspective division


def lift(features: Tensor, projections: Tensor, points: Tensor) -> Tensor:
    """See `ops.lifting.lift`."""
    b, t = features.shape[:2]
    local = torch.einsum("btij,nj->btni", projections[..., :3], points) + projections[..., None, :, 3]
    where = local[..., :2] / local[..., 2:].clamp_min(NEAR)
    images = features.flatten(0, 1).permute(0, 3, 1, 2)
    at = F.grid_sample(images, where.flatten(0, 1)[:, :, None], padding_mode="border", align_corners=False)
    at = at[..., 0].mT.unflatten(0, (b, t))
    return torch.cat([at.mean(1), at.var(1, unbiased=False)], dim=-1)
