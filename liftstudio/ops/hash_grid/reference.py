"""Hash-grid encoding in plain torch: any device, any float type, differentiable to any order."""

import torch
from torch import Tensor

from liftstudio.ops.hash_grid.spec import PRIMES, HashGridSpec


def hash_encode(points: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """Trilinear interpolation of every level's rows; see `liftstudio.ops.hash_grid.hash_encode`."""
    return torch.cat([_encode_level(points, table, spec, level) for level in range(spec.levels)], dim=1)


def _encode_level(points: Tensor, table: Tensor, spec: HashGridSpec, level: int) -> Tensor:
    """Encoding [N, features] of one level."""
    position = points * spec.scales[level] + 0.5
    cell = position.detach().floor()
    rows = _corner_rows(cell.nan_to_num().long(), spec, level)
    # A flat gather, since its backward, a flat scatter_add, is the fastest that torch has for this.
    index = (rows[..., None] * spec.features + torch.arange(spec.features, device=rows.device)).flatten()
    values = table.flatten().gather(0, index).view(-1, 8, spec.features)
    return (_corner_weights(position - cell)[..., None] * values).sum(1)


def _corner_rows(cell: Tensor, spec: HashGridSpec, level: int) -> Tensor:
    """Table rows [N, 8] of a cell's corners, x fastest."""
    x, y, z = (torch.stack([axis, axis + 1], -1) for axis in cell.unbind(-1))
    if spec.hashed[level]:
        row = (z * PRIMES[2])[:, :, None, None] ^ (y * PRIMES[1])[:, None, :, None] ^ x[:, None, None, :]
    else:
        resolution = spec.resolutions[level]
        row = (z * resolution**2)[:, :, None, None] + (y * resolution)[:, None, :, None] + x[:, None, None, :]
    return (row % spec.sizes[level] + spec.offsets[level]).flatten(1)


def _corner_weights(fraction: Tensor) -> Tensor:
    """Trilinear weights [N, 8] in the order of `_corner_rows`."""
    x, y, z = torch.stack([1 - fraction, fraction], -1).unbind(1)
    return (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).flatten(1)
