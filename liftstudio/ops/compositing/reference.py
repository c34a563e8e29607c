"""Compositing in plain torch: sums over packed samples, differentiable to any order, any device and precision."""

from collections.abc import Callable

import torch
from torch import Tensor

from liftstudio.ops.compositing import Composite
from liftstudio.ops.marching import Samples


def composite(sigma: Tensor, values: Tensor, samples: Samples, distortion: bool) -> Composite:
    """See the package's `composite`."""
    optical_depth = sigma * (samples.t_end - samples.t_start)
    transmittance = torch.exp(-sum_before(optical_depth, samples))
    weights = transmittance * -torch.expm1(-optical_depth)
    return accumulate(weights, values, samples, distortion, lambda x: sum_before(x, samples))


def accumulate(
    weights: Tensor, values: Tensor, samples: Samples, distortion: bool, before: Callable[[Tensor], Tensor]
) -> Composite:
    """The `Composite` of given weights; `before` maps [S] values to their sums over the previous samples on the ray."""
    t_mid = samples.t_mid
    columns = [weights[:, None], (weights * t_mid)[:, None], weights[:, None] * values]
    if distortion:
        # Eq. 15 is symmetric: twice the sum over the ordered pairs, which needs no absolute value.
        pairs = 2 * weights * (t_mid * before(weights) - before(weights * t_mid))
        columns.append((pairs + weights**2 * (samples.t_end - samples.t_start) / 3)[:, None])
    sums = torch.cat(columns, dim=1)
    sums = sums.new_zeros(len(samples.offsets) - 1, sums.shape[1]).index_add(0, samples.ray_index, sums)
    opacity, depth, accumulated = sums[:, :1], sums[:, 1:2], sums[:, 2 : 2 + values.shape[1]]
    return Composite(weights, opacity, accumulated, depth, sums[:, -1:] if distortion else None)


def sum_before(x: Tensor, samples: Samples) -> Tensor:
    """Sums [S] of `x` over the samples before each sample on its ray."""
    # One running sum over all rays; in float64, as differences of large numbers are taken.
    running = torch.cat([x.new_zeros(1, dtype=torch.float64), x.double().cumsum(0)])
    return (running[:-1] - running[samples.offsets[:-1]][samples.ray_index]).to(x)
