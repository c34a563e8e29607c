"""Volume-rendering quadrature of packed samples (NeRF, Mildenhall et al. 2020, eq. 3)."""

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
    """The sums of S samples along R rays.

    weights: [S] w_i = T_i alpha_i, the weight of sample i in its ray's result, in [0, 1].
    opacity: [R, 1] sum of the weights, in [0, 1].
    values: [R, C] weighted sum of the samples' values (premultiplied by opacity).
    depth: [R, 1] weighted sum of the samples' midpoints: distance along the ray, not divided by opacity.
    distortion: [R, 1] mip-NeRF 360 (Barron et al. 2022) eq. 15 on world-space intervals; None if not requested.
    """

    weights: Tensor
    opacity: Tensor
    values: Tensor
    depth: Tensor
    distortion: Tensor | None


def composite(sigma: Tensor, values: Tensor, samples: Samples, distortion: bool = False) -> Composite:
    """Composite samples along their rays, front to back.

    alpha_i = 1 - exp(-sigma_i (t_end_i - t_start_i)); T_i is the product of 1 - alpha_j over the samples before i on
    its ray. All fields of the result are differentiable w.r.t. sigma and values: once with the kernels, twice with the
    reference. Computed in float32, or in float64 (by the reference) if sigma is float64.

    Args:
        sigma: [S] density per world unit, >= 0 and finite.
        values: [S, C] values to accumulate, any C >= 0.
        samples: positions of the samples.
        distortion: whether to compute the distortion.

    Raises:
        ValueError: sigma or values do not have one row per sample.
    """
    count = len(samples.t_start)
    check_shape("sigma", sigma, (count,))
    check_shape("values", values, (count, "C"))
    dtype = torch.float64 if sigma.dtype == torch.float64 else torch.float32
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('compositing', sigma)]}")
    result: Composite = module.composite(sigma.to(dtype), values.to(dtype), samples, distortion)
    return result
