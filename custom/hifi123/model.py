"""Stable Diffusion 2's depth model as functions of its networks: latents of images, embedded texts, noise in states.

Latents and embeddings are float32. The functions that return a `Predict` are what `ddim.invert` and `ddim.sample` are
given.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.network_folders import embed_tokens, token_ids

from .ddim import Predict
from .injection import LAST_QUARTER, KeysValues, injection


def encode(unet: Any, vae: Any, images: Tensor, name: str = "image") -> Tensor:
    """Latents [B, 4, h, w], scaled, of images [B, H, W, 3] in [0, 1]: the mean, not a sample; differentiable.

    Args:
        unet: that the latents are for: it knows for how large images the model was made.
        name: of the images, for the message: "reference".
    Raises:
        InputError: as `check_image_size`.
    """
    check_shape("images", images, ("B", "H", "W", 3))
    check_image_size(name, images.shape[1], images.shape[2], unet, vae)
    pixels = (2 * images.permute(0, 3, 1, 2) - 1).to(vae.dtype)
    return vae.config.scaling_factor * vae.encode(pixels).latent_dist.mode().float()


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images [B, H, W, 3] in [0, 1] of scaled latents [B, 4, h, w]."""
    pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()
    return (pixels.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)


def shrinkage(vae: Any) -> int:
    """Pixels of an image along one side of a pixel of its latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def resolution(unet: Any, vae: Any) -> int:
    """Pixels along a side of the images that the model was made for: 512 for the official one."""
    size = unet.config.sample_size  # checked when its folder was opened
    return shrinkage(vae) * (size if isinstance(size, int) else size[0])


def check_image_size(name: str, height: int, width: int, unet: Any, vae: Any) -> None:
    """Raise for an image that the encoder does not take, before anything is computed.

    Args:
        name: of the image, for the message: "reference".
    Raises:
        InputError: larger than the model was made for, or no multiple of the encoder's shrinkage.
    """
    most, step = resolution(unet, vae), shrinkage(vae)
    if max(height, width) > most:
        raise InputError(f"{name}: {width}x{height} pixels; the encoder takes at most {most}x{most}: reduce the image")
    if height % step or width % step:
        raise InputError(
            f"{name}: {width}x{height} pixels; the encoder takes multiples of {step} only: resize the image"
        )


def check_prompt(tokenizer: Any, tower: Any, text: str) -> None:
    """Raise for a text that has more tokens than the tower takes; its weights are not needed.

    Raises:
        InputError: too many tokens.
    """
    most, count = tower.config.max_position_embeddings, len(token_ids(tokenizer, text))
    if count > most:
        raise InputError(f"prompt: {count - 2} tokens, the text encoder takes at most {most - 2}: shorten it")


def embed_text(tokenizer: Any, tower: Any, text: str) -> Tensor:
    """[1, tokens, D] float32, what the UNet attends to, of a text, padded to the tower's length.

    Raises:
        InputError: the text has more tokens than the tower takes; it is not cut silently.
    """
    check_prompt(tokenizer, tower, text)
    return embed_tokens(tokenizer, tower, [token_ids(tokenizer, text)])


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
        keys_values: by timestep, see `rgnv.prepare_reference`; at others nothing is injected.
    """

    def predict(states: Tensor, timestep: int) -> Tensor:
        cached = keys_values.get(timestep)
        with nullcontext() if cached is None else injection(unet, last_layers, cached):
            return guided_epsilon(unet, states, timestep, depths, prompts, guidance_scale)

    return predict
