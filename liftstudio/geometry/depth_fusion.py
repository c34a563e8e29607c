"""Fusion of depth maps into one closed shape: space carving, truncated signed distances, minimal area where unseen.

Range image integration as in Zach, Pock and Bischof (ICCV 2007). Cells that no camera saw carry no data; there the
surface of least area closes the shape. Undersides become flat instead of the visual hull's cone.
"""

import math
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
THIN_CELLS = 4.0  # thickness below which an object is fused again with finer cells
FINE_RESOLUTION = 256  # cells along the longest side of that grid
FINE_CELLS = 2**20  # upper limit for the number of its cells
FREE_CELLS = 4  # around the object on that grid
TRUNCATION_CELLS = 3.0  # thickness of the band behind a seen surface that counts as inside
DATA_WEIGHT = 3.0  # lambda, per cell
ITERATIONS = 200
STRAY_SHARE = 0.001  # fraction of the seen points, at each end of each axis, that is treated as floaters


@dataclass(frozen=True)
class FusedShape:
    """A closed shape on a grid.

    sdf:  [X, Y, Z] signed distance in world units at the centres of the cubic cells of `box` [2, 3].
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

    @property
    def thickness(self) -> float:
        """Diameter of the largest ball inside the shape, world units; accurate to about a cell."""
        blunted = 0.8 * self.cell  # a ridge |x| is lowered by sqrt(2 / pi) times the sigma of the filter
        return 2 * (blunted - self.sdf.min().item())

    @property
    def cell(self) -> float:
        """Side of a cell, world units."""
        return ((self.box[1, 0] - self.box[0, 0]) / len(self.sdf)).item()

    @property
    def volume(self) -> float:
        """Volume of the inside, cubic world units."""
        return (self.sdf < 0).sum().item() * self.cell**3

    def extent(self) -> Tensor:
        """Bounding box [2, 3] of the inside and the seen points."""
        cell = (self.box[1] - self.box[0]) / torch.tensor(self.sdf.shape, device=self.box.device)
        inside = torch.nonzero(self.sdf < 0)
        low = torch.minimum(self.box[0] + inside.amin(0) * cell, self.seen[0])
        high = torch.maximum(self.box[0] + (inside.amax(0) + 1) * cell, self.seen[1])
        return torch.stack([low, high])

    def bounding_box(self, margin: float) -> Tensor:
        """Cube [2, 3] around the inside and the seen points, enlarged on every side by `margin` times its side."""
        low, high = self.extent()
        half = (high - low).max() * (0.5 + margin)
        center = (low + high) / 2
        return torch.stack([center - half, center + half])


@dataclass(frozen=True)
class Grid:
    """Cubic cells of a box: `box` [2, 3] in world units, and the number of cells along x, y and z."""

    box: Tensor
    shape: tuple[int, int, int]

    @property
    def cell(self) -> float:
        """Side of a cell, world units."""
        return ((self.box[1, 0] - self.box[0, 0]) / self.shape[0]).item()

    def centers(self) -> Tensor:
        """World points [X, Y, Z, 3] in the middle of the cells."""
        steps = [(torch.arange(count, device=self.box.device) + 0.5) / count for count in self.shape]
        return self.box[0] + torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1) * (self.box[1] - self.box[0])


def fuse_depth(seen: Render, cameras: Cameras, box: Tensor, inside: Tensor | None = None) -> FusedShape:
    """Fuse the depth and opacity of B views into one closed shape.

    The grid is a cube of 64 cells per side. If the object is thin everywhere, as a rod, a plate or a ring is, the views
    are fused again with finer cells in its bounding box alone.

    seen:   the renders from `cameras`, with `depth`, `opacity` and `points`.
    box:    [2, 3] region that may hold the object, world units.
    inside: [G, G, G] what a prior says is inside the object, see `ReferenceViews`; it weighs as much as the views.

    Raises:
        InputError: no view sees the object, it is too thin for the pixels of the views, or no shape is consistent with
            all views.
    """
    region, core = _region(seen, box)
    grid = Grid(region, (RESOLUTION,) * 3)
    shape = _fused(seen, cameras, grid, core, inside)
    if shape is not None and shape.thickness >= THIN_CELLS * grid.cell:
        return shape
    fine = _fine_grid(core if shape is None else shape.extent())
    finer = _fused(seen, cameras, fine, core, inside) or shape
    if finer is None:
        raise InputError(_nothing_left(seen, cameras, fine, core))
    return finer


def shape_inside(inside: Tensor) -> FusedShape:
    """Return the shape that a prior's volume [G, G, G] over [-1, 1]^3 shows, see `ReferenceViews.inside`."""
    corner = torch.ones(3, device=inside.device)
    grid = Grid(torch.stack([-corner, corner]), (len(inside),) * 3)
    solid = inside > 0
    cells = torch.nonzero(solid)
    seen = grid.box[0] + torch.stack([cells.amin(0), cells.amax(0) + 1]) * grid.cell
    return FusedShape(_signed_distance(solid, grid), grid.box, seen)


def _fused(seen: Render, cameras: Cameras, grid: Grid, core: Tensor, inside: Tensor | None) -> FusedShape | None:
    """The shape on one grid; None if it is empty."""
    signed, weight = truncated_distance(seen, cameras, grid)
    # The border is forced outside: otherwise an unseen part could be cut off there at no area cost.
    outside = signed * weight
    if inside is not None:
        outside = outside - _resampled(inside.to(grid.box.device), grid)
    data = F.pad(outside[1:-1, 1:-1, 1:-1], [1] * 6, value=1.0)
    solid = least_area(data * DATA_WEIGHT, ITERATIONS) > 0.5
    if not solid.any():
        return None
    sdf = _signed_distance(solid, grid)
    return FusedShape(sdf, grid.box, core) if (sdf < 0).any() else None  # smoothing may leave nothing of thin parts


def _fine_grid(extent: Tensor) -> Grid:
    """The grid with the finest cells within the limits, around a bounding box [2, 3]."""
    size = (extent[1] - extent[0]).clamp_min(1e-6)
    cell = float(size.max()) / FINE_RESOLUTION
    while (counts := (size / cell).ceil().long() + 2 * FREE_CELLS).prod() > FINE_CELLS:
        cell *= 1.05
    middle, half = extent.mean(0), counts * cell / 2
    return Grid(torch.stack([middle - half, middle + half]), tuple(counts.tolist()))


def _nothing_left(seen: Render, cameras: Cameras, fine: Grid, core: Tensor) -> str:
    """Text for the error when no shape is left: the object is too thin, or the views contradict each other."""
    pixels, width = _widest(seen, cameras)
    if width > THIN_CELLS * fine.cell and pixels > THIN_CELLS:
        return (
            "no shape is left: what one view shows as the object, others show as background; "
            "raise the steps of the previous stage, or check that masks and poses belong together"
        )
    share = 100 * width / float((core[1] - core[0]).norm())
    return (
        f"the object is too thin: its silhouettes are at most about {pixels:.0f} pixels or {share:.1f} % of its length "
        "wide; use larger pictures, or pictures that show it larger, and a coordinate axis along its length"
    )


def slenderness(masks: Tensor) -> float:
    """Largest ratio of width to length, in (0, 1], of the silhouettes of masks [V, H, W, 1]; 1 if all are empty.

    The width is the diameter of the largest disc inside, the length the diagonal of the bounding box.
    """
    ratios = []
    for mask in masks[..., 0] > 0.5:
        if mask.any():
            rows, columns = (mask.any(axis).nonzero() for axis in (1, 0))
            length = math.hypot(*(float(side[-1] - side[0] + 1) for side in (rows, columns)))
            ratios.append(min(1.0, _disc(mask) / length))
    return max(ratios, default=1.0)


def _widest(seen: Render, cameras: Cameras) -> tuple[float, float]:
    """Diameter of the largest disc inside any of the silhouettes, in pixels and in world units at the seen depth."""
    assert seen.depth is not None
    found = []
    for view, mask in enumerate(seen.opacity[..., 0] > 0.5):
        if mask.any():
            pixels, depth = _disc(mask), float(seen.depth[view, ..., 0][mask].median())
            found.append((pixels, pixels * depth / float(cameras.fx[view])))
    return max(found, key=lambda size: size[1])


def _disc(mask: Tensor) -> float:
    """Diameter, in pixels, of the largest disc inside a mask [H, W] that is not empty."""
    from scipy.ndimage import distance_transform_edt  # slow to import

    return max(1.0, 2 * float(distance_transform_edt(mask.cpu().numpy()).max()) - 1)


def _resampled(inside: Tensor, grid: Grid) -> Tensor:
    """Values of a grid over the world's cube [-1, 1]^3 at the fusion grid's cell centres; outside the cube -1."""
    where = grid.centers()
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


def truncated_distance(seen: Render, cameras: Cameras, grid: Grid) -> tuple[Tensor, Tensor]:
    """Mean truncated signed distance to the seen surfaces, in [-1, 1] (positive outside), and its weight in [0, 1].

    Both are [X, Y, Z]. A cell in front of a seen surface or of the background is outside. A cell just behind a surface
    is inside. A cell farther behind in every view is unknown and has weight 0.
    """
    assert seen.depth is not None
    centers = grid.centers().reshape(-1, 3)
    truncation = TRUNCATION_CELLS * grid.cell
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
    return signed.reshape(grid.shape), weight.reshape(grid.shape)


def _nearest_pixels(pixels: Tensor, depth: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    column, row = pixels.floor().long().unbind(-1)
    inside = (depth > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    return row.clamp(0, camera.height - 1), column.clamp(0, camera.width - 1), inside


def _signed_distance(inside: Tensor, grid: Grid) -> Tensor:
    from scipy.ndimage import distance_transform_edt  # slow to import

    mask = inside.cpu().numpy()
    cells = distance_transform_edt(~mask) - distance_transform_edt(mask)
    cells = cells - 0.5 * np.sign(cells)  # the surface lies between two cell centres
    sdf = torch.from_numpy(cells * grid.cell).float().to(inside.device)
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
