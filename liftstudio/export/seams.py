"""How far the colour jumps where a texture is cut."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.export.asset import Bytes
from liftstudio.export.unwrap import UvMesh

SAMPLES = 8  # points on each edge


def seam_differences(uv_mesh: UvMesh, texture: Bytes) -> Tensor:
    """Return the jumps of the colour across the seams [N], in [0, 1]: the largest of the three channels'.

    Points are spread evenly over every edge whose two faces lie in different places of the texture [size, size, 3]. At
    each the texture is read from both sides, with bilinear filtering. Empty without seams.
    """
    here, there = _cut_edges(uv_mesh)
    along = ((torch.arange(SAMPLES) + 0.5) / SAMPLES)[:, None]
    image = torch.from_numpy(texture).float().permute(2, 0, 1)[None] / 255
    one, other = (
        _read(image, uv_mesh.uv[edge[:, :1]] * (1 - along) + uv_mesh.uv[edge[:, 1:]] * along) for edge in (here, there)
    )
    return (one - other).abs().amax(-1).reshape(-1)


def _cut_edges(uv_mesh: UvMesh) -> tuple[Tensor, Tensor]:
    """Return the two sides of each cut edge as vertices [E, 2] of the cut mesh, both from the same end to the other."""
    faces = uv_mesh.mesh.faces.numpy()
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    ends = uv_mesh.source.numpy()[edges]
    edges = np.where((ends[:, 0] > ends[:, 1])[:, None], edges[:, ::-1], edges)
    keys = np.sort(ends, axis=1)
    _, group, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    pairs = edges[np.argsort(group, kind="stable")][np.repeat(count, count) == 2].reshape(-1, 2, 2)
    cut = pairs[(pairs[:, 0] != pairs[:, 1]).any(axis=1)]
    return torch.from_numpy(cut[:, 0].copy()), torch.from_numpy(cut[:, 1].copy())


def _read(image: Tensor, uv: Tensor) -> Tensor:
    """Return an image [1, C, H, W] at coordinates [E, S, 2], v up: [E, S, C]."""
    where = torch.stack([2 * uv[..., 0] - 1, 1 - 2 * uv[..., 1]], dim=-1)
    return F.grid_sample(image, where[None], padding_mode="border", align_corners=False)[0].permute(1, 2, 0)
