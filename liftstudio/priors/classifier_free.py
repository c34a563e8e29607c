"""Classifier-free guidance (Ho & Salimans 2022)."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from torch import Tensor

from liftstudio.core.ranges import Range

Shown = TypeVar("Shown")  # what a network is shown besides noisy latents

GuidanceScale = Annotated[float, Range(1, or_zero=True)]  # 0: what suits the prior


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
