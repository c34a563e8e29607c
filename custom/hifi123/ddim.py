"""Deterministic DDIM in both directions (Song et al. 2021, eq. 12 with sigma = 0), as pure functions of tensors.

A state is x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps ("variance preserving"). The caller passes in the noise
prediction as a function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.checks import check_range

Predict = Callable[[Tensor, int], Tensor]  # states [B, C, h, w], timestep -> the noise in them
OnStep = Callable[[int, Tensor, Tensor], None]  # level reached, states there, noise that led there

_FIRST = 1  # step 0 joins levels of equal noise: it changes nothing, and the network is not evaluated


@dataclass(frozen=True)
class TimestepGrid:
    """N steps between N + 1 noise levels; both directions use the same steps and give the network the same timesteps.

    timesteps:  [N] ascending: step i joins levels i and i + 1, and the network is given timesteps[i].
    alpha_bars: [N + 1] of the levels. Level i + 1 is that of timesteps[i]. Level 0, the clean latents, is also given
                that of timesteps[0], so levels 0 and 1 are equal.
    """

    timesteps: tuple[int, ...]
    alpha_bars: tuple[float, ...]

    @classmethod
    def of(cls, alpha_bars: Tensor, steps: int) -> "TimestepGrid":
        """Return the grid of the official release: timesteps 0, r, 2 r, ... with r = T // steps, never the last one.

        Args:
            alpha_bars: [T] cumulative product of the alphas up to each timestep.
            steps: N.

        Raises:
            InputError: fewer than 2 steps, or more than T.
        """
        check_range("steps", steps, 2, len(alpha_bars))
        timesteps = len(alpha_bars) // steps * torch.arange(steps)
        levels = alpha_bars.double()[torch.cat([timesteps[:1], timesteps])]
        return cls(tuple(timesteps.tolist()), tuple(levels.tolist()))

    @property
    def steps(self) -> int:
        """Number of steps, N."""
        return len(self.timesteps)


def clean_latents(state: Tensor, epsilon: Tensor, alpha_bar: float) -> Tensor:
    """Return the estimate of x0 in a state that has the noise `epsilon` in it."""
    return (state - (1 - alpha_bar) ** 0.5 * epsilon) / alpha_bar**0.5


def move(state: Tensor, epsilon: Tensor, alpha_bar: float, alpha_bar_next: float) -> Tensor:
    """Return the state at `alpha_bar_next` of one at `alpha_bar` with the noise `epsilon`; in either direction."""
    return alpha_bar_next**0.5 * clean_latents(state, epsilon, alpha_bar) + (1 - alpha_bar_next) ** 0.5 * epsilon


@torch.no_grad()
def invert(predict: Predict, latents: Tensor, grid: TimestepGrid, levels: int, on_step: OnStep | None = None) -> Tensor:
    """Return the states [levels + 1, *latents.shape] at levels 0 to `levels` that DDIM would sample `latents` from.

    As in the release, the noise in a state at level i is predicted with the timestep of level i + 1. No gradient.

    Args:
        predict: noise prediction.
        latents: [B, C, h, w] clean; float32, whatever the network computes in.
        grid: timesteps and noise levels.
        levels: last level; N steps end at level N.
        on_step: called after each step.

    Raises:
        InputError: `levels` is not in the grid.
    """
    check_range("levels", levels, 1, grid.steps)
    states = [latents, latents]
    for step in range(_FIRST, levels):
        epsilon = predict(states[-1], grid.timesteps[step])
        states.append(move(states[-1], epsilon, grid.alpha_bars[step], grid.alpha_bars[step + 1]))
        if on_step is not None:
            on_step(step + 1, states[-1], epsilon)
    return torch.stack(states)


@torch.no_grad()
def sample(
    predict: Predict, state: Tensor, grid: TimestepGrid, start: int, stop: int = 0, on_step: OnStep | None = None
) -> Tensor:
    """Return the state at level `stop` sampled from one at level `start`; level 0: clean latents. No gradient.

    Calls from a to b and from b to c give the same as one call from a to c.

    Args:
        predict: noise prediction.
        state: [B, C, h, w] float32.
        grid: timesteps and noise levels.
        start: level of `state`.
        stop: level of the result.
        on_step: called after each step.

    Raises:
        InputError: the levels are not in the grid, or do not descend.
    """
    check_range("start", start, 0, grid.steps)
    check_range("stop", stop, 0, start)
    for step in reversed(range(max(stop, _FIRST), start)):
        epsilon = predict(state, grid.timesteps[step])
        state = move(state, epsilon, grid.alpha_bars[step + 1], grid.alpha_bars[step])
        if on_step is not None:
            on_step(step, state, epsilon)
    return state
