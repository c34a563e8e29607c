"""Masks of surface that no reference view has seen (SV3D, sec. 4, "masked SDS"); no gradients."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras

FACING = 0.5  # cosine above which surface counts as fully seen: within 60 degrees of facing a camera
LEAST_COSINE = 0.1  # limits the depth test's tolerance at grazing angles, where surface counts as mostly unseen anyway

Edge = Literal["soft", "hard"]


@torch.no_grad()
def facing(points: Tensor, normals: Tensor, cameras: Cameras, depths: Tensor | None = None) -> Tensor:
    """Return max_i v_i . n, the cosine to the best-placed camera; v_i is the unit direction from a point to camera i.

    points: [..., 3] in world units. normals: [..., 3], unit length, outward. depths: [V, H, W, 1] z-depth of the object
    in the V cameras (0: background), to ignore cameras that do not see a point; None: all count, as in the paper.
    Returns [..., 1] in [-1, 1].
    """
    best = torch.full_like(points[..., :1], -1.0)
    for index, center in enumerate(cameras.centers):  # one at a time, to save memory
        cosine = (F.normalize(center - points, dim=-1) * normals).sum(-1, keepdim=True)
        if depths is not None:
            cosine = torch.where(_is_seen(points, cosine, cameras[index : index + 1], depths[index]), cosine, -1.0)
        best = torch.maximum(best, cosine)
    return best


@torch.no_grad()
def unseen(facing: Tensor, edge: Edge) -> Tensor:
    """Return the mask M = 1 - f_s(max_i v_i . n; 0, 0.5) in [0, 1]; `hard`: 0 or 1, with its step where M is 1/2.

    f_s is smoothstep. The paper prints it as x_hat^2 (3 - 2 x), which leaves [0, 1]; x_hat must be meant throughout.
    """
    if edge == "hard":
        return (facing < FACING / 2).float()
    x_hat = (facing / FACING).clamp(0, 1)
    return 1 - x_hat.square() * (3 - 2 * x_hat)


def _is_seen(points: Tensor, cosine: Tensor, camera: Cameras, depth: Tensor) -> Tensor:
    """Return [..., 1] bool: whether points [..., 3] are in one camera's image and not behind its depth map [H, W, 1].

    The map's nearest pixel is up to 0.71 pixels away, where a surface at `cosine` [..., 1] differs in depth by up to
    0.71 tan(angle) pixel footprints. The tolerance is 1 / cosine footprints.
    """
    pixels, distance = camera.project(points.reshape(-1, 3))
    grid = 2 * pixels / pixels.new_tensor([camera.width, camera.height]) - 1
    nearest = F.grid_sample(depth[None, ..., 0][None], grid[None], mode="nearest", align_corners=False)[0, 0]
    nearest = torch.where(nearest > 0, nearest, torch.inf)  # outside the silhouette nothing occludes the point
    tolerance = distance / camera.fx / cosine.reshape(1, -1).clamp_min(LEAST_COSINE)
    seen = (grid.abs() <= 1).all(-1) & (distance > 0) & (distance <= nearest + tolerance)
    return seen.reshape(*points.shape[:-1], 1)
