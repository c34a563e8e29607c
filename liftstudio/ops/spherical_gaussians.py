"""Diffuse light from spherical Gaussians, in closed form.

A spherical Gaussian is G(x; axis, sharpness, amplitude) = amplitude exp(sharpness (axis . x - 1)) for unit x.
SV3D (Voleti et al. 2024), section 4; the inner product is that of Tsai and Shih 2006, as SV3D's eq. (1) prints the
difference of the two sharpnesses instead of their sum.
"""

import math

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape

# The clamped cosine around a normal as a spherical Gaussian (SV3D, section 4). It integrates to 3.40 instead of pi.
COSINE_SHARPNESS = 2.133
COSINE_AMPLITUDE = 1.17
COSINE_INTEGRAL = 2 * math.pi * COSINE_AMPLITUDE * -math.expm1(-2 * COSINE_SHARPNESS) / COSINE_SHARPNESS


def irradiance(normals: Tensor, axes: Tensor, sharpness: Tensor, amplitude: Tensor) -> Tensor:
    """Irradiance [N, 1] >= 0 of a surface, divided by pi, so that colour = albedo * irradiance; differentiable.

    normals:   [N, 3] unit vectors.
    axes:      [K, 3] unit vectors towards the lobes' centres.
    sharpness: [K], > 0.
    amplitude: [K], radiance at the lobes' centres; negative contributions are clamped to zero, lobe by lobe.

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
    """Integral over the sphere of the product of two spherical Gaussians; `cosine` is that of the angle of their axes.

    With d = |sharpness axis + other_sharpness other_axis|, it is
    2 pi amplitude other_amplitude exp(d - (sharpness + other_sharpness)) (1 - exp(-2 d)) / d.
    All arguments broadcast. Does not overflow for sharp lobes, and is smooth at d = 0.
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
    """The function sinh(sqrt(x)) / sqrt(x) for x < 0.25, by its Taylor series: error 2e-14, differentiable at 0."""
    return 1 + x / 6 * (1 + x / 20 * (1 + x / 42 * (1 + x / 72 * (1 + x / 110))))
