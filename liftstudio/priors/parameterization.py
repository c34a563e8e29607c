"""Conversions between what denoising networks predict (x0, epsilon, v), at z = x0 + sigma * eps.

The variance-preserving form of the same latents is z / sqrt(1 + sigma^2) = sqrt(abar) x0 + sqrt(1 - abar) eps with
abar = 1 / (1 + sigma^2); v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D).
All functions work elementwise on tensors that broadcast, and on numbers.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """Coefficients of x0 = c_out F(c_in z; c_noise) + c_skip z for a network F (Karras et al. 2022, eq. 7).

    All have sigma's shape and dtype.
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def v_scaling(sigma: Tensor) -> Scaling:
    """Return the EDM coefficients of a network that predicts v and is given c_noise = ln(sigma) / 4.

    Stable Video Diffusion and its descendants use them.
    """
    root = (sigma**2 + 1).sqrt()
    return Scaling(1 / (sigma**2 + 1), -sigma / root, 1 / root, 0.25 * sigma.log())


def x0_from_epsilon(z: Tensor, epsilon: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the clean latents, given the noisy ones and the noise in them."""
    return z - sigma * epsilon


def epsilon_from_x0(z: Tensor, x0: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the noise in noisy latents, given the clean ones."""
    return (z - x0) / sigma


def x0_from_v(z: Tensor, v: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the clean latents, given the noisy ones and v."""
    return z / (1 + sigma**2) - sigma / (1 + sigma**2) ** 0.5 * v


def v_from_x0(z: Tensor, x0: Tensor, sigma: Tensor | float) -> Tensor:
    """Return v, given the noisy and the clean latents."""
    return (epsilon_from_x0(z, x0, sigma) - sigma * x0) / (1 + sigma**2) ** 0.5


def sigma_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """Return the noise level for a discrete schedule's cumulative product of alphas, in (0, 1]."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_from_sigma(sigma: Tensor) -> Tensor:
    """Return the share of the signal in the variance of the variance-preserving form, in (0, 1]."""
    return 1 / (1 + sigma**2)
