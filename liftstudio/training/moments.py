"""Latents of unit scale: the moments of an autoencoder's latents, measured while it is trained."""

import copy
from typing import Any

import torch
from torch import Tensor

from liftstudio.priors.latent_prior import LATENT_SCALE

LOOK_BACK = 50  # steps that the measured moments go back


def unit_moments(channels: int) -> Tensor:
    """[2, C] mean 0 and mean square 1 of each channel: before anything is measured."""
    return torch.tensor([[0.0], [1.0]]).repeat(1, channels)


def measure(moments: Tensor, latents: Tensor, steps: Tensor) -> None:
    """Let moments [2, C] follow those of latents [B, C, h, w]; steps: [] how many have been measured."""
    found = torch.stack([latents.mean((0, 2, 3)), latents.square().mean((0, 2, 3))])
    moments.lerp_(found.to(moments), 1 / float(steps.clamp(1, LOOK_BACK)))


def mean_and_deviation(moments: Tensor) -> tuple[Tensor, Tensor]:
    """[C] each, of moments [2, C]."""
    mean, square = moments
    return mean, (square - mean.square()).clamp_min(1e-12).sqrt()


@torch.no_grad()
def standardized(autoencoder: Any, moments: Tensor) -> Any:
    """A copy whose latents, times 0.18215, have mean 0 and deviation 1 where the given one's have these moments.

    autoencoder: diffusers' AutoencoderKL; the change is in its two 1x1 convolutions beside the latents.
    """
    scaled = copy.deepcopy(autoencoder)
    mean, deviation = mean_and_deviation(moments)
    encoding, decoding = scaled.quant_conv, scaled.post_quant_conv
    gain = 1 / (LATENT_SCALE * deviation)
    encoding.weight[: len(gain)] *= gain[:, None, None, None]
    encoding.bias.copy_(
        torch.cat([(encoding.bias[: len(gain)] - mean) * gain, encoding.bias[len(gain) :] + 2 * gain.log()])
    )
    decoding.bias += decoding.weight[:, :, 0, 0] @ mean
    decoding.weight /= gain[:, None, None]
    return scaled
