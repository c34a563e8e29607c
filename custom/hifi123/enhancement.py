"""Reference-guided novel view enhancement, RGNV (Yu et al. 2023, "HiFi-123"): views are inverted, then sampled anew
with the attention of a reference, which was inverted likewise."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.checks import check_range

from .ddim import OnStep, Predict, TimestepGrid, invert, sample
from .denoising import Prompts, inverting, with_cached_reference
from .injection import LAST_QUARTER, KeysValues, injection


@dataclass(frozen=True)
class Form:
    """How far views are inverted, and where they look at the reference; the defaults are those of the release.

    levels:         steps of inversion, and of sampling.
    injected:       how many of the last steps of sampling have the reference's attention.
    guidance_scale: of sampling; inversion is not guided.
    last_layers:    self-attentions that look at the reference, counted from the last; 0: the last quarter of all.
    """

    levels: int
    injected: int
    guidance_scale: float = 9.0
    last_layers: int = LAST_QUARTER

    def __post_init__(self) -> None:
        check_range("levels", self.levels, 2)
        check_range("injected", self.injected, 0, self.levels)
        check_range("guidance_scale", self.guidance_scale, 1)

    @classmethod
    def symmetric(cls, levels: int = 30, **options: Any) -> "Form":
        """The paper's simplified form: part of the way, with the reference's attention in all steps of sampling."""
        return cls(levels, levels, **options)

    @classmethod
    def full_range(cls, steps: int = 50, start_step: int = 4, **options: Any) -> "Form":
        """The release's form: all steps of the grid, with the reference's attention from the step `start_step` on."""
        return cls(steps, steps - start_step, **options)

    def reference_calls(self, *, stored: bool = True) -> int:
        """Calls of the network by `prepare_reference`; the first of the steps costs none."""
        sampled = self.injected if stored else self.levels
        return self.levels - 1 + max(0, sampled - 1)

    @property
    def view_calls(self) -> int:
        """Calls of the network by `enhance`, to the clean latents."""
        return 2 * (self.levels - 1)


@dataclass(frozen=True)
class Reference:
    """What enhancement needs of a reference view: made once, used for all views.

    states:      [levels + 1, 1, 4, h, w] of its inversion.
    keys_values: timestep -> layer -> keys and values, at the steps with its attention. At 64 x 64 latents of Stable
                 Diffusion 18 MB per step in half precision.
    """

    states: Tensor
    keys_values: dict[int, KeysValues]


def prepare_reference(
    unet: Any, latents: Tensor, depth: Tensor, empty: Tensor, grid: TimestepGrid, form: Form, *, stored: bool = True
) -> Reference:
    """Inversion of a reference, and its keys and values at all steps where views look at it.

    Args:
        latents: [1, 4, h, w] clean, float32.
        depth: [1, 1, h, w] in [-1, 1].
        empty: [1, tokens, D] embedded empty prompt.
        stored: the reference passes the states of its inversion again, and stays exact (the release's option
            `ref_intermediate_latents`); otherwise it is sampled from the last of them, and drifts.
    Raises:
        InputError: more levels than the grid has, or no self-attention at the asked layers.
    """
    plain = inverting(unet, depth, empty)
    with injection(unet, form.last_layers):
        pass  # a UNet without those layers is refused before the long work
    states = invert(plain, latents, grid, form.levels)
    keys_values: dict[int, KeysValues] = {}

    @torch.no_grad()
    def recorded(state: Tensor, timestep: int) -> Tensor:
        with injection(unet, form.last_layers) as found:  # of the reference itself: its result stays
            epsilon = plain(state, timestep)
        keys_values[timestep] = found
        return epsilon

    if stored:
        for step in reversed(range(1, form.injected)):
            recorded(states[step + 1], grid.timesteps[step])
    else:
        sample(recorded, sample(plain, states[-1], grid, form.levels, form.injected), grid, form.injected)
    return Reference(states, keys_values)


def enhance(
    unet: Any,
    latents: Tensor,
    depths: Tensor,
    prompts: Prompts,
    reference: Reference,
    grid: TimestepGrid,
    form: Form,
    on_step: OnStep | None = None,
    stop: int = 0,
) -> Tensor:
    """Enhanced latents [V, 4, h, w] of views: inverted, and sampled with the reference's attention.

    The same as `ddim.sample` by `denoising.beside_reference`, with the reference evaluated once for all views.

    Args:
        latents: [V, 4, h, w] clean, float32.
        depths: [V, 1, h, w] in [-1, 1], made as the reference's.
        reference: prepared with the same grid and form.
        on_step: told after each step of sampling.
        stop: the level where sampling ends, see `ddim.sample`; 0: the clean latents.
    """
    inverted = invert(inverting(unet, depths, prompts.empty), latents, grid, form.levels)[-1]
    predict = with_cached_reference(unet, depths, prompts, form.guidance_scale, reference.keys_values, form.last_layers)
    return sample(predict, inverted, grid, form.levels, stop, on_step)


def sample_with_exchange(
    predict: Predict,
    reference: Tensor,
    novel: Tensor,
    mask: Tensor,
    grid: TimestepGrid,
    level: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents [1 + V, 4, h, w] of the released script: the views begin as the reference and are put in on the way.

    All of them start as the inverted reference. At `level` the views take the place of what is inside the mask, and the
    background goes on as the reference's.

    Args:
        predict: as `denoising.beside_reference`.
        reference: [1, 4, h, w] inverted to the grid's last level.
        novel: [V, 4, h, w] inverted to `level`. The release, which stops inversion at `stop`, puts in states of level
            stop + 1 at level stop - 1; right are levels that agree.
        mask: [V, 1, h, w] in [0, 1], 1 where the object is.
    Raises:
        InputError: `level` is not in the grid.
    """
    both = torch.cat([reference, reference.expand_as(novel)])
    both = sample(predict, both, grid, grid.steps, level, on_step)
    mixed = mask * novel + (1 - mask) * both[1:]
    return sample(predict, torch.cat([both[:1], mixed]), grid, level, on_step=on_step)
