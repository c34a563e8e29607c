"""Diffuse light from spherical Gaussians, in closed form.

A spherical Gaussian is G(x; axis, sharpness, amplitude) = amplitude exp(sharpness (axis . x - 1)) for unit x.
SV3D (Voleti et al. 2024), section 4; the inner product as in Tsai and Shih 2006: SV3D's eq. (1) prints the difference
of the two sharpnesses where their sum belongs.
"""

import math

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape

# The clamped cosine around a normal as a spherical Gaussian (SV3D, section 4). It integrates to 3.40 instead of pi.
COSINE_SHARPNESS = 2.133
COSINE_AMPLITUDE = 1.17


def irradiance(normals: Tensor, axes: Tensor, sharpness: Tensor, amplitude: Tensor) -> Tensor:
    """Light arriving at a surface, divided by pi, so that colour = albedo * irradiance.

    normals:   [N, 3] unit.
    axes:      [K, 3] unit directions towards the lobes' centres.
    sharpness: [K] > 0.
    amplitude: [K] radiance at the lobes' centres; what a negative one takes away is cut at zero, lobe by lobe.

    Returns [N, 1] >= 0, differentiable in everything.

    Raises:
        ValueError: for wrong shapes.
    """
    check_shape("normals", normals, ("N", 3))
    check_shape("axes", axes, ("K", 3))
    check_shape("sharpness", sharpness, (len(axes),))
    check_shape("amplitude", amplitude, (len(axes),))
    products = inner_product(normals @ axes.T, sharpness, amplitude, COSINE_SHARPNESS, COSINE_AMPLITUDE)
    return products.clamp(min=0).sum(-1, keepdim=True) / math.pi


def inner_product(
    cosine: Tensor, sharpness: Tensor, amplitude: Tensor, other_sharpness: float, other_amplitude: float
) -> Tensor:
    """Integral over the sphere of the product of two spherical Gaussians whose axes make an angle of that `cosine`.

    With d = |sharpness axis + other_sharpness other_axis|, it is
    2 pi amplitude other_amplitude exp(d - (sharpness + other_sharpness)) (1 - exp(-2 d)) / d.
    All arguments broadcast. No overflow for sharp lobes, and smooth through d = 0.
    """
    total = sharpness + other_sharpness
    shortfall = 2 * sharpness * other_sharpness * (cosine - 1)  # d^2 - total^2 <= 0
    d_squared = total.square() + shortfall
    is_small = d_squared < 0.25
    d = torch.where(is_small, torch.ones_like(d_squared), d_squared).sqrt()
    far = torch.exp(shortfall / (d + total)) * -torch.expm1(-2 * d) / d
    near = 2 * torch.exp(-total) * _sinh_over_root(torch.where(is_small, d_squared, torch.zeros_like(d_squared)))
    return 2 * math.pi * amplitude * other_amplitude * torch.where(is_small, near, far)


def _sinh_over_root(x: Tensor) -> Tensor:
    """sinh(sqrt(x)) / sqrt(x) for x below 0.25, by its Taylor series: to 2e-14, and with a derivative at zero."""
    return 1 + x / 6 * (1 + x / 20 * (1 + x / 42 * (1 + x / 72 * (1 + x / 110))))
