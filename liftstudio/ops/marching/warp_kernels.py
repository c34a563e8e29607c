"""Marching on CUDA (and, in tests, Warp's CPU device): one thread per ray, a counting pass, then a filling pass."""
# `int(0)` declares a variable that a loop may change; Warp's annotations are calls, which mypy cannot read.
# ruff: noqa: UP018, RUF046
# mypy: disable-error-code="valid-type, no-untyped-def, operator"

import torch
import warp as wp
from torch import Tensor

from liftstudio.ops.marching import GridRays, Samples
from liftstudio.ops.warp_runtime import launch


def march(rays: GridRays, occupancy: Tensor, step_size: float) -> Samples:
    """Samples of `rays` in the occupied cells of `occupancy` [G, G, G]; float32."""
    device, total = occupancy.device, len(rays.steps)
    lines = (rays.origins, rays.directions, rays.t_first, rays.steps, occupancy.view(torch.uint8), step_size)
    offsets = torch.zeros(total + 1, dtype=torch.int64, device=device)
    launch(_count, total, *lines, offsets, device=device)
    offsets = offsets.cumsum(0)
    ray_index = torch.empty(int(offsets[-1]), dtype=torch.int64, device=device)
    t_start, t_end = (torch.empty(len(ray_index), device=device) for _ in range(2))
    launch(_fill, total, *lines, offsets, ray_index, t_start, t_end, device=device)
    return Samples(ray_index, t_start, t_end, offsets)


@wp.func
def _is_kept(
    origins: wp.array2d(dtype=float),
    directions: wp.array2d(dtype=float),
    t_first: float,
    cells: wp.array3d(dtype=wp.uint8),
    step: float,
    ray: int,
    k: int,
) -> bool:
    t = t_first + (float(k) + 0.5) * step
    # Clamped, as rounding may put a border point just outside.
    last = cells.shape[0] - 1
    x = wp.clamp(int(origins[ray, 0] + t * directions[ray, 0]), 0, last)
    y = wp.clamp(int(origins[ray, 1] + t * directions[ray, 1]), 0, last)
    z = wp.clamp(int(origins[ray, 2] + t * directions[ray, 2]), 0, last)
    return cells[x, y, z] != wp.uint8(0)


@wp.kernel(enable_backward=False)
def _count(
    origins: wp.array2d(dtype=float),
    directions: wp.array2d(dtype=float),
    t_first: wp.array(dtype=float),
    steps: wp.array(dtype=int),
    cells: wp.array3d(dtype=wp.uint8),
    step: float,
    offsets: wp.array(dtype=wp.int64),
):
    ray = wp.tid()
    count = int(0)
    for k in range(steps[ray]):
        if _is_kept(origins, directions, t_first[ray], cells, step, ray, k):
            count += 1
    offsets[ray + 1] = wp.int64(count)


@wp.kernel(enable_backward=False)
def _fill(
    origins: wp.array2d(dtype=float),
    directions: wp.array2d(dtype=float),
    t_first: wp.array(dtype=float),
    steps: wp.array(dtype=int),
    cells: wp.array3d(dtype=wp.uint8),
    step: float,
    offsets: wp.array(dtype=wp.int64),
    ray_index: wp.array(dtype=wp.int64),
    t_start: wp.array(dtype=float),
    t_end: wp.array(dtype=float),
):
    ray = wp.tid()
    s = offsets[ray]
    for k in range(steps[ray]):
        if _is_kept(origins, directions, t_first[ray], cells, step, ray, k):
            ray_index[s] = wp.int64(ray)
            t_start[s] = t_first[ray] + float(k) * step
            t_end[s] = t_first[ray] + float(k + 1) * step
            s += wp.int64(1)
