"""Marching in plain torch: look up every lattice sample, keep those in occupied cells."""

import torch
from torch import Tensor

from liftstudio.ops.marching import GridRays, Samples

_CHUNK = 1 << 20  # lattice samples looked up at a time, to bound memory


def march(rays: GridRays, occupancy: Tensor, step_size: float) -> Samples:
    """Samples of `rays` in the occupied cells of `occupancy` [G, G, G]; any device and precision."""
    longest = int(rays.steps.max()) if len(rays.steps) else 0
    size = max(1, _CHUNK // max(1, longest))
    parts = [slice(i, i + size) for i in range(0, max(1, len(rays.steps)), size)]
    kept = [_kept_steps(rays, part, occupancy, step_size) for part in parts]
    ray_index, step = torch.cat(kept, dim=1)
    t_first, step = rays.t_first[ray_index], step.to(rays.t_first)
    counts = torch.bincount(ray_index, minlength=len(rays.steps))
    return Samples(
        ray_index=ray_index,
        t_start=t_first + step * step_size,
        t_end=t_first + (step + 1) * step_size,
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    )


def _kept_steps(rays: GridRays, part: slice, occupancy: Tensor, step_size: float) -> Tensor:
    """Ray and lattice step [2, S] int64 of the samples that are kept of the rays in `part`."""
    steps = rays.steps[part, None]
    k = torch.arange(int(steps.max()) if len(steps) else 0, device=steps.device)
    t_mid = rays.t_first[part, None] + (k + 0.5).to(rays.t_first) * step_size
    resolution = len(occupancy)
    cell = torch.zeros_like(t_mid, dtype=torch.int64)
    for origin, direction in zip(rays.origins[part].unbind(1), rays.directions[part].unbind(1), strict=True):
        position = origin[:, None] + t_mid * direction[:, None]
        cell = cell * resolution + position.long().clamp(0, resolution - 1)
    ray, step = ((k < steps) & occupancy.view(-1)[cell]).nonzero(as_tuple=True)
    return torch.stack([ray + part.start, step])
