"""Fusion of depth maps into one closed shape: space carving, truncated signed distances, minimal area where unseen.

Range image integration as in Zach, Pock and Bischof (ICCV 2007). Cells that no camera saw carry no data; there the
surface of least area closes the shape. Undersides become flat instead of the visual hull's cone.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras
from liftstudio.data.render import Render
from liftstudio.ops.least_area import least_area

RESOLUTION = 64  # cells per side of the fusion grid
TRUNCATION_CELLS = 3.0  # thickness of the band behind a seen surface that counts as inside
DATA_WEIGHT = 3.0  # lambda, per cell
ITERATIONS = 200
STRAY_SHARE = 0.001  # fraction of the seen points, at each end of each axis, that is treated as floaters


@dataclass(frozen=True)
class FusedShape:
    """A closed shape on a grid.

    sdf:  [G, G, G] signed distance in world units at the cell centres of `box` [2, 3], indexed x, y, z.
    seen: [2, 3] bounding box of nearly all points seen in the views, including fine parts that the grid lost.
    """

    sdf: Tensor
    box: Tensor
    seen: Tensor

    def sample(self, points: Tensor) -> Tensor:
        """Signed distance [N] at world points [N, 3], trilinear; outside the box, that of the nearest border point."""
        unit = 2 * (points - self.box[0]) / (self.box[1] - self.box[0]) - 1
        grid = unit.flip(-1)[None, None, None]  # grid_sample expects (z, y, x) for a volume indexed x, y, z
        sampled = F.grid_sample(self.sdf[None, None], grid, align_corners=False, padding_mode="border")
        return sampled.flatten()

    def bounding_box(self, margin: float) -> Tensor:
        """Cube [2, 3] around the inside and the seen points, enlarged on every side by `margin` times its side."""
        cell = (self.box[1] - self.box[0]) / len(self.sdf)
        inside = torch.nonzero(self.sdf < 0)
        low = torch.minimum(self.box[0] + inside.amin(0) * cell, self.seen[0])
        high = torch.maximum(self.box[0] + (inside.amax(0) + 1) * cell, self.seen[1])
        half = (high - low).max() * (0.5 + margin)
        center = (low + high) / 2
        return torch.stack([center - half, center + half])


def fuse_depth(seen: Render, cameras: Cameras, box: Tensor, inside: Tensor | None = None) -> FusedShape:
    """Fuse the depth and opacity of B views into one closed shape.

    seen:   the renders from `cameras`, with `depth`, `opacity` and `points`.
    box:    [2, 3] region that may hold the object, world units.
    inside: [G, G, G] what a prior says is inside the object, see `ReferenceViews`; it weighs as much as the views.

    Raises:
        InputError: no view sees the object, or no shape is consistent with all views.
    """
    region, core = _region(seen, box)
    signed, weight = truncated_distance(seen, cameras, region)
    # The border is forced outside: otherwise an unseen part could be cut off there at no area cost.
    outside = signed * weight
    if inside is not None:
        outside = outside - _resampled(inside.to(box.device), region)
    data = F.pad(outside[1:-1, 1:-1, 1:-1], [1] * 6, value=1.0)
    solid = least_area(data * DATA_WEIGHT, ITERATIONS) > 0.5
    if not solid.any():
        raise InputError(
            "no shape is left: what one view shows as the object, others show as background; "
            "raise the steps of the previous stage, or check that masks and poses belong together"
        )
    return FusedShape(_signed_distance(solid, region), region, core)


def _resampled(inside: Tensor, region: Tensor) -> Tensor:
    """Values of a grid over the world's cube [-1, 1]^3 at the fusion grid's cell centres; outside the cube -1."""
    where = _cell_centers(region)
    sampled = F.grid_sample(inside[None, None], where.flip(-1)[None], align_corners=False, padding_mode="border")
    return sampled[0, 0].where((where.abs() <= 1).all(-1), -1.0)


def _region(seen: Render, box: Tensor) -> tuple[Tensor, Tensor]:
    """The fusion cube, which holds all seen points, and the bounding box of all but the outermost few of them."""
    assert seen.points is not None
    points = seen.points[seen.opacity[..., 0] > 0.5]
    if not len(points):
        raise InputError(
            "no camera sees the object: its opacity is below 0.5 everywhere; raise the steps of the previous stage"
        )
    low, high = points.amin(0).maximum(box[0]), points.amax(0).minimum(box[1])
    half = (high - low).max() * 0.56
    center = (low + high) / 2
    rows = points.sort(dim=0).values  # per axis; torch.quantile refuses inputs of this size
    few = int(len(rows) * STRAY_SHARE)
    core = torch.stack([rows[few].maximum(low), rows[-1 - few].minimum(high)])
    return torch.stack([center - half, center + half]), core


def _cell_centers(region: Tensor) -> Tensor:
    steps = (torch.arange(RESOLUTION, device=region.device) + 0.5) / RESOLUTION
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1)
    return region[0] + grid * (region[1] - region[0])


def truncated_distance(seen: Render, cameras: Cameras, region: Tensor) -> tuple[Tensor, Tensor]:
    """Mean truncated signed distance to the seen surfaces, in [-1, 1] (positive outside), and its weight in [0, 1].

    Both are [G, G, G]. A cell in front of a seen surface or of the background is outside. A cell just behind a surface
    is inside. A cell farther behind in every view is unknown and has weight 0.
    """
    assert seen.depth is not None
    centers = _cell_centers(region).reshape(-1, 3)
    truncation = TRUNCATION_CELLS * (region[1, 0] - region[0, 0]) / RESOLUTION
    total = centers.new_zeros(len(centers))
    count = centers.new_zeros(len(centers))
    carved = torch.zeros(len(centers), dtype=torch.bool, device=centers.device)
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        pixels, depth = camera.project(centers)
        row, column, visible = _nearest_pixels(pixels[0], depth[0], camera)
        opaque = seen.opacity[view, row, column, 0] > 0.5
        distance = (seen.depth[view, row, column, 0] - depth[0]) / truncation
        observed = visible & opaque & (distance > -1)
        total += torch.where(observed, (distance * TRUNCATION_CELLS).clamp(-1, 1), torch.zeros_like(distance))
        count += observed
        carved |= visible & ~opaque
    signed = torch.where(carved, torch.ones_like(total), total / count.clamp_min(1))
    weight = torch.where(carved, torch.ones_like(count), (count / 3).clamp_max(1))
    shape = (RESOLUTION,) * 3
    return signed.reshape(shape), weight.reshape(shape)


def _nearest_pixels(pixels: Tensor, depth: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    column, row = pixels.floor().long().unbind(-1)
    inside = (depth > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    return row.clamp(0, camera.height - 1), column.clamp(0, camera.width - 1), inside


def _signed_distance(inside: Tensor, region: Tensor) -> Tensor:
    from scipy.ndimage import distance_transform_edt  # slow to import

    mask = inside.cpu().numpy()
    cell = ((region[1, 0] - region[0, 0]) / RESOLUTION).item()
    cells = distance_transform_edt(~mask) - distance_transform_edt(mask)
    cells = cells - 0.5 * np.sign(cells)  # the surface lies between two cell centres
    sdf = torch.from_numpy(cells * cell).float().to(region.device)
    return _smooth(sdf)


def _smooth(volume: Tensor) -> Tensor:
    """The volume filtered by a Gaussian with a sigma of one cell, which removes the staircase of the binary labels."""
    offsets = torch.arange(-3, 4, device=volume.device)
    kernel = torch.exp(-0.5 * offsets.float() ** 2)
    kernel = kernel / kernel.sum()
    volume = volume[None, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 7
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 3
        volume = F.conv3d(F.pad(volume, pad, mode="replicate"), kernel.reshape(shape))
    return volume[0, 0]
