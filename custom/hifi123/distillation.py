"""Reference-guided state distillation, RGSD (Yu et al. 2023, "HiFi-123", sec. 3.2): pure functions of tensors.

The paper's formulas are lost in its published text; these are rebuilt from what it says of them. A render's latents z
are inverted to a noisy state and sampled with the reference's attention to a level of noise alpha, where the state is
x~ and the noise that led there eps~. The loss is the distance of x~ from z with the same noise in it,

    || sqrt(alpha) z + sqrt(1 - alpha) eps~ - x~ ||^2  =  alpha || z - x0~ ||^2,

with x0~ the estimate of the clean latents in x~ by eps~, that is, the one of the last step of sampling. All but z is
held fixed: no gradient passes the network.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.checks import check_range

from .ddim import TimestepGrid, clean_latents
from .denoising import Prompts
from .enhancement import Form, Reference, enhance


@dataclass(frozen=True)
class Target:
    """A state of enhanced views, where their latents ought to be.

    state:     [B, 4, h, w] at the level.
    epsilon:   [B, 4, h, w] the noise that led there.
    alpha_bar: of the level; 1: clean latents.
    """

    state: Tensor
    epsilon: Tensor
    alpha_bar: float

    def clean(self) -> Tensor:
        """The estimate of the clean latents in the state."""
        return clean_latents(self.state, self.epsilon, self.alpha_bar)


def enhanced_target(
    unet: Any,
    latents: Tensor,
    depths: Tensor,
    prompts: Prompts,
    reference: Reference,
    grid: TimestepGrid,
    form: Form,
    level: int,
) -> Target:
    """The state at `level` of views that are inverted and sampled with the reference's attention; no gradient.

    Args:
        latents, depths, prompts, reference, grid, form: as `enhancement.enhance`.
        level: 0: the clean latents; else below `form.levels`, and above 1, which is as clean as 0.
    Raises:
        InputError: the level is not one that sampling reaches.
    """
    check_range("level", level, 0, form.levels - 1)
    epsilon = torch.zeros_like(latents)

    def keep(_: int, __: Tensor, noise: Tensor) -> None:
        nonlocal epsilon
        epsilon = noise

    state = enhance(unet, latents.detach(), depths, prompts, reference, grid, form, keep, level)
    return Target(state, epsilon, 1.0 if level == 0 else grid.alpha_bars[level])


def state_distance(latents: Tensor, target: Target, mask: Tensor | float = 1.0) -> Tensor:
    """Mean squared distance of noised latents [B, 4, h, w] from a target, over all their numbers.

    Its gradient with respect to the N numbers of the latents is 2 M alpha (z - x0~) / N.

    Args:
        mask: M in [0, 1], broadcast against the latents; no gradient flows to it.
    """
    noised = target.alpha_bar**0.5 * latents + (1 - target.alpha_bar) ** 0.5 * target.epsilon.detach()
    weights = torch.as_tensor(mask, device=latents.device).detach()
    return (weights * (noised - target.state.detach()).square()).mean()
