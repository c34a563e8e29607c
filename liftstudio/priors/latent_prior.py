"""The base of priors on the latents of an autoencoder, and preprocessing for the CLIP image tower."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.memory import Chunks
from liftstudio.priors.base import Prior
from liftstudio.priors.chunks import frames_at_once
from liftstudio.priors.latent_diffusion import Part

LATENT_SCALE = 0.18215  # factor from the autoencoder's latents to those that are denoised

# OpenAI's CLIP preprocessing.
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class LatentPrior(Prior):
    """A prior on the scaled latents of an autoencoder; it makes no masks."""

    config: Prior.Config

    def __init__(self, config: Prior.Config, vae: Part, resolution: int, *, device: torch.device) -> None:
        """Load the autoencoder; `resolution`: pixels across the images."""
        self.config, self.device, self.resolution = config, device, resolution
        self.chunks = Chunks(self.chunk, "prior.chunk")
        self.vae = vae.load(torch.float32, device)
        side = resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.latent_shape = (self.vae.config.latent_channels, side, side)

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        check_shape("images", images, ("T", self.resolution, self.resolution, 3))
        return LATENT_SCALE * torch.cat(self.chunks.map(lambda chunk: self.posterior(2 * chunk - 1).mode(), images))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> tuple[Tensor, None]:
        check_shape("latents", latents, ("T", *self.latent_shape))
        frames = self.chunks.map(lambda chunk: self.vae.decode(chunk / LATENT_SCALE).sample, latents)
        return (torch.cat(frames).permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1), None

    @property
    def chunk(self) -> int:
        """Number of frames to encode or decode at once."""
        return frames_at_once(self.resolution, self.config.chunk)

    def posterior(self, images: Tensor) -> Any:
        """Return the distribution of unscaled latents [B, 4, h, w] of images [B, R, R, 3] in [-1, 1]."""
        return self.vae.encode(images.permute(0, 3, 1, 2)).latent_dist


def clip_pixels(image: Tensor, size: int) -> Tensor:
    """Return the input [1, 3, size, size] of a CLIP image tower for an image [R, R, 3] in [0, 1].

    The image is resized bicubically with aligned corners, without antialiasing, and normalised.
    """
    pixels = F.interpolate(image.permute(2, 0, 1)[None], (size, size), mode="bicubic", align_corners=True)
    return clip_normalized(pixels)


def clip_normalized(pixels: Tensor) -> Tensor:
    """Normalise pixels [B, 3, H, W] in [0, 1] for a CLIP image tower."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
    return (pixels - mean) / std
