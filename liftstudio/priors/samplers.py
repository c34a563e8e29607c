"""Noise schedules and samplers (Karras et al. 2022; Song et al. 2021)."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.priors.parameterization import sigma_from_alpha_bar

LEAST_SCHEDULE = 0.85  # least share of the timesteps that DDIM's steps span; with less they start far below full noise
Denoise = Callable[[Tensor, float], Tensor]


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Return [steps + 1] float32 noise levels, from `sigma_max` to `sigma_min` and then 0 (Karras et al. 2022, eq. 5).

    Raises:
        InputError: fewer than 1 step, or noise levels that are not 0 < sigma_min <= sigma_max.
    """
    check_range("steps", steps, 1)
    if not 0 < sigma_min <= sigma_max:
        raise InputError(f"noise levels: expected 0 < sigma_min <= sigma_max, got {sigma_min:g} and {sigma_max:g}")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (high + torch.linspace(0, 1, steps) * (low - high)) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def scaled_linear_alpha_bars(timesteps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Return the cumulative products of alphas of Stable Diffusion's schedule, [timesteps] float64.

    The square root of beta rises linearly (Rombach et al. 2022 and its released code); `first` and `last` are betas.
    """
    betas = torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def scaled_linear_levels() -> Tensor:
    """Return the ascending noise levels of that schedule, [1000] float64."""
    return sigma_from_alpha_bar(scaled_linear_alpha_bars())


def nearest_timestep(levels: Tensor, sigma: float) -> int:
    """Return the timestep of a schedule with noise levels [T] that is nearest to `sigma` by logarithm."""
    return int((levels.log() - math.log(sigma)).abs().argmin())


def ddim_sigmas(levels: Tensor, steps: int) -> Tensor:
    """Return [steps + 1] noise levels of a schedule, at descending timesteps 1 + k i, k = T // steps, and last at 0.

    This is the choice of DDIM in Stable Diffusion and its descendants.

    Args:
        levels: [T] noise level of each timestep, ascending.

    Raises:
        InputError: fewer than 1 step, T or more, or a number for which the rounding of k leaves the first level far
            below full noise (such as somewhat more than T / 2 or T / 3).
    """
    check_range("steps", steps, 1, len(levels) - 1)
    timesteps = 1 + len(levels) // steps * torch.arange(steps - 1, -1, -1)
    if steps > 1 and timesteps[0] + len(levels) // steps < LEAST_SCHEDULE * len(levels):
        fitting = len(levels) // math.ceil(len(levels) / steps)
        raise InputError(
            f"steps: {steps} would start below full noise, at timestep {timesteps[0]}; use {fitting} instead"
        )
    return levels[torch.cat([timesteps, timesteps.new_zeros(1)])]


def euler(
    denoise: Denoise, noise: Tensor, sigmas: Tensor, on_step: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """Sample clean latents by Euler steps along the probability-flow ODE (Karras et al. 2022, alg. 1, S_churn = 0).

    With `ddim_sigmas` these are the steps of DDIM with eta = 0.

    Args:
        denoise: returns the estimate of x0 from (noisy latents, noise level), in the form z = x0 + sigma * eps.
        noise: unit normal, of the latents' shape; sampling starts at noise * sqrt(1 + sigmas[0]^2).
        sigmas: [steps + 1] descending noise levels; the last may be above 0, as in `ancestral`.
        on_step: called after each step with (its number from 0, the latents).
    """
    levels = sigmas.tolist()
    latents = noise * (1 + levels[0] ** 2) ** 0.5
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        slope = (latents - denoise(latents, sigma)) / sigma
        latents = latents + (sigma_next - sigma) * slope
        if on_step is not None:
            on_step(step, latents)
    return latents / (1 + levels[-1] ** 2) ** 0.5


def ancestral(
    denoise: Denoise, noises: Iterator[Tensor], sigmas: Tensor, on_step: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """Sample clean latents by ancestral steps: DDIM with eta = 1 (Song et al. 2021, eq. 12 and 16).

    In the form z = x0 + sigma * eps, a step from noise level a to b is z_b = x0 + b^2 / a eps + b sqrt(1 - b^2 / a^2) n
    with new noise n, which the last step omits.

    Args:
        denoise: returns the estimate of x0 from (noisy latents, noise level), in that form.
        noises: unit normal, of the latents' shape: for the start (times sqrt(1 + sigmas[0]^2)), then for each step but
            the last.
        sigmas: [steps + 1] descending noise levels; if the last is above 0, the remaining noise stays in the result,
            which is z / sqrt(1 + sigmas[-1]^2).
        on_step: called after each step with (its number from 0, z).
    """
    levels = sigmas.tolist()
    latents = next(noises) * (1 + levels[0] ** 2) ** 0.5
    last = len(levels) - 2
    for step, (sigma, sigma_next) in enumerate(pairwise(levels)):
        clean = denoise(latents, sigma)
        latents = clean + (sigma_next / sigma) ** 2 * (latents - clean)
        if step < last:
            latents = latents + sigma_next * (1 - (sigma_next / sigma) ** 2) ** 0.5 * next(noises)
        if on_step is not None:
            on_step(step, latents)
    return latents / (1 + levels[-1] ** 2) ** 0.5
