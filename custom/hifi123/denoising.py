"""The noise in views of one object by a depth-conditioned UNet: guidance and the reference about the network.

The functions that end in `Predict` are what `ddim.invert` and `ddim.sample` are given.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liftstudio.priors.classifier_free import guided

from .ddim import Predict
from .injection import LAST_QUARTER, KeysValues, injection


@dataclass(frozen=True)
class Prompts:
    """Embedded texts [1, tokens, D].

    empty:  of "": of inversion, of the reference, and the other branch of guidance.
    target: what the views show.
    """

    empty: Tensor
    target: Tensor


def estimate_epsilon(unet: Any, states: Tensor, timestep: int, depths: Tensor, texts: Tensor) -> Tensor:
    """The noise [B, 4, h, w] in states [B, 4, h, w], in their dtype.

    Args:
        depths: [B, 1, h, w] in [-1, 1], see `depth`; not noised.
        texts: [B, tokens, D].
    """
    sample = torch.cat([states, depths.to(states)], dim=1)
    return unet(sample.to(unet.dtype), timestep, texts.to(unet.dtype)).sample.to(states.dtype)


def guided_epsilon(
    unet: Any,
    states: Tensor,
    timestep: int,
    depths: Tensor,
    prompts: Prompts,
    guidance_scale: float,
    references: int = 0,
) -> Tensor:
    """The noise u + g (c - u) [B, 4, h, w]; the first `references` states have the empty prompt and no guidance.

    One call of the network, of references, then u (left out where g is 1), then c: the reference, whose two branches
    would be equal, is evaluated once.
    """
    views, guides = len(states) - references, int(guidance_scale != 1)
    parts = [references, guides * views, views]
    texts = torch.cat([prompts.empty.expand(sum(parts[:2]), -1, -1), prompts.target.expand(views, -1, -1)])
    repeated = [torch.cat([each, *[each[references:]] * guides]) for each in (states, depths)]
    reference, empty, target = estimate_epsilon(unet, repeated[0], timestep, repeated[1], texts).split(parts)
    scale = torch.full((views,), guidance_scale)
    return torch.cat([reference, guided(target, empty, scale) if guides else target])


def inverting(unet: Any, depths: Tensor, empty: Tensor) -> Predict:
    """For inversion: the empty prompt, no guidance (the release's, of equal prompts, has no effect).

    depths: [B, 1, h, w]. empty: [1, tokens, D].
    """
    return lambda states, timestep: estimate_epsilon(unet, states, timestep, depths, empty.expand(len(states), -1, -1))


def beside_reference(
    unet: Any,
    depths: Tensor,
    prompts: Prompts,
    guidance_scale: float,
    inject_below: int,
    last_layers: int = LAST_QUARTER,
) -> Predict:
    """For sampling states [1 + V, 4, h, w], the reference and V views that look at it.

    Args:
        depths: [1 + V, 1, h, w], the reference's first.
        inject_below: attention is injected at timesteps below this one; 0: never.
    """

    def predict(states: Tensor, timestep: int) -> Tensor:
        with injection(unet, last_layers) if timestep < inject_below else nullcontext():
            return guided_epsilon(unet, states, timestep, depths, prompts, guidance_scale, references=1)

    return predict


def with_cached_reference(
    unet: Any,
    depths: Tensor,
    prompts: Prompts,
    guidance_scale: float,
    keys_values: Mapping[int, KeysValues],
    last_layers: int = LAST_QUARTER,
) -> Predict:
    """For sampling states [V, 4, h, w] of views alone, which look at the reference's cached keys and values.

    Args:
        depths: [V, 1, h, w].
        keys_values: by timestep, see `enhancement.prepare_reference`; at others nothing is injected.
    """

    def predict(states: Tensor, timestep: int) -> Tensor:
        cached = keys_values.get(timestep)
        with nullcontext() if cached is None else injection(unet, last_layers, cached):
            return guided_epsilon(unet, states, timestep, depths, prompts, guidance_scale)

    return predict
