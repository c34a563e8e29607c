"""Classifier-free guidance (Ho & Salimans 2022)."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from torch import Tensor

from liftstudio.core.ranges import Range

Shown = TypeVar("Shown")  # inputs of a network other than noisy latents

GuidanceScale = Annotated[float, Range(1, or_zero=True)]  # 0: the prior's default


def guided(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Return u + g (c - u) for two estimates c, u [T, ...] and a scale g per frame [T]."""
    per_frame = scale.to(conditional).reshape(-1, *[1] * (conditional.ndim - 1))
    return unconditional + per_frame * (conditional - unconditional)


def guided_estimate(
    estimate: Callable[[Sequence[Shown]], Tensor], conditional: Shown, unconditional: Shown, scale: Tensor | None
) -> Tensor:
    """Return the guided estimate [T, ...]; a branch that does not count is not evaluated.

    Args:
        estimate: returns estimates [N, T, ...] under N conditions, 1 or 2, in one batch.
        conditional: the network's inputs with the condition.
        unconditional: the same without it.
        scale: [T] per frame; None or all 1: only the conditional estimate; all 0: only the unconditional one.
    """
    if scale is None or bool((scale == 1).all()):
        return estimate([conditional])[0]
    if bool((scale == 0).all()):
        return estimate([unconditional])[0]
    both = estimate([conditional, unconditional])
    return guided(both[0], both[1], scale)
