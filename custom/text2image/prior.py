"""Text-to-image models as `Prior`s."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.registry import register
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras
from liftstudio.priors.base import NoisyViews, Prior
from liftstudio.priors.classifier_free import guided_estimate
from liftstudio.priors.latent_prior import LatentPrior
from liftstudio.priors.network_folders import latent_side
from liftstudio.priors.parameterization import x0_from_epsilon, x0_from_v
from liftstudio.priors.precision import network_dtype
from liftstudio.priors.samplers import ddim_sigmas, nearest_timestep

from .checkpoint import is_latent_unet, is_pixel_unet, read_schedule, unet_part, vae_part
from .text import embed_texts


class TextToImage(Prior):
    """Generates images from a text, independently and without camera control; the folder is in diffusers' format."""

    @dataclass
    class Config(Prior.Config):
        prompt: str = ""  # the object in a few words; taken literally
        negative_prompt: str = ""  # what the object is not

    config: Config
    takes_image = False
    knows_backgrounds = True
    frames = 0
    channels: tuple[int, int]  # of the network, in and out

    def read(self, config: Config, device: torch.device) -> int:
        """Read the noise schedule, embed the texts and load the network; returns the pixels across its latents."""
        if not config.prompt:
            raise InputError("prompt: a text-to-image model needs a text; describe the object")
        self.config, self.device = config, device
        unet = unet_part(config.weights, self.channels, self.published)
        side = latent_side(unet, self.published)
        schedule = read_schedule(config.weights, self.published)
        texts = {"prompt": config.prompt, "negative_prompt": config.negative_prompt}
        self.text = embed_texts(config.weights, texts, device, self.published)
        wanted = unet.module.config.encoder_hid_dim or unet.module.config.cross_attention_dim
        if self.text.shape[-1] != wanted:
            raise InputError(
                f"{config.weights}: expected text tokens {wanted} wide for the UNet, got {self.text.shape[-1]}"
            )
        self.levels, self.prediction = schedule.levels, schedule.prediction
        self.sigma_min, self.sigma_max = self.levels[0].item(), self.levels[-1].item()
        self.unet = unet.load(network_dtype(config.precision, device, unet.module), device)
        return side

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        """Accept any cameras: the network does not depend on them."""

    def sigmas(self, steps: int) -> Tensor:
        """Return the noise levels of DDIM; see `samplers.ddim_sigmas`."""
        return ddim_sigmas(self.levels, steps)

    def condition(self, posed: None) -> Tensor:
        """Return the embeddings [2, L, D] of the prompt and the negative prompt."""
        return self.text

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Tensor]) -> Tensor:
        """See `Prior.denoise`; if the network also predicts a variance, that is ignored."""
        sigma, timestep = noisy.sigma, nearest_timestep(self.levels, noisy.sigma)
        scaled, dtype = noisy.latents / (1 + sigma**2) ** 0.5, self.unet.dtype

        def estimate(texts: Sequence[Tensor]) -> Tensor:
            context = torch.stack(list(texts)).repeat_interleave(len(scaled), dim=0).to(dtype)
            shown = scaled.repeat(len(texts), 1, 1, 1).to(dtype)
            found = self.unet(shown, timestep, context).sample[:, : scaled.shape[1]].float()
            to_x0 = x0_from_v if self.prediction == "v_prediction" else x0_from_epsilon
            return to_x0(noisy.latents, found.unflatten(0, (len(texts), -1)), sigma)

        return guided_estimate(estimate, noisy.condition[0], noisy.condition[1], noisy.guidance_scale)


@register("deepfloyd-if")
class DeepFloydIF(TextToImage):
    """DeepFloyd IF, stage I: images from a text, in pixel space, 64 pixels across."""

    published = (
        "DeepFloyd IF's stage I is at huggingface.co/DeepFloyd/IF-I-XL-v1.0, under its publisher's licence, which must "
        "be accepted there"
    )
    channels = (3, 6)  # the noise and its variance
    guidance_scale = 7.0  # of the released sampler

    def __init__(self, config: TextToImage.Config, *, device: torch.device) -> None:
        self.resolution = self.read(config, device)
        self.latent_shape = (3, self.resolution, self.resolution)
        self.name = f"DeepFloyd IF ({Path(config.weights).name})"

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return is_pixel_unet(weights)

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """See `Prior.encode`; the latents are the pixels."""
        check_shape("images", images, ("T", self.resolution, self.resolution, 3))
        return 2 * images.permute(0, 3, 1, 2) - 1

    def decode(self, latents: Tensor) -> tuple[Tensor, None]:
        """See `Prior.decode`."""
        return (latents.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1), None


@register("stable-diffusion")
class StableDiffusion(TextToImage, LatentPrior):
    """Stable Diffusion 1 or 2, or a model of the same form: images from a text, in the latents of an autoencoder."""

    published = (
        "Stable Diffusion in diffusers' format is at huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, under "
        "the CreativeML Open RAIL-M licence"
    )
    config: TextToImage.Config
    channels = (4, 4)
    guidance_scale = 7.5  # of the released sampler

    def __init__(self, config: TextToImage.Config, *, device: torch.device) -> None:
        vae = vae_part(config.weights, self.published)
        shrinkage = 2 ** (len(vae.module.config.block_out_channels) - 1)
        resolution = shrinkage * self.read(config, device)
        LatentPrior.__init__(self, config, vae, resolution, device=device)
        self.name = f"Stable Diffusion ({Path(config.weights).name})"

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return is_latent_unet(weights)
