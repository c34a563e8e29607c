"""Pictures and texts as Stable Diffusion 2's depth model has them, in float32."""

from typing import Any

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.priors.network_folders import embed_tokens, token_ids


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
