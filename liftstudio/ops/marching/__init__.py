"""Ray marching through an occupancy grid: finds the samples of each ray that lie in occupied cells.

Every ray has its own lattice of uniform steps. With [t_enter, t_exit] its interval inside the box and between `near`
and `far`, sample k = 0, 1, ... covers [t_k, t_k+1] with

    t_k = t_first + k * step_size,    t_first = t_enter + jitter * step_size

and is kept if its midpoint lies before t_exit and in an occupied cell. The lattice is bit-identical in all backends;
they may only disagree on samples whose midpoint lies within float32 rounding (1e-4 of a cell) of a cell's border.

nerfacc's `traverse_grids` is not used: it walks each ray by a running float32 sum of steps and restarts at cell
borders, so its samples drift off this lattice.
"""

import importlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for

_MODULES = {"reference": "reference", "numba": "cpu", "warp": "warp_kernels"}
# Direction components below this (cells per world unit) never cross a cell; set to zero, so that 1 / d stays finite.
_PARALLEL = 1e-20


@dataclass(frozen=True)
class Samples:
    """S samples along R rays, sorted by ray and then by distance.

    ray_index: [S] int64, the ray of each sample.
    t_start, t_end: [S] float32, distances along the unit ray direction, world units.
    offsets: [R + 1] int64; the samples of ray r are `offsets[r]:offsets[r + 1]`.
    """

    ray_index: Tensor
    t_start: Tensor
    t_end: Tensor
    offsets: Tensor

    @property
    def t_mid(self) -> Tensor:
        """Midpoints [S] of the samples."""
        return 0.5 * (self.t_start + self.t_end)


@dataclass(frozen=True)
class GridRays:
    """Rays in cell coordinates, where the grid is the box [0, G]^3; t is still a world distance.

    origins, directions: [R, 3], in cells and in cells per world unit.
    t_first: [R], start of lattice sample 0.
    steps: [R] int32, number of lattice samples whose midpoint lies before the exit; 0 for rays that miss the box.
    """

    origins: Tensor
    directions: Tensor
    t_first: Tensor
    steps: Tensor


def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    aabb: Tensor,
    step_size: float,
    near: float = 0.0,
    far: float = math.inf,
    jitter: Tensor | None = None,
) -> Samples:
    """The samples of rays that lie in occupied cells; see the module docstring for their exact placement.

    Args:
        origins: [R, 3] world space.
        directions: [R, 3] unit vectors.
        occupancy: [G, G, G] bool, indexed x, y, z.
        aabb: [2, 3] the grid's lower and upper corner in world space.
        step_size: length of a sample, world units, > 0.
        near, far: distances along the ray between which samples may start and their midpoints lie.
        jitter: [R] in [0, 1), shift of each ray's lattice as a fraction of a step; None: no shift.

    Returns:
        The samples, without gradients. Rays that miss the box have none.

    Raises:
        ValueError: for wrong shapes, an occupancy that is not bool, or a step size that is not positive.
    """
    check_shape("origins", origins, ("R", 3))
    check_shape("directions", directions, (len(origins), 3))
    check_shape("occupancy", occupancy, ("G", "G", "G"))
    check_shape("aabb", aabb, (2, 3))
    if occupancy.dtype != torch.bool:
        raise ValueError(f"occupancy: expected bool, got {occupancy.dtype}")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size: expected a positive length, got {step_size}")
    if jitter is not None:
        check_shape("jitter", jitter, (len(origins),))
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('marching', origins)]}")
    with torch.no_grad():
        rays = grid_rays(origins, directions, aabb, len(occupancy), step_size, near, far, jitter)
        samples: Samples = module.march(rays, occupancy.contiguous(), step_size)
    return samples


def grid_rays(
    origins: Tensor,
    directions: Tensor,
    aabb: Tensor,
    resolution: int,
    step_size: float,
    near: float,
    far: float,
    jitter: Tensor | None,
) -> GridRays:
    """The lattice of each ray, in the rays' precision. Arguments as in `march`."""
    low, high = aabb.to(origins)
    scale = resolution / (high - low)
    origins, directions = (origins - low) * scale, directions * scale
    directions = torch.where(directions.abs() < _PARALLEL, 0.0, directions)
    t_enter, t_exit = _box_interval(origins, directions, resolution)
    t_enter, t_exit = t_enter.clamp(min=near), t_exit.clamp(max=far)
    hit = (t_enter < t_exit) & t_exit.isfinite()
    t_first = torch.where(hit, t_enter, 0.0)
    if jitter is not None:
        t_first = t_first + jitter.to(origins) * step_size
    steps = ((t_exit - t_first) / step_size - 0.5).ceil()
    steps = torch.where(hit, steps, 0.0).clamp(min=0).int()
    return GridRays(origins.contiguous(), directions.contiguous(), t_first, steps)


def _box_interval(origins: Tensor, directions: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Distances [R] at which rays enter and leave the box [0, resolution]^3; a ray misses it if enter >= leave."""
    parallel = directions == 0
    inside = (origins >= 0) & (origins <= resolution)
    t_low, t_high = -origins / directions, (resolution - origins) / directions
    enter = torch.where(parallel, torch.where(inside, -math.inf, math.inf), torch.minimum(t_low, t_high))
    leave = torch.where(parallel, math.inf, torch.maximum(t_low, t_high))
    return enter.amax(-1), leave.amin(-1)
