"""Volume-rendering quadrature over packed samples (NeRF, Mildenhall et al. 2020, eq. 3)."""

import importlib
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for
from liftstudio.ops.marching import Samples

_MODULES = {"reference": "reference", "numba": "cpu", "warp": "warp_kernels", "nerfacc": "nerfacc"}


@dataclass(frozen=True)
class Composite:
    """What S samples add up to along R rays.

    weights: [S] w_i = T_i alpha_i, the share of sample i in its ray's result, in [0, 1].
    opacity: [R, 1] sum of the weights, in [0, 1].
    values: [R, C] weighted sum of the samples' values (premultiplied by opacity).
    depth: [R, 1] weighted sum of the samples' midpoints: distance along the ray, not divided by opacity.
    distortion: [R, 1] mip-NeRF 360 (Barron et al. 2022) eq. 15 on world-space intervals, or None when not asked for.
    """

    weights: Tensor
    opacity: Tensor
    values: Tensor
    depth: Tensor
    distortion: Tensor | None


def composite(sigma: Tensor, values: Tensor, samples: Samples, distortion: bool = False) -> Composite:
    """Composite samples along their rays, front to back.

    alpha_i = 1 - exp(-sigma_i (t_end_i - t_start_i)); T_i is the product of 1 - alpha_j over the samples before i on
    its ray. Differentiable in sigma and values, once by the kernels and twice by the reference, through every field
    of the result. Computed in float32, or in float64 (by the reference) where sigma is.

    Args:
        sigma: [S] density per world unit, >= 0 and finite.
        values: [S, C] what to accumulate, any C >= 0.
        samples: where the samples lie.
        distortion: whether to compute the distortion as well.

    Raises:
        ValueError: when sigma or values do not have one row per sample.
    """
    count = len(samples.t_start)
    check_shape("sigma", sigma, (count,))
    check_shape("values", values, (count, "C"))
    dtype = torch.float64 if sigma.dtype == torch.float64 else torch.float32
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('compositing', sigma)]}")
    result: Composite = module.composite(sigma.to(dtype), values.to(dtype), samples, distortion)
    return result
