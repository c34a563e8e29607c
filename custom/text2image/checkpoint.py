"""Text-to-image models in diffusers folders: network, autoencoder (if any), noise schedule."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights
from liftstudio.priors.latent_diffusion import Part, check_all_used
from liftstudio.priors.network_folders import autoencoder_part, check_folder, diffusers_part, read_scheduler
from liftstudio.priors.parameterization import sigma_from_alpha_bar

_NOTHING = re.compile(r"(?!)")
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise schedule and prediction type that a network was trained with.

    levels:     [timesteps] float64 ascending noise levels.
    prediction: what the network predicts: "epsilon" or "v_prediction".
    """

    levels: Tensor
    prediction: str


def is_pixel_unet(weights: Weights) -> bool:
    """Return whether these are weights of a diffusers UNet from pixels to noise and variance (DeepFloyd IF stage I)."""
    return _channels(weights) == (3, 6)


def is_latent_unet(weights: Weights) -> bool:
    """Return whether these are weights of a diffusers UNet from a VAE's latents to noise (Stable Diffusion)."""
    return _channels(weights) == (4, 4)


def unet_part(folder: str, channels: tuple[int, int], published: str) -> Part:
    """Return the network in a folder; it is checked, but no weight is read.

    Args:
        channels: expected channels, in and out.

    Raises:
        InputError: there is none, a weight is missing, unknown or has the wrong shape, or it is of another kind.
    """
    check_folder(folder, published)
    from diffusers import UNet2DConditionModel  # takes seconds to import

    part = _checked(diffusers_part(UNet2DConditionModel, f"{folder}/unet", published))
    config = part.module.config
    if (config.in_channels, config.out_channels) != channels:
        raise InputError(
            f"{folder}/unet: {config.in_channels} channels in and {config.out_channels} out; expected {channels[0]} "
            f"and {channels[1]}; {published}"
        )
    if config.addition_embed_type not in (None, "text"):
        raise InputError(
            f"{folder}/unet: needs other inputs besides a text ({config.addition_embed_type}); {published}"
        )
    return part


def vae_part(folder: str, published: str) -> Part:
    """Return the autoencoder in a folder; it is checked, but no weight is read.

    Raises:
        InputError: there is none, or the scale of its latents is not Stable Diffusion's.
    """
    check_folder(folder, published)
    return _checked(autoencoder_part(f"{folder}/vae", published))


def read_schedule(folder: str, published: str) -> NoiseSchedule:
    """Read the noise schedule in a folder.

    Raises:
        InputError: there is none, or the network predicts neither noise nor v.
    """
    from diffusers import DDPMScheduler

    options = read_scheduler(folder, ("epsilon", "v_prediction"), published)
    try:
        scheduler: Any = DDPMScheduler(**{name: options[name] for name in _BETAS if name in options})
    except Exception as error:  # invalid options raise many types
        raise InputError(f"{folder}/scheduler: not a noise schedule ({error}); {published}") from error
    levels = sigma_from_alpha_bar(scheduler.alphas_cumprod.to(torch.float64))
    return NoiseSchedule(levels, options["prediction_type"])


def _channels(weights: Weights) -> tuple[int, ...]:
    return (*weights.shapes.get("conv_in.weight", ())[1:2], *weights.shapes.get("conv_out.weight", ())[:1])


def _checked(part: Part) -> Part:
    part.check()
    check_all_used(part.weights, [part], _NOTHING)
    return part
