"""What a denoising network may predict, as conversions of one another, at z = x0 + sigma * eps.

The variance-preserving form of the same latents is z / sqrt(1 + sigma^2) = sqrt(abar) x0 + sqrt(1 - abar) eps with
abar = 1 / (1 + sigma^2); v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D).
All functions work elementwise on tensors that broadcast, and on numbers.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """x0 = c_out F(c_in z; c_noise) + c_skip z of a network F (Karras et al. 2022, eq. 7); all as float32 as sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def v_scaling(sigma: Tensor) -> Scaling:
    """The EDM coefficients of a network that predicts v and is told c_noise = ln(sigma) / 4.

    This is what Stable Video Diffusion and its descendants use.
    """
    root = (sigma**2 + 1).sqrt()
    return Scaling(1 / (sigma**2 + 1), -sigma / root, 1 / root, 0.25 * sigma.log())


def x0_from_epsilon(z: Tensor, epsilon: Tensor, sigma: Tensor | float) -> Tensor:
    """The clean latents, of noisy ones and the noise in them."""
    return z - sigma * epsilon


def epsilon_from_x0(z: Tensor, x0: Tensor, sigma: Tensor | float) -> Tensor:
    """The noise in noisy latents, of these and the clean ones."""
    return (z - x0) / sigma


def x0_from_v(z: Tensor, v: Tensor, sigma: Tensor | float) -> Tensor:
    """The clean latents, of noisy ones and v."""
    return z / (1 + sigma**2) - sigma / (1 + sigma**2) ** 0.5 * v


def v_from_x0(z: Tensor, x0: Tensor, sigma: Tensor | float) -> Tensor:
    """v, of noisy and clean latents."""
    return (epsilon_from_x0(z, x0, sigma) - sigma * x0) / (1 + sigma**2) ** 0.5


def sigma_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """Noise level of a discrete schedule's cumulative product of alphas, in (0, 1]."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_from_sigma(sigma: Tensor) -> Tensor:
    """The share of the signal's variance in the variance-preserving form, in (0, 1]."""
    return 1 / (1 + sigma**2)
