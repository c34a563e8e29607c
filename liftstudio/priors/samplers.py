"""Noise levels and the solver that follows them (Karras et al. 2022)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from liftstudio.checks import check_range
from liftstudio.errors import InputError

Denoise = Callable[[Tensor, float], Tensor]


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """[steps + 1] float32 noise levels, from `sigma_max` to `sigma_min` and then 0 (eq. 5).

    Raises:
        InputError: fewer than 1 step, or noise levels that are not 0 < sigma_min <= sigma_max.
    """
    check_range("steps", steps, 1)
    if not 0 < sigma_min <= sigma_max:
        raise InputError(f"noise levels: wanted 0 < sigma_min <= sigma_max, got {sigma_min:g} and {sigma_max:g}")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (high + torch.linspace(0, 1, steps) * (low - high)) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def euler(
    denoise: Denoise, noise: Tensor, sigmas: Tensor, on_step: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """Clean latents by Euler steps along the probability-flow ODE, without added noise (algorithm 1, S_churn = 0).

    Args:
        denoise: estimate of x0 from (noisy latents, noise level), both in the form z = x0 + sigma * eps.
        noise: unit normal, of the latents' shape; the start is noise * sqrt(1 + sigmas[0]^2).
        sigmas: [steps + 1] descending noise levels, the last 0.
        on_step: told (number of the step from 0, latents after it).
    """
    levels = sigmas.tolist()
    latents = noise * (1 + levels[0] ** 2) ** 0.5
    for step, (sigma, following) in enumerate(pairwise(levels)):
        slope = (latents - denoise(latents, sigma)) / sigma
        latents = latents + (following - sigma) * slope
        if on_step is not None:
            on_step(step, latents)
    return latents
