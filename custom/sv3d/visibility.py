"""Which surface points of a render the reference views have not seen (SV3D, sec. 4, "masked SDS"); no gradients."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras

FACING = 0.5  # cosine from which a surface counts as seen in full: 60 degrees from facing a camera
LEAST_COSINE = 0.1  # flatter surfaces get no more tolerance in the depth test; they count as unseen by 0.9 anyway

Edge = Literal["soft", "hard"]


@torch.no_grad()
def facing(points: Tensor, normals: Tensor, cameras: Cameras, depths: Tensor | None = None) -> Tensor:
    """max_i v_i . n: how squarely the best-placed camera looks at each point, v_i the unit direction to camera i.

    points, normals: [..., 3] world units, unit outward. depths: [V, H, W, 1] z-depth of the object in the V cameras
    (0: nothing), with which a camera that does not see a point does not count for it; None: all count, as in the paper.
    Returns [..., 1] in [-1, 1].
    """
    best = torch.full_like(points[..., :1], -1.0)
    for index, center in enumerate(cameras.centers):  # one by one: all at once would take V times the memory
        cosine = (F.normalize(center - points, dim=-1) * normals).sum(-1, keepdim=True)
        if depths is not None:
            cosine = torch.where(_is_seen(points, cosine, cameras[index : index + 1], depths[index]), cosine, -1.0)
        best = torch.maximum(best, cosine)
    return best


@torch.no_grad()
def unseen(facing: Tensor, edge: Edge) -> Tensor:
    """M = 1 - f_s(max_i v_i . n; 0, 0.5) in [0, 1]; `hard`: 0 or 1, stepping where the soft one is 1/2.

    f_s is smoothstep. Printed as x_hat^2 (3 - 2 x), without a clamp, it leaves [0, 1]; meant is x_hat throughout.
    """
    if edge == "hard":
        return (facing < FACING / 2).float()
    x_hat = (facing / FACING).clamp(0, 1)
    return 1 - x_hat.square() * (3 - 2 * x_hat)


def _is_seen(points: Tensor, cosine: Tensor, camera: Cameras, depth: Tensor) -> Tensor:
    """[..., 1] bool: points [..., 3] in the one camera's image and not behind its depth map [H, W, 1].

    The map's nearest pixel is up to 0.71 pixels away; there a surface at `cosine` [..., 1] is up to 0.71 tan deeper or
    nearer, in pixel footprints. 1 / cosine of them are allowed.
    """
    pixels, distance = camera.project(points.reshape(-1, 3))
    grid = 2 * pixels / pixels.new_tensor([camera.width, camera.height]) - 1
    nearest = F.grid_sample(depth[None, ..., 0][None], grid[None], mode="nearest", align_corners=False)[0, 0]
    nearest = torch.where(nearest > 0, nearest, torch.inf)  # beside the silhouette: nothing is before the point
    tolerance = distance / camera.fx / cosine.reshape(1, -1).clamp_min(LEAST_COSINE)
    seen = (grid.abs() <= 1).all(-1) & (distance > 0) & (distance <= nearest + tolerance)
    return seen.reshape(*points.shape[:-1], 1)
