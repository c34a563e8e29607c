"""Classifier-free guidance (Ho & Salimans 2022)."""

import torch
from torch import Tensor

from liftstudio.errors import InputError


def triangle(frames: int, least: float = 1.0, most: float = 2.5) -> Tensor:
    """[T] guidance scales of a closed orbit: `least` at both ends, `most` half-way, linear between.

    The defaults are those of SV3D: weak where the input image is near, strong behind the object.
    """
    half_way = 1 - (2 * torch.linspace(0, 1, frames) - 1).abs()
    return least + (most - least) * half_way


def check_guidance_scale(value: float) -> None:
    """Raise for an option `guidance_scale` that is neither 0 (what suits the prior) nor 1 or more.

    Raises:
        InputError: naming the option.
    """
    if value != 0 and not value >= 1:
        raise InputError(f"guidance_scale: wanted 1 or more, or 0 for what suits the prior, got {value:g}")


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """u + g (c - u) of two estimates [T, ...] with a scale per frame [T]."""
    per_frame = scale.to(conditional).reshape(-1, *[1] * (conditional.ndim - 1))
    return unconditional + per_frame * (conditional - unconditional)
