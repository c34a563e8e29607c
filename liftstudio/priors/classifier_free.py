"""Classifier-free guidance (Ho & Salimans 2022), plain and decomposed."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import torch
from torch import Tensor

from liftstudio.core.ranges import Range

Shown = TypeVar("Shown")  # what a network is shown besides noisy latents

GuidanceScale = Annotated[float, Range(1, or_zero=True)]  # 0: what suits the prior


def triangle(frames: int, least: float = 1.0, most: float = 2.5) -> Tensor:
    """[T] guidance scales of a closed orbit: `least` at both ends, `most` half-way, linear between.

    The defaults are those of SV3D: weak where the input image is near, strong behind the object.
    """
    half_way = 1 - (2 * torch.linspace(0, 1, frames) - 1).abs()
    return least + (most - least) * half_way


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """u + g (c - u) of two estimates [T, ...] with a scale per frame [T]."""
    per_frame = scale.to(conditional).reshape(-1, *[1] * (conditional.ndim - 1))
    return unconditional + per_frame * (conditional - unconditional)


def guided_estimate(
    estimate: Callable[[Sequence[Shown]], Tensor], conditional: Shown, unconditional: Shown, scale: Tensor | None
) -> Tensor:
    """[T, ...] the guided estimate of what a network is shown with and without a condition, no more than is needed.

    Args:
        estimate: [N, T, ...] estimates of N things shown, 1 or 2, in one batch.
        scale: [T] per frame; None or all 1: the conditional estimate alone; all 0: the unconditional one alone.
    """
    if scale is None or bool((scale == 1).all()):
        return estimate([conditional])[0]
    if bool((scale == 0).all()):
        return estimate([unconditional])[0]
    both = estimate([conditional, unconditional])
    return guided(both[0], both[1], scale)


def rescaled(estimate: Tensor, conditional: Tensor, share: float, frames: int) -> Tensor:
    """A guided estimate of x0 [T, ...] with some of its excess contrast taken away.

    share * std(c) / std(e) e + (1 - share) e (Lin et al. 2023, "Common diffusion noise schedules and sample steps are
    flawed", eq. 14 to 16, here of x0 as in MVDream and ImageDream), the standard deviations over all numbers of each
    `frames` views that belong together.

    Args:
        estimate, conditional: the guided estimate e and the conditional one c, T a multiple of `frames`.
        share: 0 to 1; 0: unchanged.
    """
    objects, of_conditional = (tensor.unflatten(0, (-1, frames)) for tensor in (estimate, conditional))
    deviations = (tensor.flatten(1).std(1) + 1e-8 for tensor in (of_conditional, objects))
    factor = torch.div(*deviations).view(-1, *[1] * (objects.ndim - 1))
    return ((share * factor + 1 - share) * objects).flatten(0, 1)


def decomposed(everything: Tensor, views: Tensor, reference: Tensor, scales: tuple[float, float]) -> Tensor:
    """e + s1 (e - v) + s2 (e - r) of three estimates (Woo et al. 2024, "HarmonyView", as its released code has it).

    s1 strengthens what only the picture tells, by the estimate v without it; s2 what only the other views tell, by the
    estimate r without them. It is the same for estimates of x0 and of the noise.
    """
    s1, s2 = scales
    return everything + s1 * (everything - views) + s2 * (everything - reference)
