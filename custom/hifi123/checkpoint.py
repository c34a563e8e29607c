"""Stable Diffusion 2's depth model as it is published, a folder in diffusers' form: its networks and its tokenizer."""

import re
from dataclasses import dataclass
from typing import Any

from liftstudio.core.assets import SCHEME, input_path
from liftstudio.core.errors import InputError
from liftstudio.core.weights import check_packaged_folder
from liftstudio.priors.latent_diffusion import Part, check_all_used
from liftstudio.priors.network_folders import (
    check_folder,
    check_predicts_noise,
    diffusers_part,
    latent_side,
    open_tokenizer,
    text_tower_part,
)

PUBLISHED = (
    "stable-diffusion-2-depth is Stability AI's, under the CreativeML Open RAIL++-M licence; since its own page was "
    "withdrawn, a copy of the folder (unet/, vae/, text_encoder/, tokenizer/) is at "
    "huggingface.co/sd2-community/stable-diffusion-2-depth"
)

_NOT_USED = re.compile(r"(text_model\.)?embeddings\.position_ids$|logit_scale$|text_projection\.weight$")


@dataclass(frozen=True)
class Parts:
    """The three networks of a folder, and its tokenizer."""

    unet: Part
    vae: Part
    text: Part
    tokenizer: Any


def open_folder(folder: str) -> Parts:
    """UNet, autoencoder, text tower and tokenizer of a folder, all checked, no weight read: `part.load` does that.

    Args:
        folder: in diffusers' form, with .safetensors files; or `owner/name` on the Hugging Face hub.
    Raises:
        InputError: a file is missing (says where the official ones are published, and under which licence) or not
            readable; a weight is missing, unknown or of another shape; sizes or the scale of latents are not numbers;
            the networks do not belong together; or the UNet has no channel for depth, or estimates something other than
            noise.
    """
    check_folder(folder, PUBLISHED)
    if folder.startswith(SCHEME):
        check_packaged_folder(input_path(folder))
    check_predicts_noise(folder, PUBLISHED)
    from diffusers import AutoencoderKL, UNet2DConditionModel  # takes seconds to import

    unet = diffusers_part(UNet2DConditionModel, f"{folder}/unet", PUBLISHED)
    vae = diffusers_part(AutoencoderKL, f"{folder}/vae", PUBLISHED)
    text = text_tower_part(f"{folder}/text_encoder", PUBLISHED)
    for part in (unet, vae, text):
        part.check()
        check_all_used(part.weights, [part], _NOT_USED)
    parts = Parts(unet, vae, text, open_tokenizer(f"{folder}/tokenizer", text.module, PUBLISHED))
    _check_match(folder, parts)
    _check_numbers(parts)
    return parts


def _check_numbers(parts: Parts) -> None:
    """Raise an InputError for what diffusers keeps without a look: the size and the scale of latents."""
    latent_side(parts.unet, PUBLISHED)
    scale = parts.vae.module.config.scaling_factor
    if not (isinstance(scale, int | float) and scale > 0):
        path = parts.vae.weights.path.with_name("config.json")
        raise InputError(f"{path}: scaling_factor: expected a number above 0, got {scale!r}; {PUBLISHED}")


def _check_match(folder: str, parts: Parts) -> None:
    unet, vae, text = (part.module.config for part in (parts.unet, parts.vae, parts.text))
    if unet.in_channels != unet.out_channels + 1:
        raise InputError(
            f"{folder}/unet: {unet.in_channels} channels in and {unet.out_channels} out; a network with a channel "
            f"for depth has one more in than out; {PUBLISHED}"
        )
    for name, wanted, got in (
        ("vae", unet.out_channels, vae.latent_channels),
        ("text_encoder", unet.cross_attention_dim, text.hidden_size),
    ):
        if got != wanted:
            raise InputError(f"{folder}/{name}: it has {got} channels, the UNet beside it wants {wanted}")
