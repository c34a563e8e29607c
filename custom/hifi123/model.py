"""Stable Diffusion 2's depth model as functions of its networks: image latents, text embeddings, noise prediction.

Latents and embeddings are float32. Functions that return a `Predict` are for `ddim.invert` and `ddim.sample`.
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
    """Return scaled latents [B, 4, h, w] of images [B, H, W, 3] in [0, 1]: the mean, not a sample; differentiable.

    Args:
        unet: network the latents are for; its config has the model's resolution.
        vae: autoencoder.
        images: RGB.
        name: of the images, for the error message, for example "reference".

    Raises:
        InputError: as `check_image_size`.
    """
    check_shape("images", images, ("B", "H", "W", 3))
    check_image_size(name, images.shape[1], images.shape[2], unet, vae)
    pixels = (2 * images.permute(0, 3, 1, 2) - 1).to(vae.dtype)
    return vae.config.scaling_factor * vae.encode(pixels).latent_dist.mode().float()


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Return images [B, H, W, 3] in [0, 1] of scaled latents [B, 4, h, w]."""
    pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()
    return (pixels.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)


def shrinkage(vae: Any) -> int:
    """Return the number of image pixels per latent pixel, along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def resolution(unet: Any, vae: Any) -> int:
    """Return the pixels across the images that the model was made for: 512 for the official one."""
    size = unet.config.sample_size  # checked when its folder was opened
    return shrinkage(vae) * (size if isinstance(size, int) else size[0])


def check_image_size(name: str, height: int, width: int, unet: Any, vae: Any) -> None:
    """Raise for an image size that the encoder does not take, before anything is computed.

    Args:
        name: of the image, for the error message, for example "reference".
        height: pixels.
        width: pixels.
        unet: network with the model's resolution.
        vae: autoencoder.

    Raises:
        InputError: larger than the model was made for, or not a multiple of the encoder's downsampling factor.
    """
    most, step = resolution(unet, vae), shrinkage(vae)
    if max(height, width) > most:
        raise InputError(f"{name}: expected at most {most}x{most} pixels, got {width}x{height}: reduce the image")
    if height % step or width % step:
        raise InputError(f"{name}: expected multiples of {step} pixels, got {width}x{height}: resize the image")


def check_prompt(tokenizer: Any, tower: Any, text: str) -> None:
    """Raise for a text with more tokens than the text encoder takes; needs no weights.

    Raises:
        InputError: too many tokens.
    """
    most, count = tower.config.max_position_embeddings, len(token_ids(tokenizer, text))
    if count > most:
        raise InputError(f"prompt: expected at most {most - 2} tokens, got {count - 2}: shorten it")


def embed_text(tokenizer: Any, tower: Any, text: str) -> Tensor:
    """Return the embedding [1, tokens, D] float32 of a text for the UNet, padded to the text encoder's length.

    Raises:
        InputError: the text has more tokens than the text encoder takes; it is never truncated silently.
    """
    check_prompt(tokenizer, tower, text)
    return embed_tokens(tokenizer, tower, [token_ids(tokenizer, text)])


@dataclass(frozen=True)
class Prompts:
    """Embedded texts [1, tokens, D].

    empty:  of "", for inversion, for the reference, and for the unconditional branch of guidance.
    target: of the description of the object.
    """

    empty: Tensor
    target: Tensor


def estimate_epsilon(unet: Any, states: Tensor, timestep: int, depths: Tensor, texts: Tensor) -> Tensor:
    """Return the noise [B, 4, h, w] in states [B, 4, h, w], in their dtype.

    Args:
        unet: the network.
        states: noised latents.
        timestep: for all states.
        depths: [B, 1, h, w] in [-1, 1], see `depth`; not noised.
        texts: [B, tokens, D] embeddings.
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
    """Return the noise u + g (c - u) [B, 4, h, w]; the first `references` states are unguided, with the empty prompt.

    Calls the network once, for references, then u (left out if g is 1), then c. The reference, whose two branches would
    be equal, is evaluated once.
    """
    views, guides = len(states) - references, int(guidance_scale != 1)
    parts = [references, guides * views, views]
    texts = torch.cat([prompts.empty.expand(sum(parts[:2]), -1, -1), prompts.target.expand(views, -1, -1)])
    repeated = [torch.cat([each, *[each[references:]] * guides]) for each in (states, depths)]
    reference, empty, target = estimate_epsilon(unet, repeated[0], timestep, repeated[1], texts).split(parts)
    scale = torch.full((views,), guidance_scale)
    return torch.cat([reference, guided(target, empty, scale) if guides else target])


def inverting(unet: Any, depths: Tensor, empty: Tensor) -> Predict:
    """Return the noise prediction for inversion: empty prompt, no guidance.

    (The release guides between equal prompts, which has no effect.) depths: [B, 1, h, w]. empty: [1, tokens, D].
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
    """Return the noise prediction for sampling states [1 + V, 4, h, w]: the reference and V views that attend to it.

    Args:
        unet: the network.
        depths: [1 + V, 1, h, w], the reference's first.
        prompts: embedded.
        guidance_scale: g in u + g (c - u); 1: none.
        inject_below: attention is injected at timesteps below this one; 0: never.
        last_layers: as `injection`.
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
    """Return the noise prediction for sampling states [V, 4, h, w] of views that attend to cached keys and values.

    Args:
        unet: the network.
        depths: [V, 1, h, w].
        prompts: embedded.
        guidance_scale: g in u + g (c - u); 1: none.
        keys_values: of the reference by timestep, see `rgnv.prepare_reference`; no injection at other timesteps.
        last_layers: as `injection`.
    """

    def predict(states: Tensor, timestep: int) -> Tensor:
        cached = keys_values.get(timestep)
        with nullcontext() if cached is None else injection(unet, last_layers, cached):
            return guided_epsilon(unet, states, timestep, depths, prompts, guidance_scale)

    return predict
