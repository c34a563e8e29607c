"""Running moments of an autoencoder's latents, to rescale the latents to zero mean and unit variance."""

import copy
from typing import Any

import torch
from torch import Tensor

from liftstudio.priors.latent_prior import LATENT_SCALE

LOOK_BACK = 50  # steps that the running moments average over


def unit_moments(channels: int) -> Tensor:
    """Return the initial moments [2, C]: mean 0 and mean square 1 for each channel."""
    return torch.tensor([[0.0], [1.0]]).repeat(1, channels)


def measure(moments: Tensor, latents: Tensor, steps: Tensor) -> None:
    """Update the running moments [2, C] with latents [B, C, h, w]; steps: [] the number of updates so far."""
    found = torch.stack([latents.mean((0, 2, 3)), latents.square().mean((0, 2, 3))])
    moments.lerp_(found.to(moments), 1 / float(steps.clamp(1, LOOK_BACK)))


def mean_and_deviation(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [C] and standard deviation [C] from moments [2, C]."""
    mean, square = moments
    return mean, (square - mean.square()).clamp_min(1e-12).sqrt()


@torch.no_grad()
def standardized(autoencoder: Any, moments: Tensor) -> Any:
    """Return a copy of an autoencoder whose latents, times 0.18215, have mean 0 and standard deviation 1.

    autoencoder: diffusers' AutoencoderKL, whose latents have the given moments [2, C]. Only the 1x1 convolutions before
    and after the latents change.
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
