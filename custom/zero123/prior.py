"""Zero-1-to-3 as a `Prior`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.ranges import Range
from liftstudio.core.registry import register
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.classifier_free import guided_estimate
from liftstudio.priors.latent_prior import LatentPrior, clip_pixels
from liftstudio.priors.parameterization import x0_from_epsilon
from liftstudio.priors.precision import network_dtype
from liftstudio.priors.samplers import ddim_sigmas, nearest_timestep, scaled_linear_levels

from .checkpoint import PUBLISHED, is_zero123, open_folder
from .conditioning import Condition, Convention, relative_poses


@register("zero123")
class Zero123(LatentPrior):
    """Zero-1-to-3: independent views of the object in an input image, at cameras relative to the image's.

    After Liu et al. 2023, "Zero-1-to-3: Zero-shot One Image to 3D Object". The views of a batch are independent. The
    network is given relative angles and distance, but no field of view.
    """

    published = PUBLISHED

    @dataclass
    class Config(Prior.Config):
        resolution: Annotated[int, Range(16)] = 256  # pixels across the images, as in the networks' training
        cameras: Convention = "zero123"  # what the network is told of a view's camera; of Zero123-XL or Stable Zero123

    config: Config
    frames = 0
    guidance_scale = 3.0  # of the released sampler

    def __init__(self, config: Config, *, device: torch.device) -> None:
        parts = open_folder(config.weights)
        shrinkage = 2 ** (len(parts.vae.module.config.block_out_channels) - 1)
        if config.resolution % shrinkage:
            raise InputError(f"resolution: expected a multiple of {shrinkage} pixels, got {config.resolution}")
        super().__init__(config, parts.vae, config.resolution, device=device)
        self.name = f"Zero-1-to-3 ({Path(config.weights).name})"
        if "stable" in Path(config.weights).name and config.cameras != "stable-zero123":
            log.warning("prior: %s by its name needs prior.type=zero123 prior.cameras=stable-zero123", self.name)
        self.levels = scaled_linear_levels()  # of each timestep
        self.sigma_min, self.sigma_max = self.levels[0].item(), self.levels[-1].item()
        self.unet = parts.unet.load(network_dtype(config.precision, device, parts.unet.module), device)
        self.tower = parts.tower
        self.projection = parts.projection.load(torch.float32, device)

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return is_zero123(weights)

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        """Accept any cameras that look at the object."""

    def sigmas(self, steps: int) -> Tensor:
        """Return the noise levels of DDIM, as in the official sampler; see `samplers.ddim_sigmas`."""
        return ddim_sigmas(self.levels, steps)

    @torch.no_grad()
    def condition(self, posed: PosedImage) -> Condition:
        """Return the CLIP embedding and the latents of the input image over white; CLIP is in memory only here."""
        check_shape("posed.image", posed.image, (self.resolution, self.resolution, 3))
        image = posed.image.to(self.device)
        tower = self.tower.load(self.unet.dtype, self.device)
        pixels = clip_pixels(image, tower.config.image_size).to(tower.dtype)
        embedding = tower(pixel_values=pixels).image_embeds[0].float()
        return Condition(embedding, self.posterior(2 * image[None] - 1).mode()[0], posed.camera.to(self.device))

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Condition]) -> Tensor:
        """See `Prior.denoise`; the unconditional branch has zeros for the image's latents and token."""
        latents, sigma = noisy.latents, noisy.sigma
        token, latent = self._tokens(noisy.condition, noisy.cameras), noisy.condition.latent.expand_as(latents)
        scaled, timestep = latents / (1 + sigma**2) ** 0.5, nearest_timestep(self.levels, sigma)

        def estimate(branches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
            context = torch.cat([token for token, _ in branches])
            shown = torch.cat([torch.cat([scaled, latent], dim=1) for _, latent in branches])
            dtype = self.unet.dtype
            epsilon = self.unet(shown.to(dtype), timestep, context.to(dtype)).sample.float()
            return x0_from_epsilon(latents, epsilon.unflatten(0, (len(branches), -1)), sigma)

        nothing = torch.zeros_like(token), torch.zeros_like(latent)
        return guided_estimate(estimate, (token, latent), nothing, noisy.guidance_scale)

    def _tokens(self, condition: Condition, cameras: Cameras) -> Tensor:
        """Return the tokens [T, 1, D] that the network attends to: the image's embedding and the relative cameras."""
        poses = relative_poses(condition.camera, cameras.to(self.device), self.config.cameras)
        embedding = condition.embedding.expand(len(poses), -1)
        return self.projection(torch.cat([embedding, poses], dim=-1))[:, None]
